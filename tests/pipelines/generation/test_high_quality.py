"""The high-quality pipeline and the samplers."""

import numpy as np
import pytest

import LTX_2_MLX
from LTX_2_MLX.diffusion.sampler import REFINEMENT, ltx2_schedule
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.writer import RunRecord
from LTX_2_MLX.pipelines.generate import Options, record_of, request_for, stages_for
from LTX_2_MLX.pipelines.generation.record import options_from


@pytest.fixture
def given(files):
    """Options of nine small frames."""
    return {
        "pipeline": "hq",
        "weights": str(files.weights),
        "model_variant": "dev",
        "gemma": str(files.gemma),
        "spatial_upscaler_weights": str(files.spatial),
        "distilled_lora": str(files.lora),
        "height": 64,
        "width": 96,
        "frames": 9,
    }


def denoising(options):
    return [stage for stage in stages_for(request_for(options)) if stage.gives == "latents" and "stage" in stage.name]


def test_high_quality_pipeline_has_the_settings_of_the_reference(given):
    first, second = denoising(Options("A ball", **given))
    video, audio = first.guidance["video"], first.guidance["audio"]
    assert (video.guidance_scale, audio.guidance_scale, video.modality_scale, video.stg_scale) == (3, 7, 3, 0)
    assert (video.guidance_rescale, audio.guidance_rescale) == (0.45, 1.0)
    assert [stage.sampler for stage in (first, second)] == ["res-2s", "res-2s"]
    assert [stage.loras[-1].strength for stage in (first, second)] == [0.25, 0.5]
    # The schedule follows from stage 1's latent of 2 by 2 by 3.
    assert np.allclose(first.sigmas, ltx2_schedule(15, num_tokens=12), atol=0)
    assert second.sigmas == REFINEMENT
    # Two evaluations in each step and one at the end, of three passes; stage 2 is not guided.
    assert (first.num_calls, second.num_calls) == ((2 * 15 + 1) * 3, 2 * 3 + 1)


def test_strength_of_the_adapter_multiplies_those_of_the_stages(given):
    own = given | {"distilled_lora": f"{given['distilled_lora']}:0.8"}
    assert [stage.loras[-1].strength for stage in denoising(Options("A ball", **own))] == [0.2, 0.4]


def test_high_quality_video_is_made_resumed_and_repeated(given, tmp_path):
    changes = {"steps_stage1": 2, "steps_stage2": 1, "audio": False}
    video = LTX_2_MLX.generate("A ball", **given, **changes, save_latents=tmp_path)
    frames = np.concatenate(list(video))
    assert frames.shape == (9, 128, 192, 3) and frames.std() > 1
    (tmp_path / "stage_2.safetensors").unlink()
    again = LTX_2_MLX.generate("A ball", **given, **changes, resume=tmp_path)
    assert np.array_equal(frames, np.concatenate(list(again)))
    options = Options("A ball", **given, **changes)
    request = request_for(options)
    record = record_of(options, request, stages_for(request))
    repeated = options_from(RunRecord(record.request, record.files, record.automatic, source=tmp_path), {})
    assert repeated.pipeline == "hq" and request_for(repeated).guidance == request.guidance


def test_distilled_checkpoint_is_refused(given):
    with pytest.raises(RequestError, match="--pipeline hq needs a dev checkpoint"):
        request_for(Options("A ball", **given | {"model_variant": "distilled"}))


@pytest.mark.parametrize("sampler", ["euler", "ancestral", "gradient-estimation", "res-2s"])
def test_sampler_is_that_of_the_first_stage_and_of_both_in_high_quality(given, sampler):
    assert [stage.sampler for stage in denoising(Options("A ball", **given, sampler=sampler))] == [sampler] * 2
    own = given | {"pipeline": "two-stage"}
    assert [stage.sampler for stage in denoising(Options("A ball", **own, sampler=sampler))] == [sampler, "euler"]
