"""The arguments of a golden case's call are read from its parameters, and from nowhere else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.media.frames import to_unit
from LTX_2_MLX.pipelines.upscale import NETWORKS, Tiles, upscale_pixels
from LTX_2_MLX.verify import run_case
from LTX_2_MLX.verify.case import Case
from LTX_2_MLX.verify.esrgan import RUN_NAME

GOLDENS = Path(__file__).parents[1] / "goldens"
# Case, parameter, another value: with it the case must fail.
OTHER_VALUES = [
    ("esrgan/denoise_strength", "weak_seed", 1046),
    ("esrgan/procedure", "tile", 15),
    ("esrgan/procedure", "tile_context", 4),
    ("esrgan/procedure_author", "pre_pad", 8),
    ("esrgan/procedure_author", "tile", 18),
    ("flashvsr/dit_empty_rows", "topk_ratio", 0.7),
    ("flashvsr/lq_proj_v1", "version", "1.1"),
    ("flashvsr/preprocess", "frames", [1, 5]),
    ("flashvsr/rope", "start", 83),
    ("flashvsr/tiled_vae", "tile_stride", [2, 4]),
    ("ltx2/conditioning", "kf", [9, 16]),
    ("ltx2/conditioning", "latent_index", 0),
    ("ltx2/conditioning", "reference_attention_strength", 0.5),
    ("ltx2/conditioning", "strengths", {"mask": [0.7]}),
    ("ltx2/gemma_tiny", "max_length", 96),
    ("ltx2/patchify_positions", "compression", [8, 32, 16]),
    ("ltx2/pipeline_one_stage_t2v", "steps", 4),
    ("ltx2/schedules", "apg", {"eta": 0.5}),
    ("ltx2/schedules", "terminal", {"terminal": 0.2}),
    ("ltx2/transformer_av_2_0", "bypass_blocks", {"video": [1], "audio": [0, 1]}),
    ("ltx2/video_vae_tiled/decode_counts", "tiling", {"frames": [3, 1], "height": [2, 1], "width": [2, 1],
                                                      "by": "count"}),
    ("ltx2/video_vae_tiled/encode", "tiling", {"frames": [24, 16], "height": [0, 0], "width": [96, 32], "by": "size"}),
    ("ltx2/video_vae_tiled/plan_real", "plans", {"default": [13, 30, 45]}),
    ("rife/ifnet_4_22_lite", "runs", {"t50_s1": {"fraction": 0.4, "scale": 1.0}}),
    ("rife/procedure", "runs", {"exp1_scale05": {"exp": 1, "scale": 1.0}}),
    ("rife/procedure_scene", "scale", 0.5),
]  # fmt: skip


@pytest.fixture
def copied(tmp_path):
    """Copy a case and change its ``case.json``."""

    def copy(name: str, change) -> Path:
        path = tmp_path / "case"
        shutil.copytree(GOLDENS / name, path)
        spec = json.loads((path / "case.json").read_text())
        change(spec)
        (path / "case.json").write_text(json.dumps(spec))
        return path

    return copy


@pytest.mark.parametrize(("name", "parameter", "value"), OTHER_VALUES)
def test_case_fails_with_another_value_of_a_parameter(copied, name, parameter, value):
    def change(spec):
        arguments = spec["call"] if "call" in spec else spec["metadata"]["parameters"]
        if isinstance(value, dict) and parameter in ("strengths", "runs", "plans"):
            arguments[parameter] |= value
        else:
            arguments[parameter] = value

    assert not run_case(copied(name, change)).ok


@pytest.mark.parametrize("name", ["ltx2/video_vae_tiled/decode", "ltx2/transformer_video_2_0", "esrgan/procedure"])
def test_case_passes_without_its_notes(copied, name):
    result = run_case(copied(name, lambda spec: spec.pop("notes")))
    assert result.ok, result.reason


def test_missing_parameter_is_named(copied):
    result = run_case(copied("esrgan/procedure", lambda spec: spec["metadata"]["parameters"].pop("tile")))
    assert "'tile'" in result.reason


@pytest.mark.parametrize(
    ("output", "scale", "tiled"),
    [("x4", "4", None), ("x2_5.frames", "2_5", None), ("x2_5_tiled", "2_5", "_tiled"), ("x4_float_sub", "4", None)],
)
def test_scale_is_read_from_the_beginning_of_an_outputs_name(output, scale, tiled):
    match = RUN_NAME.match(output)
    assert (match["scale"], match["tiled"]) == (scale, tiled)


def test_fractional_scale_in_tiles_is_computed(copied, tmp_path):
    path = copied("esrgan/procedure", lambda spec: None)
    io = load_file(path / "io.safetensors")
    frames = io["input.frames"]
    network = load(NETWORKS, Case.open(path, tmp_path).checkpoint())
    pixels = np.array(upscale_pixels(network, to_unit(frames), 2.5, Tiles(tile=16, context=3)))
    levels = np.floor(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    save_file({"input.frames": frames, "output.x2_5_tiled.frames": levels}, path / "io.safetensors")
    result = run_case(path)
    assert result.ok, result.reason
    assert set(result.outputs) == {"x2_5_tiled.frames"}
