import itertools
from dataclasses import replace

import numpy as np
import pytest
import tiny_checkpoints
from memory_peaks import largest_peaks
from PIL import Image

from LTX_2_MLX.pipelines.generate import Options, generate_video, plan_for, request_for
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.runtime.this_machine import memory_limits

# Stage 1: height, width, frames. The video is twice as high and wide and has 2 N - 1 frames.
SIZES = [(64, 96, 9), (96, 64, 25), (96, 128, 17), (128, 96, 33), (160, 128, 25)]
TOLERANCE = 0.15


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Every stage there is: text, image, two stages with an adapter, both upscalers, frames."""
    folder = tmp_path_factory.mktemp("files")
    section = tiny_checkpoints.transformer_section(
        num_layers=3,
        attention_head_dim=48,
        cross_attention_dim=192,
        audio_attention_head_dim=24,
        audio_cross_attention_dim=96,
    )
    weights = tiny_checkpoints.write_weights(
        folder / "weights.safetensors",
        transformer=section,
        vae=tiny_checkpoints.vae_section(decoder_base_channels=8),
    )
    tiny_checkpoints.write_upscaler(folder / "spatial.safetensors", mid_channels=64)
    tiny_checkpoints.write_upscaler(folder / "temporal.safetensors", temporal=True, mid_channels=64)
    pixels = np.random.default_rng(0).integers(0, 255, (120, 180, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return Options(
        "a red ball",
        steps_stage1=1,
        steps_stage2=1,
        cfg=3.0,
        weights=str(weights),
        spatial_upscaler_weights=str(folder / "spatial.safetensors"),
        temporal_weights=str(folder / "temporal.safetensors"),
        temporal_upscale=True,
        distilled_lora=str(tiny_checkpoints.write_lora(folder / "lora.safetensors", weights)),
        gemma=str(tiny_checkpoints.write_gemma(folder / "gemma")),
        image=folder / "picture.png",
        precision="fp32",
    )


def _planned(options, height, width, frames, **changes):
    options = replace(options, height=height, width=width, frames=frames, **changes)
    return plan_for(request_for(options), options)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "frames"), SIZES)
def test_predicted_peak_of_every_stage_is_within_15_percent_of_the_measured_one(options, height, width, frames):
    asked = replace(options, height=height, width=width, frames=frames)
    expected = {stage.name: stage.peak_bytes for stage in _planned(options, height, width, frames).stages}

    def run(runner: StageRunner) -> None:
        with memory_limits():
            for _ in generate_video(request_for(asked), runner, asked):
                pass

    measured = largest_peaks(run, expected, most=1 + TOLERANCE)
    assert measured.keys() == expected.keys() and len(measured) == 8
    ratios = {name: expected[name] / measured[name] for name in measured}
    assert {name: ratio for name, ratio in ratios.items() if abs(ratio - 1) > TOLERANCE} == {}


@pytest.mark.parametrize("changes", [{}, {"quantize": 8}, {"low_ram": True}, {"precision": "fp16"}])
def test_peak_never_falls_as_the_video_grows(options, changes):
    heights, widths, frames = (64, 160, 1088), (64, 704, 1280), (9, 97, 257)

    def peaks(*size):
        return {stage.name: stage.peak_bytes for stage in _planned(options, *size, **changes).stages}

    found = {size: peaks(*size) for size in itertools.product(heights, widths, frames)}
    for size, larger in itertools.permutations(found, 2):
        if sum(a != b for a, b in zip(size, larger, strict=True)) == 1 and larger > size:
            assert all(found[size][name] <= found[larger][name] for name in found[size]), (size, larger)
