import gc
import weakref
from fractions import Fraction
from pathlib import Path

import av
import mlx.core as mx
import numpy as np
import pytest
from tiny_checkpoints import write_upscaler, write_vae

from LTX_2_MLX.errors import CheckpointError, MediaError, RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.video import read_video, write_video
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines import upscale_temporal
from LTX_2_MLX.pipelines.generation import decode, encode
from LTX_2_MLX.pipelines.upscale_temporal import Request, plan_for
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.verify.case import Case

TESTS = Path(__file__).parents[1]
PEBBLES = TESTS / "media/pebbles_160x112.mp4"
RATES = [Fraction(24000, 1001), Fraction(30)]


@pytest.fixture(scope="module")
def request_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("temporal")
    weights = write_vae(folder / "weights.safetensors")
    upscaler = write_upscaler(folder / "temporal.safetensors", temporal=True)
    return lambda **options: Request(str(weights), str(upscaler), **options)


def _clip(num_frames, height=50, width=70, rate=Fraction(24), **options):
    """A clip in chunks of three that closes as a reader's does; it may promise another number of frames, or none."""
    frames = np.random.default_rng(num_frames).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)

    def chunks():
        for start in range(0, num_frames, 3):
            yield frames[start : start + 3]

    promised = options.pop("promised", num_frames)
    return FrameStream(chunks(), height, width, rate, num_frames=promised, **options)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("num_frames", [1, 2, 8, 9, 10, 33])
def test_clip_of_any_length_has_all_its_frames_at_twice_the_rate(request_of, tmp_path, num_frames, rate):
    given = write_video(_clip(num_frames, rate=rate), tmp_path / "given.mp4")
    film = upscale_temporal.upscale_temporal(read_video(given), request_of())
    found = read_video(write_video(film, tmp_path / "film.mp4"))
    assert found.num_frames == len(found.array()) == 2 * num_frames - 1
    assert found.frame_rate == (rate if num_frames == 1 else 2 * rate)
    # The last frame is shown for half as long as before: nothing follows it.
    assert abs(found.duration_seconds - num_frames / rate) <= 1 / (2 * rate)


def test_sample_film_keeps_duration_and_every_packet_of_its_sound(request_of, tmp_path):
    stream = read_video(PEBBLES)
    film = upscale_temporal.upscale_temporal(stream, request_of())
    output = write_video(film, tmp_path / "film.mp4")
    found = read_video(output)
    assert (stream.num_frames, found.num_frames) == (12, 23)
    assert found.frame_rate == 2 * stream.frame_rate
    assert (found.height, found.width) == (112, 160)
    assert _sound(output) == _sound(PEBBLES) != []


def _sound(path):
    with av.open(str(path)) as source:
        return [
            (float(packet.pts * packet.time_base), bytes(packet)) for packet in source.demux(audio=0) if packet.size
        ]


@pytest.mark.parametrize("size", [(50, 70), (64, 96), (31, 33), (1, 200)])
def test_size_of_the_frames_stays(request_of, size):
    film = upscale_temporal.upscale_temporal(_clip(3, *size), request_of())
    assert film.array().shape == (5, *size, 3)


def test_unknown_number_of_frames_is_found_by_reading(request_of):
    known, unknown = (
        upscale_temporal.upscale_temporal(_clip(10, promised=count), request_of()) for count in (10, None)
    )
    assert unknown.num_frames is None
    assert (known.array() == unknown.array()).all()


def test_clip_without_a_frame_is_refused_while_it_is_read(request_of):
    with pytest.raises(MediaError, match="no frame"):
        upscale_temporal.upscale_temporal(_clip(0, promised=None), request_of()).array()


def test_variable_rate_stays_variable(request_of):
    times = (Fraction(0), Fraction(1, 10), Fraction(1, 4), Fraction(1, 2))
    film = upscale_temporal.upscale_temporal(_clip(3, times=times), request_of())
    assert film.times == (0, Fraction(1, 20), Fraction(1, 10), Fraction(7, 40), Fraction(1, 4), Fraction(3, 8))


def test_padding_repeats_the_last_frame_and_the_edges(request_of):
    clip = _clip(10).array()
    longer = np.concatenate([clip, np.repeat(clip[-1:], 7, axis=0)])
    longer = np.pad(longer, ((0, 0), (0, 14), (0, 26), (0, 0)), mode="edge")
    by_hand = FrameStream([longer], 64, 96, Fraction(24), num_frames=17)
    wanted = upscale_temporal.upscale_temporal(by_hand, request_of()).array()[:19, :50, :70]
    found = upscale_temporal.upscale_temporal(_clip(10), request_of()).array()
    assert (found == wanted).all()


