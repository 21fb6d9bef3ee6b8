from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import LTX_2_MLX
from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.writer import RunRecord
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.pipelines.generate import Options, generate
from LTX_2_MLX.pipelines.generation.options import SMALLEST_CELL
from LTX_2_MLX.pipelines.generation.record import options_from
from LTX_2_MLX.pipelines.options import declared_options, options_of
from LTX_2_MLX.pipelines.requests import (
    VAE_TYPES,
    InterpolateRequest,
    PostprocessRequest,
    SuperResolveRequest,
    UpscaleRequest,
    UpscaleTemporalRequest,
)
from LTX_2_MLX.pipelines.super_resolve.decoders import ALIASES, DECODERS

DEMO = Path(__file__).parents[2] / "weights" / "demo"
REQUESTS = [InterpolateRequest, UpscaleRequest, UpscaleTemporalRequest, PostprocessRequest, SuperResolveRequest]


def as_recorded(value):
    """The value in a record, where text of a number is that number."""
    return "many" if value in ("64", "8") else value


@pytest.mark.parametrize(
    "given",
    [
        {"height": "64"}, {"height": 64.0}, {"frames": True}, {"cfg": "strong"}, {"seed": "a"}, {"seed": 1.5},
        {"weights": None}, {"weights": 3}, {"image": 3}, {"lora": "a.safetensors"}, {"lora": [3]}, {"low_ram": "no"},
        {"pipeline": 2}, {"prompt": 7}, {"fps": True}, {"quantize": "8"},
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused_by_name(given):
    (name, value), *_ = given.items()
    with pytest.raises(RequestError, match=name) as caught:
        LTX_2_MLX.generate(**{"prompt": "A ball"} | given)
    shown = value[0] if isinstance(value, list) else value
    assert repr(shown) in str(caught.value) and "expected" in str(caught.value)
    with pytest.raises(RequestError, match=name):
        options_from(RunRecord({"prompt": "A ball"} | {name: as_recorded(value)}), {})


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"height": np.int64(64)}, 64), ({"cfg": 3}, 3.0), ({"cfg": np.float32(3)}, 3.0), ({"fps": 24}, Fraction(24)),
        ({"fps": "24000/1001"}, Fraction(24000, 1001)), ({"fps": np.float64(12.5)}, Fraction(25, 2)),
        ({"embeddings": "a"}, Path("a")), ({"embeddings": "~/a"}, Path.home() / "a"),
        ({"lora": ["a", Path("b")]}, ("a", "b")), ({"height": None}, None), ({"low_ram": np.bool_(True)}, True),
        ({"weights": Path("a/b.safetensors")}, "a/b.safetensors"), ({"seed": np.uint32(3)}, 3),
    ],
)  # fmt: skip
def test_values_are_brought_to_the_type_of_their_field(given, taken):
    (name, _), *_ = given.items()
    value = getattr(Options("A ball", **given), name)
    assert value == taken and type(value) is type(taken)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fps": "1e400"}, "--fps is 1e400"), ({"fps": "1e99999999"}, "above 0 up to 1000"), ({"fps": "1/0"}, "--fps"),
        ({"fps": "9" * 400_000}, "--fps is 999"), ({"cfg": 10**400}, "finite"), ({"cfg": float("nan")}, "--cfg is nan"),
        ({"width": 10**4000}, "more than 60 digits"), ({"prompt": "caf\udce9"}, "UTF-8"),
        ({"negative_prompt": "\ud800"}, "UTF-8"), ({"frames": 8 * 10**18}, "--frames"),
    ],
)  # fmt: skip
def test_values_that_would_crash_are_refused_in_one_short_line(given, words):
    with pytest.raises(RequestError, match=words) as caught:
        Options(**{"prompt": "A ball"} | given)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"height": 7}, r"--height is 7, but it must be a multiple of 32, or of 16 with the demo model\. Use 32\."),
        ({"width": 70}, r"--width is 70.* Use 64 \(or 96\)\."),
        ({"output_height": 8}, r"--output-height is 8.* Use 32\."),
        ({"frames": 12}, r"--frames is 12, but it must be 8k \+ 1, or 4k \+ 1 with the demo model\. Use 9 \(or 17\)\."),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_files_are_opened(given, words):
    with pytest.raises(RequestError, match=words):
        Options("A ball", **given)
    # A model that is named may have others.
    Options("A ball", weights="mine.safetensors", **given)


def test_sizes_that_suit_a_model_are_left_to_it():
    Options("A ball", height=80, width=96, frames=13)


def test_the_demo_model_has_the_smallest_cell():
    config = config_of(VideoDecoder, Checkpoint(DEMO / "ltx-2-demo-dev.safetensors"))
    assert config.decoder_compression == SMALLEST_CELL


def test_precision_is_a_flag_or_a_value():
    assert options_of(Options, {"fp16": True, "bf16": False}, "generate") == {"precision": "fp16"}
    assert options_of(Options, {"fp16": True, "precision": "fp16"}, "generate") == {"precision": "fp16"}
    for given in ({"fp16": True, "bf16": True}, {"fp16": True, "precision": "bf16"}):
        with pytest.raises(RequestError, match="cannot go together"):
            options_of(Options, given, "generate")
    with pytest.raises(RequestError, match="bf15"):
        LTX_2_MLX.generate("A ball", precision="bf15")


def test_unknown_options_are_refused_with_those_that_are_known():
    with pytest.raises(RequestError, match="generate has no option colour") as caught:
        generate("A ball", colour="blue")
    with pytest.raises(TypeError, match="colour"):
        LTX_2_MLX.generate("A ball", colour="blue")
    assert "guidance_start, height, image" in str(caught.value)


@pytest.mark.parametrize("request_class", [Options, *REQUESTS], ids=lambda r: r.__name__)
def test_every_default_is_of_its_own_fields_type(request_class):
    usual = request_class(prompt="A ball") if request_class is Options else request_class()
    assert request_class(**asdict(usual)) == usual


@pytest.mark.parametrize("request_class", [Options, *REQUESTS], ids=lambda r: r.__name__)
def test_options_that_refer_to_others_name_options_that_are_there(request_class):
    declared = declared_options(request_class)
    for option in declared.values():
        assert set(option.opt.replaces) <= declared.keys()
        assert set(option.opt.needs) <= declared.keys()
        assert option.opt.help.endswith(".")


def test_decoders_that_can_be_named_are_those_that_there_are():
    assert set(VAE_TYPES) == {*DECODERS, *ALIASES}
