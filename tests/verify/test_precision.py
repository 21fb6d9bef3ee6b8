"""Golden cases in 16 bit against the bands of the published networks, and the rules of the bands."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.models.ltx.latent_upscaler import ClipGroupNorm
from LTX_2_MLX.ops.activation import gelu_tanh, silu
from LTX_2_MLX.verify import Bands, Result, run_case
from LTX_2_MLX.verify.case import Case
from LTX_2_MLX.verify.figures import Figures
from LTX_2_MLX.verify.run import compare_output

GOLDENS = Path(__file__).parents[1] / "goldens"
# One of every kind of network that takes less than two seconds in 16 bit on a CPU.
FAST = (
    "esrgan/srvgg_x3",
    "esrgan/rrdbnet_x8",
    "flashvsr/dit_long_cache",
    "flashvsr/lq_proj_v1",
    "flashvsr/tcdecoder",
    "ltx2/temporal_upscaler_x2/single_frame",
    "ltx2/transformer_video_2_0",
    "ltx2/video_vae_2_3/decode_image",
)
DTYPES = {"bf16": mx.bfloat16, "fp16": mx.float16}


@pytest.mark.parametrize("name", FAST)
def test_case_is_in_its_band_in_bfloat16(name):
    result = run_case(GOLDENS / name, dtype=mx.bfloat16, bands=Bands.read("bf16"))
    assert result.ok, result.reason
    assert result.limits, "no output was held to a band"


@pytest.mark.parametrize("name", FAST)
def test_case_is_in_its_band_in_float16(name):
    result = run_case(GOLDENS / name, dtype=mx.float16, bands=Bands.read("fp16"))
    assert result.ok, result.reason


def test_float32_result_is_far_under_every_band():
    bands = Bands.read("bf16")
    result = run_case(GOLDENS / "esrgan" / "srvgg_x3", bands=bands)
    assert result.ok
    assert result.figures["y"].rms < 1e-5 < result.limits["y"].rms


def case(tmp_path: Path, component: str, content: bytes = b"") -> Case:
    (tmp_path / "io.safetensors").write_bytes(content)
    return Case(path=tmp_path, spec={"component": component}, io={}, scratch=tmp_path)


def table(**component) -> dict:
    floor = {"rms": 0.004, "largest": 0.02}
    factor = {"rms": 1.25, "largest": 2.0}
    return {"factor": factor, "floors": {"bf16": floor}, "components": {"a/b": component}}


def test_case_that_the_table_lacks_gets_the_widest_band_of_outputs_called_alike(tmp_path):
    cases = {
        "one": {"io": "0", "bf16": {"y_0": [0.1, 0.02, 0.99], "z": [0.5, 0.4, 0.9]}},
        "two": {"io": "1", "bf16": {"y_1": [0.05, 0.04, 0.99]}},
    }
    bands = Bands(table(cases=cases), "bf16")
    limit = bands.limit(case(tmp_path, "a/b"), "y_7")
    assert (limit.largest, limit.rms) == (0.2, 0.05)
    assert bands.limit(case(tmp_path, "a/b"), "unknown").rms == 0.5


def test_outputs_that_no_network_computes_are_held_to_float32(tmp_path):
    assert Bands(table(float32="no network"), "bf16").limit(case(tmp_path, "a/b"), "y") is None
    assert Bands(table(exact=["mask.#"], cases={}), "bf16").limit(case(tmp_path, "a/b"), "mask.3") is None


def test_component_without_a_band_is_held_to_the_floor(tmp_path):
    limit = Bands(table(), "bf16").limit(case(tmp_path, "c/d"), "y")
    assert (limit.largest, limit.rms) == (0.02, 0.004)


def test_component_that_was_not_measured_has_the_widest_band_of_the_one_it_is_like(tmp_path):
    measured = {"cases": {"one": {"io": "0", "bf16": {"y": [0.1, 0.02, 0.99], "z": [0.3, 0.01, 0.99]}}}}
    bands = table() | {"components": {"a/b": {"like": ["a/c"]}, "a/c": measured}}
    limit = Bands(bands, "bf16").limit(case(tmp_path, "a/b"), "y")
    assert (limit.largest, limit.rms) == (0.6, 0.025)
    known = json.loads((GOLDENS / "bands.json").read_text())["components"]
    for component in known.values():
        assert all("cases" in known[name] for name in component.get("like", ()))


def test_an_image_may_differ_by_a_level_as_in_float32(tmp_path):
    frames = np.full((2, 3, 4, 3), 100, np.uint8)
    measured = case(tmp_path, "a/b")
    result = Result(case="", component="", ok=True)
    bands = Bands(table(cases={"one": {"io": "0", "bf16": {"frames": [0.001, 0.001, 0.99]}}}), "bf16")
    assert not compare_output(measured, "frames", frames + 1, frames, result, bands)
    assert compare_output(measured, "frames", frames + 3, frames, result, bands)


def test_a_single_number_is_held_to_the_limit_of_the_largest_error(tmp_path):
    bands = Bands(table(cases={"one": {"io": "0", "bf16": {"gap": [0.001, 0.001, 0.99]}}}), "bf16")
    result = Result(case="", component="", ok=True)
    number = np.array([1.0])
    assert not compare_output(case(tmp_path, "a/b"), "gap", number * 1.015, number, result, bands)
    assert compare_output(case(tmp_path, "a/b"), "gap", number * 1.025, number, result, bands)


def test_nan_exceeds_every_limit():
    figures = Figures.of(np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    error, limit = figures.nearest(Figures(largest=1.0, rms=1.0, cosine=-1.0))
    assert not error <= limit


def test_every_component_of_the_table_gives_its_reference_or_a_reason():
    for name, component in json.loads((GOLDENS / "bands.json").read_text())["components"].items():
        assert {"reference", "float32"} & component.keys(), name


@pytest.mark.parametrize("precision", DTYPES)
def test_activations_round_once(precision):
    dtype = DTYPES[precision]
    x = mx.linspace(-6, 6, 4001).astype(dtype)
    values = np.array(x.astype(mx.float32)).astype(np.float64)
    cubed = np.sqrt(2 / np.pi) * (values + 0.044715 * values**3)
    unit = {"bf16": 2.0**-8, "fp16": 2.0**-11}[precision]
    expected = {silu: values / (1 + np.exp(-values)), gelu_tanh: 0.5 * values * (1 + np.tanh(cubed))}
    for activation, wanted in expected.items():
        made = np.array(activation(x).astype(mx.float32))
        assert (np.abs(made - wanted) <= unit * np.abs(wanted) + 1e-6).all()


def test_group_norm_rounds_once():
    norm = ClipGroupNorm(64)
    norm.weight, norm.bias = (mx.random.normal((64,)).astype(mx.bfloat16) for _ in range(2))
    x = mx.random.normal((1, 2, 5, 7, 64)).astype(mx.bfloat16)
    made = norm(x)
    norm.set_dtype(mx.float32)
    expected = norm(x.astype(mx.float32)).astype(mx.bfloat16)
    assert mx.array_equal(made, expected)