def test_frames_are_the_references(tmp_path):
    case = Case.open(TESTS / "goldens/ltx2/temporal_second_pass/real_blocks", tmp_path)
    weights = str(case.write_checkpoint())
    video = np.moveaxis(case.inputs()["video_u8"][0], 0, -1)
    stream = FrameStream([video[:4], video[4:]], *video.shape[1:3], Fraction(24), num_frames=len(video))
    found = upscale_temporal.upscale_temporal(stream, Request(weights, weights)).array()
    wanted = case.outputs()["frames"] * 255
    assert np.abs(found - wanted).max() <= 0.5 + 5e-4 * 255


def test_no_model_outlives_its_stage(request_of, monkeypatch):
    alive, seen = [], []

    def watched(network, *args, **options):
        gc.collect()
        seen.append((network.__name__, [name for name, model in alive if model() is not None]))
        model = load(network, *args, **options)
        alive.append((network.__name__, weakref.ref(model)))
        return model

    load = decode.load
    for module in (encode, decode):
        monkeypatch.setattr(module, "load", watched)
    runner = StageRunner()
    upscale_temporal.upscale_temporal(_clip(10), request_of(), runner).array()
    assert seen == [
        ("VideoEncoder", []),
        ("LatentUpscaler", []),
        ("LatentStatistics", ["LatentUpscaler"]),
        ("VideoDecoder", []),
    ]
    assert [report.name for report in runner.reports] == ["encode", "temporal_upscaler", "decode"]
    gc.collect()
    assert not [name for name, model in alive if model() is not None]


def test_decoder_is_freed_when_the_film_is_closed_early(request_of, monkeypatch):
    models = []

    def watched(*args, **options):
        model = load(*args, **options)
        models.append(weakref.ref(model))
        return model

    load = decode.load
    monkeypatch.setattr(decode, "load", watched)
    clip = _clip(17)
    film = upscale_temporal.upscale_temporal(clip, request_of())
    next(iter(film))
    film.close()
    gc.collect()
    assert models[-1]() is None
    assert list(clip.chunks) == []


def test_nothing_is_loaded_before_a_frame_is_asked_for(request_of):
    runner, clip = StageRunner(), _clip(5)
    upscale_temporal.upscale_temporal(clip, request_of(), runner)
    assert runner.reports == [] and len(next(clip.chunks)) == 3


def test_plan_tells_sizes_and_the_three_networks(request_of):
    told = plan_for(_clip(10, rate=Fraction(30)), request_of())
    assert told.sizes == ("Output: 50×70, 10 to 19 frames, 30 to 60 fps",)
    assert [stage.name for stage in told.stages] == ["encode", "temporal_upscaler", "decode"]
    assert told.stages[0].work == "64×96"


def test_plan_for_a_gpu_unfolds_no_neighbours_and_works_on_larger_pieces(request_of):
    stages = {}
    for backend in ("cpu", "gpu"):
        with as_backend(backend):
            planned = plan_for(_clip(10, height=512, width=768), request_of(precision="fp32")).stages
        stages[backend] = {stage.name: stage for stage in planned}
    for name, on_gpu in stages["gpu"].items():
        assert on_gpu.weights_bytes == stages["cpu"][name].weights_bytes
    # The CPU's convolution holds windows of every latent cell.
    upscalers = [stages[backend]["temporal_upscaler"].activation_bytes for backend in ("gpu", "cpu")]
    assert 2 * upscalers[0] < upscalers[1]
    for name in ("encode", "decode"):
        activation_bytes = [stages[backend][name].activation_bytes for backend in ("cpu", "gpu")]
        assert activation_bytes[0] < 2**30 < activation_bytes[1] < 1.5 * 2**30


def test_files_that_do_not_belong_together_are_refused_before_a_frame_is_read(request_of, tmp_path):
    good, clip = request_of(), _clip(5)
    spatial = str(write_upscaler(tmp_path / "spatial.safetensors"))
    wide = str(write_upscaler(tmp_path / "wide.safetensors", temporal=True, in_channels=16))
    for request, error, said in [
        (Request(good.weights, spatial), CheckpointError, "upscales in space"),
        (Request(good.weights, wide), CheckpointError, "16 channels"),
        (
            Request(good.temporal_weights, good.temporal_weights),
            CheckpointError,
            "holds no convolutional video autoencoder",
        ),
        (Request(good.weights, good.weights), CheckpointError, "holds no LatentUpscaler"),
        (Request(str(tmp_path / "none.safetensors"), good.temporal_weights), CheckpointError, "does not exist"),
        (request_of(tile_size=33), RequestError, "multiples of 32"),
    ]:
        with pytest.raises(error, match=said):
            upscale_temporal.upscale_temporal(clip, request)
    assert len(next(clip.chunks)) == 3


def test_half_precision_is_near_single_precision(request_of):
    requests = request_of(precision="fp16"), request_of()
    half, single = (upscale_temporal.upscale_temporal(_clip(9), request).array() for request in requests)
    assert [request.dtype for request in requests] == [mx.float16, mx.float32]
    with pytest.raises(RequestError, match="fp8"):
        request_of(precision="fp8")
    assert np.abs(half.astype(int) - single).mean() < 1
