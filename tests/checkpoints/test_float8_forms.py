"""8-bit floats in the forms of ComfyUI, and files of other tools that are refused with the file to use."""

import json
import shutil
import struct
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from LTX_2_MLX.checkpoints.convert import convert
from LTX_2_MLX.checkpoints.load import load, weights_bytes
from LTX_2_MLX.checkpoints.quantization import decode_e4m3
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError

FILES = Path(__file__).parents[1] / "cases" / "float8"
START = "model.diffusion_model."
CODES = np.arange(8, 23, dtype=np.uint8)
VALUES = np.array(decode_e4m3(mx.array(CODES))).reshape(5, 3)
SETTING = json.dumps({"format": "float8_e4m3fn"}).encode()


def scale(name, value=0.25):
    return {f"{START}first.{name}": ("F32", [1], struct.pack("<f", value))}


def setting(text=SETTING):
    return {f"{START}first.comfy_quant": ("U8", [len(text)], text)}


MARKERS = [{f"{START}scaled_fp8": ("F8_E4M3", [0], b"")}, {f"{START}scaled_fp8": ("F8_E4M3", [2], b"\x00\x38")}]
OLD = scale("scale_weight") | scale("scale_input", 7)
NEW = scale("weight_scale") | scale("input_scale", 7) | setting()


@pytest.fixture
def stored(write_raw, layer_arrays):
    """``stored(extra)``: the small file with the first weight in 8 bits and further tensors."""

    def build(extra, dtype="F8_E4M3"):
        tensors = {n: ("F32", list(v.shape), v.tobytes()) for n, v in layer_arrays.items()}
        tensors[f"{START}first.weight"] = (dtype, [5, 3], CODES.tobytes())
        return write_raw("float8.safetensors", tensors | extra)

    return build


@pytest.mark.parametrize("extra", [OLD, OLD | MARKERS[0], OLD | MARKERS[1], NEW, scale("scale_weight")])
def test_scales_of_every_form_are_applied(stored, layers, tmp_path, extra):
    path = stored(extra)
    np.testing.assert_array_equal(load(layers, Checkpoint(path), dtype=mx.float32).first.weight, VALUES * 0.25)
    assert weights_bytes(layers, Checkpoint(path), dtype=mx.float32) == 4 * (15 + 5 + 10)
    written = load_file(convert(path, tmp_path / "out.safetensors", dtype=mx.float32))
    assert set(written) == {f"{START}{name}" for name in ("first.weight", "first.bias", "second.0.weight")}
    np.testing.assert_array_equal(written[f"{START}first.weight"], VALUES * 0.25)


def test_converted_file_of_comfyui_holds_the_right_values(tmp_path):
    right = load_file(FILES / "right_f32.safetensors")
    written = load_file(convert(FILES / "scaled.safetensors", tmp_path / "out.safetensors", dtype=mx.float32))
    assert written.keys() == right.keys()
    for name, values in right.items():
        np.testing.assert_array_equal(written[name], values)


@pytest.mark.parametrize(
    ("extra", "dtype", "kind"),
    [
        (scale("weight_scale") | scale("weight_scale_2"), "U8", "nvfp4"),
        (scale("weight_scale") | setting(b'{"format": "int8_tensorwise", "convrot": true}'), "I8", "int8"),
        (scale("weight_scale") | setting(b'{"format": "mxfp8"}'), "F8_E4M3", "'mxfp8' of ComfyUI"),
        (scale("weight_scale") | setting(b"{"), "F8_E4M3", "'unreadable' of ComfyUI"),
        (scale("scale_weight"), "U8", "scale of a weight that is not in 8-bit floats"),
    ],
)
def test_other_quantisations_are_refused_with_the_file_to_use(stored, layers, tmp_path, extra, dtype, kind):
    path = stored(extra, dtype)
    for attempt in (
        lambda: load(layers, Checkpoint(path)),
        lambda: convert(path, tmp_path / "out.safetensors", dtype=mx.float32),
    ):
        with pytest.raises(CheckpointError) as caught:
            attempt()
        text = str(caught.value)
        assert kind in text and "\n" not in text and ("ltx-2-19b-distilled" in text or "16-bit one" in text)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "tensors", "kind", "instead"),
    [
        ("diffusion_pytorch_model.safetensors",
         {"proj_in.weight": (2, 3), "time_embed.emb.timestep_embedder.linear_1.weight": (2, 2)},
         "a transformer of diffusers", "ltx-2-19b-distilled"),
        ("ltxv-2b-0.9.8-dev.safetensors",
         {f"{START}patchify_proj.weight": (2, 3), f"{START}caption_projection.linear_1.weight": (2, 4096)},
         "LTX-Video 0.9", "ltx-2-19b-dev"),
    ],
)  # fmt: skip
def test_other_models_are_refused_with_the_file_to_use(write, layers, name, tensors, kind, instead):
    path = write(name, {tensor: np.zeros(shape, np.float32) for tensor, shape in tensors.items()})
    with pytest.raises(CheckpointError, match=kind) as caught:
        load(layers, Checkpoint(path))
    assert str(caught.value).endswith(f" {instead}")


def test_gguf_is_refused_by_its_content(tmp_path):
    path = tmp_path / "ltx-2-19b-distilled-Q4_K_M.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    shutil.copy(path, tmp_path / "renamed.safetensors")
    for file in (path, tmp_path / "renamed.safetensors"):
        with pytest.raises(CheckpointError, match=r"is a GGUF file.*Use a \.safetensors file"):
            Checkpoint(file)
