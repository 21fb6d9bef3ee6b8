"""One- and two-stage pipelines with small checkpoints: stages that run, networks that are freed, videos that result."""

import weakref
from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.sampler import Guidance, both_streams
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.generate import stages_for
from LTX_2_MLX.pipelines.generation.embeddings import load_contexts
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.planning.plan import plan
from LTX_2_MLX.runtime.runner import StageRunner, run_stages

UNGUIDED = Guidance()


class WatchingRunner(StageRunner):
    """Keeps weak references to every stage's networks, and lists those alive when the next stage begins."""

    def __init__(self):
        super().__init__()
        self.networks = []
        self.names = []
        self.outlived = []

    def _watched(self, name, load_networks):
        def watched():
            self.outlived += [stage for stage, network in self.networks if network() is not None]
            self.names.append(name)
            loaded = load_networks()
            parts = loaded if isinstance(loaded, tuple) else (loaded,)
            self.networks += [(name, weakref.ref(part)) for part in parts]
            return loaded

        return watched

    def run(self, name, load, work):
        return super().run(name, self._watched(name, load), work)

    def stream(self, name, load, work):
        return super().stream(name, self._watched(name, load), work)


def stream_of(request, runner=None):
    contexts = load_contexts(request) if request.embeddings else {}
    return run_stages(stages_for(request), runner or StageRunner(), GenerationState(contexts=contexts))


def frames_of(request, runner=None) -> np.ndarray:
    return stream_of(request, runner).array()


def test_no_stages_network_outlives_its_stage(request_of, files):
    runner = WatchingRunner()
    request = request_of(
        two_stages=True, images=(ImagePlace(files.picture),), temporal_upscale=True, embeddings=None, steps=2
    )
    frames_of(request, runner)
    assert runner.names == [
        "text_encoder", "text_features", "image_encoder", "stage_1", "latent_upscaler", "stage_2", "temporal_upscaler",
        "decode",
    ]  # fmt: skip
    assert not runner.outlived
    assert not any(network() is not None for _, network in runner.networks)
    assert [report.name for report in runner.reports] == runner.names
    assert all(report.peak_bytes > 0 for report in runner.reports)


def test_decoder_is_freed_when_the_video_is_closed_early(request_of):
    runner = WatchingRunner()
    stream = stream_of(request_of(num_frames=17), runner)
    chunks = iter(stream)
    next(chunks)
    stream.close()
    del chunks
    assert runner.names[-1] == "decode"
    assert not any(network() is not None for _, network in runner.networks)


@pytest.mark.parametrize("two_stages", [False, True])
def test_planned_stages_are_those_that_run(request_of, files, two_stages):
    for changes in (
        {"embeddings": None},
        {"images": (ImagePlace(files.picture),), "temporal_upscale": True},
        {"guidance": both_streams(UNGUIDED)},
    ):
        request = request_of(two_stages=two_stages, steps_stage2=1, **changes)
        runner = WatchingRunner()
        frames = frames_of(request, runner)
        assert [stage.name for stage in plan(stages_for(request)).stages] == runner.names
        shape = request.output_shape
        assert frames.shape == (shape.num_frames, shape.height, shape.width, 3)


def test_planned_weights_are_those_of_the_network(request_of, models, files):
    stages = plan(stages_for(request_of(models=models(dtype=mx.float16)))).stages
    stage = next(stage for stage in stages if stage.name == "denoise")
    network = load(Transformer, Checkpoint(files.weights), dtype=mx.float16)
    assert stage.weights_bytes == sum(value.nbytes for _, value in tree_flatten(network.parameters()))


def test_plan_names_the_prompts_that_are_encoded(request_of):
    for guidance, work in ((UNGUIDED, "prompt"), (Guidance(guidance_scale=2), "prompt and negative prompt")):
        assert plan(stages_for(request_of(embeddings=None, guidance=both_streams(guidance)))).stages[0].work == work


def test_same_seed_gives_the_same_video_and_another_seed_another(request_of):
    first = frames_of(request_of(two_stages=True, seed=3, steps=2))
    assert np.array_equal(frames_of(request_of(two_stages=True, seed=3, steps=2)), first)
    assert not np.array_equal(frames_of(request_of(two_stages=True, seed=4, steps=2)), first)


def test_image_without_strength_changes_nothing(request_of, files):
    plain = frames_of(request_of(steps=2)).astype(int)
    # Blending with a weight of one rounds once more than not blending at all.
    without = frames_of(request_of(steps=2, images=(ImagePlace(files.picture, strength=0.0),)))
    assert np.abs(without - plain).max() <= 2
    half = frames_of(request_of(steps=2, images=(ImagePlace(files.picture, strength=0.6),)))
    assert np.abs(half - plain).max() > 20


def test_network_for_video_alone_makes_a_video(request_of, models, files):
    video_only = models(weights=Checkpoint(files.video_only), distilled=True)
    frames = frames_of(request_of(two_stages=True, models=video_only, embeddings=None, steps=2))
    assert frames.shape == (9, 128, 192, 3)


def test_temporal_upscaler_doubles_rate_and_keeps_duration(request_of):
    stream = stream_of(request_of(temporal_upscale=True))
    assert (stream.num_frames, stream.frame_rate) == (17, 48)
    assert stream.array().shape == (17, 64, 96, 3)


def test_dev_checkpoint_refines_with_its_adapter(request_of, models):
    dev = frames_of(request_of(two_stages=True))
    plain = frames_of(request_of(two_stages=True, models=models(distilled=True)))
    assert not np.array_equal(dev, plain)


def test_two_stages_need_an_upscaler_and_an_adapter_for_a_dev_checkpoint(request_of, models):
    with pytest.raises(RequestError, match="requires --spatial-upscaler-weights"):
        request_of(two_stages=True, models=models(spatial_upscaler=None))
    with pytest.raises(RequestError, match="needs --distilled-lora"):
        request_of(two_stages=True, models=models(distilled_lora=None))


def test_single_frame_at_a_high_rate_is_a_video(request_of):
    assert frames_of(request_of(num_frames=1, frame_rate=Fraction(120), width=64)).shape == (1, 64, 64, 3)
