"""The plan of detail-fidelity rendering beside what its stages take."""

from functools import partial

import numpy as np
import pytest
import tiny_checkpoints
import tiny_split_files
from memory_peaks import largest_peaks
from PIL import Image

from LTX_2_MLX.pipelines.generate import Options, generate_video, prepare
from LTX_2_MLX.pipelines.generation.prompt import prompt_stages
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime.runner import StageRunner, run_stages
from LTX_2_MLX.runtime.this_machine import memory_limits

# Height, width, frames before the rounds.
SIZES = [(128, 128, 9), (128, 256, 25)]
TOLERANCE = 0.15


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """``asked(**changes)``: every stage there is beside those of the prompt and the sound."""
    folder = tmp_path_factory.mktemp("files")
    split = tiny_split_files.write_split_files(
        folder,
        num_layers=3,
        attention_head_dim=48,
        cross_attention_dim=192,
        connector_attention_head_dim=48,
        audio_attention_head_dim=24,
        audio_cross_attention_dim=96,
        audio_connector_attention_head_dim=24,
    )
    pixels = np.random.default_rng(0).integers(0, 255, (120, 180, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    saved = folder / "prompt.safetensors"
    options = partial(
        Options,
        "a red ball",
        pipeline="dfr",
        rounds=1,
        spatial_doubling=True,
        weights=str(split.transformer),
        video_vae=str(split.conv_vae),
        model_variant="distilled",
        spatial_upscaler_weights=str(tiny_checkpoints.write_upscaler(folder / "spatial.safetensors", mid_channels=64)),
        temporal_weights=str(
            tiny_checkpoints.write_upscaler(folder / "temporal.safetensors", temporal=True, mid_channels=64)
        ),
        detailing_lora=str(tiny_split_files.write_detailing_lora(folder / "detailing.safetensors", split.transformer)),
        image=folder / "picture.png",
        precision="fp32",
    )
    request = prepare(options(gemma=str(split.gemma), save_embeddings=saved, height=128, width=128, frames=9)).request
    run_stages(prompt_stages(request), StageRunner(), GenerationState())
    return partial(options, embeddings=saved)


def run(options: Options, runner: StageRunner) -> np.ndarray:
    prepared = prepare(options)
    with memory_limits():
        return np.concatenate([np.array(chunk) for chunk in generate_video(prepared.request, runner, options)])


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "frames"), SIZES)
def test_predicted_peak_of_every_stage_is_within_15_percent_of_the_measured_one(asked, height, width, frames):
    options = asked(height=height, width=width, frames=frames)
    expected = {stage.name: stage.peak_bytes for stage in prepare(options).plan.stages}
    measured = largest_peaks(partial(run, options), expected, most=1 + TOLERANCE)
    assert measured.keys() == expected.keys()
    ratios = {name: expected[name] / measured[name] for name in measured}
    assert {name: ratio for name, ratio in ratios.items() if abs(ratio - 1) > TOLERANCE} == {}


def test_quantized_layers_change_the_video_little(asked):
    small = {"height": 64, "width": 64, "frames": 9, "spatial_doubling": False}
    plain = run(asked(**small), StageRunner()).astype(int)
    quantized = run(asked(**small, quantize=8), StageRunner())
    assert 0 < np.abs(quantized - plain).mean() < 4
