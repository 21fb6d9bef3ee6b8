"""Verbs and whole roads with small checkpoints: what is held, what is run, and what is gone afterwards."""

import weakref
from dataclasses import replace
from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.guidance import Guidance
from LTX_2_MLX.diffusion.noise import seeded_noise
from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines import one_stage, two_stage
from LTX_2_MLX.pipelines.film import contexts_of, images_of
from LTX_2_MLX.pipelines.stages import Contexts, EncodedImage, denoise
from LTX_2_MLX.runtime.runner import StageRunner

UNGUIDED = Guidance()


class WatchingRunner(StageRunner):
    """Keeps a weak eye on every stage's networks, and counts those that are still there when the next stage begins."""

    def __init__(self):
        super().__init__()
        self.seen, self.names, self.outlived = [], [], []

    def _watched(self, name, load_networks):
        def watched():
            self.outlived += [stage for stage, network in self.seen if network() is not None]
            self.names.append(name)
            networks = load_networks()
            parts = networks if isinstance(networks, tuple) else (getattr(networks, "network", networks),)
            self.seen += [(name, weakref.ref(part)) for part in parts]
            return networks

        return watched

    def run(self, name, load, work):
        return super().run(name, self._watched(name, load), work)

    def stream(self, name, load, work):
        return super().stream(name, self._watched(name, load), work)


def frames(request, runner=None) -> np.ndarray:
    make = two_stage.two_stage if isinstance(request, two_stage.Request) else one_stage.one_stage
    return make(request, runner or StageRunner()).array()


def test_no_stages_network_outlives_its_stage(models, film, files):
    runner = WatchingRunner()
    asked = film(image=files.picture, temporal_upscale=True, embeddings=None)
    frames(two_stage.Request(asked, models(), 64, 96, steps_stage1=2), runner)
    assert runner.names == [
        "text_encoder", "text_features", "image_encoder", "stage_1", "latent_upscaler", "stage_2", "temporal_upscaler",
        "decode",
    ]  # fmt: skip
    assert not runner.outlived
    assert not any(network() is not None for _, network in runner.seen)
    assert [report.name for report in runner.reports] == runner.names
    assert all(report.peak_bytes > 0 for report in runner.reports)


def test_decoder_is_freed_when_the_film_is_closed_early(models, film):
    runner = WatchingRunner()
    stream = one_stage.one_stage(one_stage.Request(film(num_frames=17), models(), 64, 96, steps=1), runner)
    chunks = iter(stream)
    next(chunks)
    stream.close()
    del chunks
    assert runner.names[-1] == "decode"
    assert not any(network() is not None for _, network in runner.seen)


def test_planned_stages_are_those_that_run(models, film, files):
    for asked in (film(embeddings=None), film(image=files.picture, temporal_upscale=True), film(guidance=UNGUIDED)):
        for request, road in (
            (one_stage.Request(asked, models(), 64, 96, steps=1), one_stage),
            (two_stage.Request(asked, models(), 64, 96, steps_stage1=1, steps_stage2=1), two_stage),
        ):
            runner = WatchingRunner()
            made = frames(request, runner)
            assert [stage.name for stage in road.plan(request).stages] == runner.names
            shape = request.output_shape
            assert made.shape[1:3] == (shape.height, shape.width)


def test_planned_weights_are_what_the_network_holds(models, film, files):
    request = one_stage.Request(film(), models(dtype=mx.float16), 64, 96)
    stage = next(stage for stage in one_stage.plan(request).stages if stage.name == "denoise")
    network = load(Transformer, Checkpoint(files.weights), dtype=mx.float16)
    held = sum(value.nbytes for _, value in tree_flatten(network.parameters()))
    assert stage.weights_bytes == held


def test_same_seed_gives_the_same_film_and_another_seed_another(models, film):
    def made(seed):
        return frames(two_stage.Request(film(seed=seed), models(), 64, 96, steps_stage1=2))

    first = made(3)
    assert np.array_equal(made(3), first)
    assert not np.array_equal(made(4), first)


def test_guidance_of_one_encodes_one_prompt_and_calls_the_network_once_a_step(models, film):
    calls = []

    class Counting(Transformer):
        def __call__(self, *args, **kwargs):
            calls.append(args)
            return super().__call__(*args, **kwargs)

    opened = models()
    request = one_stage.Request(film(guidance=UNGUIDED, embeddings=None), opened, 64, 96, steps=3)
    contexts = contexts_of(request.film, opened, StageRunner())
    assert contexts.negative == {}
    denoise(StageRunner(), lambda: load(Counting, opened.weights), request.stage([]), contexts, seeded_noise(0))
    assert len(calls) == 3
    assert one_stage.plan(request).stages[0].work == "prompt"


