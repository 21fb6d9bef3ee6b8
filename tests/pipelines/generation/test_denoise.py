"""Denoising stage: schedules, conditioning, samplers, and its time against published measurements."""

import gzip
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest

from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.sampler import DISTILLED, REFINEMENT, Guidance, both_streams, ltx2_schedule, stretched
from LTX_2_MLX.diffusion.state import seeded_noise
from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.layers.transformer import Attention
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.ltx.config import transformer_operations
from LTX_2_MLX.models.ltx.transformer import Transformer, TransformerBlock, TransformerConfig
from LTX_2_MLX.pipelines.generation.embeddings import load_contexts
from LTX_2_MLX.pipelines.generation.image import image_stage
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace
from LTX_2_MLX.pipelines.generation.prompt import prompt_stages
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.pipelines.two_stage import first_stage, refinement_stage
from LTX_2_MLX.planning.plan import seconds_of
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.runtime.runner import StageRunner, run_stages

MANIFEST = Path(__file__).parents[2] / "manifests" / "ltx-2-19b-distilled.safetensors.transformer.json.gz"
UNGUIDED = Guidance()


def run(stage, request, images=None):
    """The stage's latents, from the request's saved contexts and the given images."""
    state = GenerationState(contexts=load_contexts(request), images=images or {})
    return stage.run(StageRunner(), state).latents


def test_guidance_of_one_encodes_one_prompt_and_calls_the_network_once_a_step(request_of, monkeypatch):
    calls = []
    plain_call = Transformer.__call__

    def counting(self, *args, **options):
        calls.append(args)
        return plain_call(self, *args, **options)

    monkeypatch.setattr(Transformer, "__call__", counting)
    request = request_of(guidance=both_streams(UNGUIDED), embeddings=None, steps=3)
    stages = [*prompt_stages(request), first_stage(request, "denoise")]
    state = run_stages(stages, StageRunner(), GenerationState())
    assert state.contexts.keys() == {"positive.video", "positive.audio"} and state.text is None
    assert len(calls) == 3


def test_keys_and_values_of_the_text_are_computed_once_where_they_fit(request_of, monkeypatch):
    computed = []
    plain = Attention.keys_values
    monkeypatch.setattr(Attention, "keys_values", lambda self, context: computed.append(self) or plain(self, context))
    kept = first_stage(request_of(steps=4), "denoise")
    weights, activations, kept_bytes = kept._memory()
    network = config_of(Transformer, kept.models.weights)
    prompts, length = kept.context_size
    blocks, width = network.num_layers, network.video.width + network.audio.width
    assert prompts == 2 and kept_bytes == blocks * 2 * prompts * length * width * 4
    assert kept.estimate().peak_bytes == weights + activations + kept_bytes
    with_kept = run(kept, request_of())
    once = len(computed)
    computed.clear()
    anew = replace(kept, budget=weights + activations + kept_bytes - 1)
    assert anew.estimate().peak_bytes == weights + activations
    without = run(anew, request_of())
    # In each block of each of 8 passes: two attentions to the stream itself, two between streams, two to the text.
    assert (once, len(computed)) == (8 * blocks * 4 + 2 * blocks * 2, 8 * blocks * 6)
    for name, latent in without.items():
        assert mx.array_equal(with_kept[name], latent)


def test_close_steps_reuse_block_outputs_below_the_limit_alone(request_of, monkeypatch):
    calls, notes = [], []
    plain = TransformerBlock.__call__
    monkeypatch.setattr(TransformerBlock, "__call__", lambda *given: calls.append(1) or plain(*given))

    def made(limit):
        calls.clear()
        progress = SilentProgress()
        progress.note = notes.append
        stage = first_stage(request_of(steps=6, step_cache=limit), "denoise")
        state = GenerationState(contexts=load_contexts(request_of()))
        return stage.run(StageRunner(progress), state).latents["video"], len(calls), stage

    whole, all_calls, plain_stage = made(None)
    same, computed, stage = made(1e-9)
    assert mx.array_equal(whole, same) and computed == all_calls
    assert notes == ["denoise: 0 of 12 passes reused block outputs"]
    reused, few, _ = made(10.0)
    # The first step and the last one are always computed.
    assert few == all_calls // 3 and not mx.array_equal(whole, reused) and mx.isfinite(reused).all()
    assert notes[-1] == "denoise: 8 of 12 passes reused block outputs"
    assert stage.facts()["step_cache"] == 1e-9
    config = config_of(Transformer, stage.models.weights)
    size = stage.size()
    kept = 2 * size["tokens"] * config.video.width + size["audio_tokens"] * config.audio.width
    assert stage.estimate().peak_bytes - plain_stage.estimate().peak_bytes == 2 * kept * 4


