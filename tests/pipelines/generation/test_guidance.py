"""Guidance that options and generations lead to."""

from dataclasses import asdict

import numpy as np
import pytest
import tiny_checkpoints

from LTX_2_MLX.diffusion.sampler import Guidance, both_streams, passes
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.writer import RunRecord
from LTX_2_MLX.pipelines.generate import Options, record_of, request_for, stages_for
from LTX_2_MLX.pipelines.generation.record import options_from
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime.runner import StageRunner, run_stages


@pytest.fixture(scope="module")
def newer(files):
    """A checkpoint of 2.3."""
    return tiny_checkpoints.write_weights(files.folder / "guided-2.3.safetensors", generation="2.3")


@pytest.fixture
def options_of(files, newer):
    """``options_of(generation, **changes)``: nine small frames."""

    def options(generation="2.3", **changes):
        weights = {"2.0": files.weights, "2.3": newer, "video": files.video_only}[generation]
        fields = {
            "pipeline": "one-stage",
            "weights": str(weights),
            "model_variant": "dev",
            "gemma": str(files.gemma),
            "height": 64,
            "width": 96,
            "frames": 9,
        }
        return Options("A blue ball", **fields | changes)

    return options


def differing(guidance):
    """The fields that are not those of no guidance."""
    return {name: value for name, value in asdict(guidance).items() if value != asdict(Guidance())[name]}


def test_newer_generation_takes_the_guidance_of_the_reference(options_of):
    notes = []
    request = request_for(options_of(), notes.append)
    both = {"stg_scale": 1.0, "stg_blocks": (1,), "modality_scale": 3.0, "guidance_rescale": 0.7}
    assert differing(request.guidance["video"]) == {"guidance_scale": 3.0, **both}
    assert differing(request.guidance["audio"]) == {"guidance_scale": 7.0, **both}
    line = "Guidance: --cfg 3 --audio-cfg 7 --stg-scale 1 --stg-blocks 1 --modality-scale 3 --guidance-rescale 0.7"
    assert notes[-1] == line
    assert len(stages_for(request)[-2].sigmas) == 31


def test_first_generation_keeps_plain_guidance_of_both_streams(options_of):
    request = request_for(options_of("2.0"))
    assert request.guidance == both_streams(Guidance(guidance_scale=5.0))
    assert request_for(options_of("2.0", cfg=4.0)).guidance["audio"].guidance_scale == 4.0


def test_distilled_checkpoint_of_the_newer_generation_is_not_guided(options_of):
    request = request_for(options_of(model_variant="distilled"))
    assert request.guidance == both_streams(Guidance())
    guided = request_for(options_of(model_variant="distilled", cfg=2.0))
    assert guided.guidance == both_streams(Guidance(guidance_scale=2.0))


def test_guidance_of_text_is_turned_off_in_both_streams(options_of):
    request = request_for(options_of(cfg=1.0))
    assert request.guidance["audio"].guidance_scale == 1.0 and "negative" not in passes(request.guidance)
    assert "negative" in passes(request_for(options_of(cfg=1.0, audio_cfg=2.0)).guidance)


def test_each_stream_has_bypassed_blocks_of_its_own(options_of):
    request = request_for(options_of("2.0", stg_scale=1.0, stg_blocks=[0, 1], audio_stg_blocks=[1]))
    assert request.guidance["video"].stg_blocks == (0, 1) and request.guidance["audio"].stg_blocks == (1,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stg_blocks": [2]}, "--stg-blocks is 2, but this checkpoint has blocks 0 to 1"),
        ({"audio_stg_blocks": [-1]}, "--audio-stg-blocks is -1"),
        ({"generation": "video", "audio_cfg": 3.0}, "--audio-cfg is given, but video.safetensors has no audio stream"),
        ({"generation": "video", "modality_scale": 3.0}, "--modality-scale is given"),
    ],
)
def test_what_a_checkpoint_does_not_have_is_refused(options_of, changes, message):
    with pytest.raises(RequestError, match=message):
        request_for(options_of(**changes))


def test_interval_without_steps_is_refused(options_of):
    with pytest.raises(RequestError, match=r"--guidance-start is 0\.5, but --guidance-end is 0\.5"):
        options_of(guidance_start=0.5, guidance_end=0.5)


@pytest.mark.parametrize("generation", ["2.0", "2.3", "video"])
def test_record_repeats_the_guidance(options_of, generation, tmp_path):
    options = options_of(generation, stg_scale=2.0, guidance_end=0.5)
    request = request_for(options)
    record = record_of(options, request, stages_for(request))
    again = options_from(RunRecord(record.request, record.files, record.automatic, source=tmp_path), {})
    assert request_for(again).guidance == request.guidance and again.guidance_end == 0.5


def test_interval_limits_the_passes_that_are_planned_and_made(options_of):
    shares = {"none": {"cfg": 1.0}, "half": {"guidance_end": 0.5}, "all": {}}
    calls, videos = {}, {}
    for name, changes in shares.items():
        stages = stages_for(request_for(options_of("2.0", steps=2, **changes)))
        calls[name] = stages[-2].num_calls
        videos[name] = np.concatenate(list(run_stages(stages, StageRunner(), GenerationState())))
    assert calls == {"none": 2, "half": 3, "all": 4}
    assert not np.array_equal(videos["half"], videos["all"])
    assert not np.array_equal(videos["half"], videos["none"])