@pytest.mark.parametrize("steps", [1, 3])
def test_picture_at_full_strength_is_the_first_latent_frame(models, film, files, steps):
    opened = models()
    request = one_stage.Request(film(image=files.picture), opened, 64, 96, steps=steps)
    runner = StageRunner()
    ((image,),) = images_of(request.film, opened, runner, [request.shape])
    contexts = contexts_of(request.film, opened, runner)
    latents = denoise(
        runner, lambda: load(Transformer, opened.weights), request.stage([image]), contexts, seeded_noise(0)
    )
    assert mx.allclose(latents["video"][:, :1], image.latent, atol=1e-5)
    assert not mx.allclose(latents["video"][:, 1:], image.latent, atol=0.1)


def test_picture_without_strength_changes_nothing(models, film, files):
    def made(**changes):
        return frames(one_stage.Request(film(**changes), models(), 64, 96, steps=2))

    plain = made().astype(int)
    # Blending with a weight of one rounds once more than not blending at all.
    assert np.abs(made(image=files.picture, image_strength=0.0) - plain).max() <= 2
    assert np.abs(made(image=files.picture, image_strength=0.6) - plain).max() > 20


def test_picture_is_held_in_both_stages(models, film, files):
    opened = models()
    request = two_stage.Request(film(image=files.picture), opened, 64, 96, steps_stage1=1)
    small, large = images_of(request.film, opened, StageRunner(), [request.shape, request.output_shape])
    first, second = request.stages([small, large])
    assert first.images[0].latent.shape == (1, 1, 2, 3, 8)
    assert second.images[0].latent.shape == (1, 1, 4, 6, 8)


def test_keyframe_tokens_are_cut_off_again(models, film, files):
    opened = models()
    request = one_stage.Request(film(num_frames=17), opened, 64, 96, steps=1)
    contexts = contexts_of(request.film, opened, StageRunner())
    image = EncodedImage(mx.ones((1, 1, 2, 3, 8)), frame=16, strength=0.8)
    latents = denoise(
        StageRunner(), lambda: load(Transformer, opened.weights), request.stage([image]), contexts, seeded_noise(0)
    )
    assert latents["video"].shape == (1, 3, 2, 3, 8)


def test_network_for_video_alone_makes_a_film(models, film, files):
    opened = models(weights=Checkpoint(files.video_only), distilled=True)
    made = frames(two_stage.Request(film(embeddings=None), opened, 64, 96, steps_stage1=2))
    assert made.shape == (9, 128, 192, 3)


def test_temporal_upscaler_doubles_rate_and_keeps_duration(models, film):
    stream = one_stage.one_stage(
        one_stage.Request(film(temporal_upscale=True), models(), 64, 96, steps=1), StageRunner()
    )
    assert (stream.num_frames, stream.frame_rate) == (17, 48)
    assert stream.array().shape == (17, 64, 96, 3)


def test_dev_checkpoint_refines_with_its_adapter(models, film):
    dev = frames(two_stage.Request(film(), models(), 64, 96, steps_stage1=1))
    plain = frames(two_stage.Request(film(), models(distilled=True), 64, 96, steps_stage1=1))
    assert not np.array_equal(dev, plain)


def test_result_that_is_not_finite_ends_the_run(models, film):
    opened = models()
    request = one_stage.Request(film(guidance=UNGUIDED), opened, 64, 96, steps=1)
    broken = Contexts({"video": mx.full((1, 128, 24), mx.nan), "audio": mx.zeros((1, 128, 24))})
    with pytest.raises(OutputError, match="denoise"):
        denoise(StageRunner(), lambda: load(Transformer, opened.weights), request.stage([]), broken, seeded_noise(0))


def test_single_frame_at_a_high_rate_is_a_film(models, film):
    request = one_stage.Request(film(num_frames=1, frame_rate=Fraction(120)), models(), 64, 64, steps=1)
    assert frames(request).shape == (1, 64, 64, 3)


@pytest.mark.parametrize("sampler", ["gradient-estimation", "ancestral", "res-2s"])
def test_every_sampler_reaches_a_finite_film_of_its_own(models, film, sampler):
    opened = models()
    request = one_stage.Request(film(), opened, 64, 96, steps=3)
    contexts = contexts_of(request.film, opened, StageRunner())

    def made(stage):
        return denoise(StageRunner(), lambda: load(Transformer, opened.weights), stage, contexts, seeded_noise(0))[
            "video"
        ]

    plain, other = made(request.stage([])), made(replace(request.stage([]), sampler=sampler))
    assert other.shape == plain.shape and not mx.allclose(other, plain, atol=1e-3)
    assert mx.array_equal(made(replace(request.stage([]), sampler=sampler)), other)