@pytest.mark.parametrize("steps", [1, 3])
def test_image_at_full_strength_is_the_first_latent_frame(request_of, files, steps):
    request = request_of(images=(ImagePlace(files.picture),), steps=steps)
    stage = first_stage(request, "denoise")
    images = run_stages([image_stage(request, [stage])], StageRunner(), GenerationState()).images
    video = run(stage, request, images)["video"]
    assert mx.allclose(video[:, :1], images["denoise.0"], atol=1e-5)
    assert not mx.allclose(video[:, 1:], images["denoise.0"], atol=0.1)


def test_image_is_encoded_at_the_size_of_each_stage(request_of, files):
    request = request_of(two_stages=True, images=(ImagePlace(files.picture),))
    stages = [first_stage(request, "stage_1"), refinement_stage(request, "stage_2")]
    images = run_stages([image_stage(request, stages)], StageRunner(), GenerationState()).images
    assert images["stage_1.0"].shape == (1, 1, 2, 3, 8)
    assert images["stage_2.0"].shape == (1, 1, 4, 6, 8)


def test_keyframe_tokens_are_cut_off_again(request_of, files):
    request = request_of(num_frames=17)
    stage = replace(first_stage(request, "denoise"), images=(ImagePlace(files.picture, frame=16, strength=0.8),))
    latents = run(stage, request, {"denoise.0": mx.ones((1, 1, 2, 3, 8))})
    assert latents["video"].shape == (1, 3, 2, 3, 8)


def test_motion_speed_moves_the_times_of_the_video_and_leaves_those_of_the_audio(request_of, models):
    config = TransformerConfig.from_header(models().weights.header)
    noise = partial(seeded_noise, 0)
    plain = first_stage(request_of(num_frames=17), "denoise").first_state(config, GenerationState(), noise)
    slower = first_stage(request_of(num_frames=17, motion_speed=0.25), "denoise")
    slow = slower.first_state(config, GenerationState(), noise)
    assert mx.allclose(slow["video"].positions[:, 0], plain["video"].positions[:, 0] / 4, rtol=1e-6)
    assert mx.array_equal(slow["video"].positions[:, 1:], plain["video"].positions[:, 1:])
    assert mx.array_equal(slow["audio"].positions, plain["audio"].positions)


def test_generated_keyframes_are_handed_on_beside_the_video(request_of, models, with_keyframe_embedding):
    marked = models(weights=Checkpoint(with_keyframe_embedding))
    request = request_of(models=marked, num_frames=17, slots=(5, 11))
    latents = run(first_stage(request, "denoise"), request)
    assert latents["keyframes"].shape == (1, 2, 2, 3, 8)
    assert latents["video"].shape == (1, 3, 2, 3, 8)
    assert not mx.allclose(latents["keyframes"][:, 0], latents["keyframes"][:, 1], atol=1e-3)
    assert refinement_stage(request, "stage_2").slots == ()


def test_result_that_is_not_finite_ends_the_run(request_of):
    request = request_of(guidance=both_streams(UNGUIDED))
    contexts = {"positive.video": mx.full((1, 128, 24), mx.nan), "positive.audio": mx.zeros((1, 128, 24))}
    with pytest.raises(OutputError, match="denoise"):
        first_stage(request, "denoise").run(StageRunner(), GenerationState(contexts=contexts))


@pytest.mark.parametrize("sampler", ["gradient-estimation", "ancestral", "res-2s"])
def test_every_sampler_reaches_a_finite_video_of_its_own(request_of, sampler):
    request = request_of(steps=3)
    stage = first_stage(request, "denoise")
    other = replace(stage, sampler=sampler)
    plain_video = run(stage, request)["video"]
    video = run(other, request)["video"]
    assert video.shape == plain_video.shape and not mx.allclose(video, plain_video, atol=1e-3)
    assert mx.array_equal(run(other, request)["video"], video)


def test_distilled_checkpoint_takes_its_list_and_sampler_only_without_guidance(request_of, models):
    distilled = models(distilled=True)
    unguided = first_stage(request_of(models=distilled, guidance=both_streams(UNGUIDED), steps=None), "denoise")
    guided = first_stage(request_of(models=distilled, steps=None), "denoise")
    assert unguided.sigmas == DISTILLED
    assert len(guided.sigmas) == 31


def test_refinement_starts_from_its_first_noise_level_without_guidance(request_of):
    stage = refinement_stage(request_of(two_stages=True), "stage_2")
    assert stage.noise_scale == stage.sigmas[0] == pytest.approx(0.909375)
    assert set(stage.guidance.values()) == {UNGUIDED} and len(stage.loras) == 1


def test_distilled_checkpoint_without_guidance_stretches_its_own_list(request_of, models):
    request = request_of(models=models(distilled=True), guidance=both_streams(UNGUIDED), steps=4)
    shorter = first_stage(request, "denoise").sigmas
    assert len(shorter) == 5 and shorter[0] == 1 and shorter[-1] == 0


def test_any_other_stage_takes_the_shifted_schedule(request_of):
    shifted = tuple(ltx2_schedule(15).tolist())
    assert first_stage(request_of(two_stages=True, steps=None), "stage_1").sigmas == shifted
    assert first_stage(request_of(steps=7), "denoise").sigmas == tuple(ltx2_schedule(7).tolist())


def test_refinement_begins_at_the_same_noise_level_whatever_its_steps():
    assert stretched(REFINEMENT, 3) == REFINEMENT
    for steps in (1, 2, 5):
        sigmas = stretched(REFINEMENT, steps)
        assert len(sigmas) == steps + 1
        assert sigmas[0] == pytest.approx(0.909375) and sigmas[-1] == 0
        assert list(sigmas) == sorted(sigmas, reverse=True)


@pytest.fixture(scope="module")
def config():
    spec = json.loads(gzip.decompress(MANIFEST.read_bytes()))
    tensors = {name: TensorInfo(tuple(shape), dtype, 0) for name, (shape, dtype) in spec["tensors"].items()}
    given = spec["metadata"]["config"]
    given = json.loads(given) if isinstance(given, str) else given
    return TransformerConfig.from_header(Header(tensors, config=given))


# Seconds of a step on an M1 Max, dmlsrc/LTX-2-MLX, docs/PERFORMANCE.md.
@pytest.mark.parametrize(("tokens", "seconds"), [(8784, 45.5), (35136, 313.5)])
def test_published_steps_come_out_within_ten_percent(config, tokens, seconds):
    operations = transformer_operations(config, tokens=tokens, audio_tokens=501, text_tokens=1024)
    assert seconds_of(operations, "Apple M1 Max") == pytest.approx(seconds, rel=0.1)
    assert seconds_of(30 * operations, "Apple M1 Max") == pytest.approx(30 * seconds, rel=0.1)


def test_unknown_machine_is_not_guessed_at(config):
    operations = transformer_operations(config, tokens=64, audio_tokens=1, text_tokens=8)
    assert seconds_of(operations, "some other chip") is None
    if mx.default_device() == mx.Device(mx.cpu):
        assert seconds_of(operations) is None


def test_operations_grow_with_every_length(config):
    given = {"tokens": 100, "audio_tokens": 20, "text_tokens": 30}
    base = transformer_operations(config, **given)
    for name, value in given.items():
        assert transformer_operations(config, **given | {name: 2 * value}) > base
