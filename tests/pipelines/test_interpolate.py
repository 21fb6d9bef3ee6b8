from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines.interpolate import Request, interpolate, plan_for
from LTX_2_MLX.runtime import runner as running
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.verify.case import Case

CASE = Path(__file__).parents[1] / "goldens/rife/procedure"
HEIGHT, WIDTH = 21, 34


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return str(Case.open(CASE, tmp_path_factory.mktemp("rife")).write_checkpoint("flownet.safetensors"))


def scene(num_frames: int, seed: int = 0) -> np.ndarray:
    """A smooth picture that moves a pixel a frame."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:HEIGHT, 0 : WIDTH + num_frames] / 5
    phases, speeds = random.uniform(0, 6, (3, 1, 1)), random.uniform(0.5, 1.5, (3, 1, 1))
    wide = 127 + 120 * np.sin(rows * speeds + phases) * np.cos(columns * speeds - phases)
    return np.stack([wide[:, :, i : i + WIDTH].transpose(1, 2, 0) for i in range(num_frames)]).astype(np.uint8)


def clip(frames: np.ndarray, rate: Fraction = Fraction(24), **changes) -> FrameStream:
    facts = {"num_frames": len(frames), "height": HEIGHT, "width": WIDTH, "frame_rate": rate, "audio": "its sound"}
    return FrameStream(chunks=iter(np.array_split(frames, max(len(frames) // 2, 1))), **facts | changes)


@pytest.mark.parametrize(("num_frames", "exp"), [(2, 1), (5, 1), (4, 2), (3, 3), (2, 4)])
def test_frames_are_doubled_and_those_given_come_back_untouched(weights, num_frames, exp):
    frames = scene(num_frames)
    made = interpolate(clip(frames, Fraction(24000, 1001)), Request(weights, exp=exp))
    assert made.frame_rate == 2**exp * Fraction(24000, 1001) and made.audio == "its sound"
    assert made.num_frames == (num_frames - 1) * 2**exp + 1
    got = made.array()
    assert len(got) == made.num_frames and got.dtype == np.uint8
    assert np.array_equal(got[:: 2**exp], frames)
    assert not np.array_equal(got[1], frames[0])


@pytest.mark.parametrize(("frames", "request_"), [(1, Request("nowhere")), (3, Request("nowhere", exp=0))])
def test_nothing_to_do_passes_through_and_needs_no_file(frames, request_):
    given = clip(scene(frames))
    assert interpolate(given, request_) is given


def test_unknown_length_is_found_by_reading(weights):
    made = interpolate(clip(scene(3), num_frames=None), Request(weights))
    assert made.num_frames is None and len(made.array()) == 5
    assert len(interpolate(clip(scene(1), num_frames=None), Request(weights)).array()) == 1


def test_one_more_halving_keeps_what_the_first_one_made(weights):
    frames = scene(3)
    once, twice = (interpolate(clip(frames), Request(weights, exp=exp)).array() for exp in (1, 2))
    assert np.array_equal(once, twice[::2])


def test_variable_times_are_halved_one_by_one(weights):
    times = (Fraction(0), Fraction(1, 10), Fraction(1, 2), Fraction(3, 5))
    made = interpolate(clip(scene(3), Fraction(5), times=times), Request(weights))
    assert made.times == tuple(map(Fraction, ("0", "1/20", "1/10", "3/10", "1/2", "11/20")))
    assert len(made.array()) == 5


@pytest.mark.parametrize(
    ("given", "target"),
    [
        (Fraction(24000, 1001), Fraction(60)),
        (Fraction(24), Fraction(60)),
        (Fraction(25), Fraction(50)),
        (Fraction(30000, 1001), Fraction(24)),
        (Fraction(50), Fraction(60000, 1001)),
        (Fraction(12), Fraction(5)),
    ],
)
def test_any_rate_keeps_the_duration_to_half_a_frame(weights, given, target):
    frames = scene(5)
    made = interpolate(clip(frames, given), Request(weights, target_fps=target))
    assert made.frame_rate == target and made.times is None
    assert abs(made.num_frames / target - 5 / given) <= 1 / target / 2
    got = made.array()
    assert len(got) == made.num_frames
    for k, frame in enumerate(got):
        place = k * given / target
        if place.denominator == 1 and place < 5:
            assert np.array_equal(frame, frames[place.numerator])


@pytest.mark.parametrize("given", [60, 60.0, "60", Fraction(60)])
def test_a_rate_may_be_written_in_any_way(given):
    assert Request(target_fps=given).target_fps == Fraction(60)


@pytest.mark.parametrize(
    ("given", "meant"), [("23.976", 24), ("23.98", 24), (29.97, 30), ("47.952", 48), ("59.94", 60), ("119.88", 120)]
)
def test_rates_of_broadcasting_mean_the_exact_ones(given, meant):
    assert Request(target_fps=given).target_fps == Fraction(meant * 1000, 1001)
    assert Request(target_fps="29.9").target_fps == Fraction("29.9")


def test_any_rate_of_a_clip_of_unknown_length_ends_at_the_same_frame(weights):
    request = Request(weights, target_fps=Fraction(60))
    known, unknown = (interpolate(clip(scene(4), num_frames=n), request).array() for n in (4, None))
    assert np.array_equal(known, unknown)


def test_any_rate_follows_variable_times(weights):
    frames, times = scene(3), (Fraction(0), Fraction(1, 10), Fraction(1, 2), Fraction(3, 5))
    got = interpolate(clip(frames, Fraction(5), times=times), Request(weights, target_fps=Fraction(10))).array()
    assert len(got) == 6
    assert np.array_equal(got[[0, 1, 5]], frames[[0, 1, 2]])


def test_across_a_cut_the_nearer_frame_is_repeated(weights):
    frames = np.concatenate([scene(2, seed=0), 255 - scene(2, seed=3)[:, ::-1]])
    got = interpolate(clip(frames), Request(weights, exp=2, scene_threshold=0.3)).array()
    assert np.array_equal(got[5:8], frames[[1, 1, 2]])
    assert not np.array_equal(got[1], frames[0]) and not np.array_equal(got[9], frames[2])
    blended = interpolate(clip(frames), Request(weights, exp=2, scene_threshold=0)).array()
    assert not np.array_equal(blended[5:8], got[5:8])


def test_frames_are_read_as_they_are_needed_and_the_model_goes_with_the_stream(weights):
    read, runner = [], StageRunner()

    def chunks():
        try:
            for i, frame in enumerate(scene(50)):
                read.append(i)
                yield frame[None]
        finally:
            read.append("closed")

    before = mx.get_active_memory()
    made = interpolate(clip(scene(50)).replace(chunks=chunks()), Request(weights), runner)
    frames = made.frames()
    for _ in range(3):
        next(frames)
    assert read == [0, 1, 2]
    assert mx.get_active_memory() > before + 4 * 4_000_000
    frames.close()
    made.close()
    assert read[-1] == "closed" and [report.name for report in runner.reports] == ["interpolate"]
    assert mx.get_active_memory() <= before + 100_000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exp": 5}, "0 to 4"),
        ({"exp": -1}, "0 to 4"),
        ({"exp": 1.5}, "exp is 1.5, expected a whole number"),
        ({"exp": True}, "exp is True, expected a whole number"),
        ({"scale": 0.3}, r"0\.25, 0\.5"),
        ({"target_fps": Fraction(0)}, "above 0"),
        ({"target_fps": "fast"}, "24000/1001"),
        ({"target_fps": "1/0"}, "24000/1001"),
        ({"target_fps": float("nan")}, "--target-fps is nan"),
        ({"target_fps": Fraction(60), "exp": 2}, "one of them"),
        ({"scene_threshold": 1.5}, "from 0 to 1"),
        ({"precision": "bf16"}, "fp16, fp32"),
    ],
)
def test_requests_that_cannot_be_are_refused(changes, said):
    with pytest.raises(RequestError, match=said):
        Request(**changes)


def test_a_file_of_another_network_is_refused_before_anything_is_read(tmp_path):
    mx.save_safetensors(str(tmp_path / "other.safetensors"), {"body.0.weight": mx.zeros((2, 3, 3, 3))})
    with pytest.raises(CheckpointError, match="no IFNet"):
        interpolate(clip(scene(3)), Request(str(tmp_path / "other.safetensors")))


def test_plan_tells_frames_and_rates(weights):
    told = plan_for(clip(scene(5)), Request(weights, exp=2))
    assert told.sizes == ("Interpolate: 5 to 17 frames, 24 to 96 fps",)
    assert told.stages[0].weights_bytes == pytest.approx(4 * 4.87e6, rel=0.01)


def planned_and_measured(weights: str, changes: dict) -> tuple[int, int]:
    """Peak of the plan and peak of the run, for four frames of 120×180."""
    request = Request(weights, scene_threshold=0, **changes)
    runner = StageRunner()
    frames = np.random.default_rng(0).integers(0, 256, (4, 120, 180, 3), dtype=np.uint8)
    (stage,) = plan_for(clip(frames, height=120, width=180), request).stages
    interpolate(clip(frames, height=120, width=180), request, runner).array()
    return stage.peak_bytes, runner.reports[0].peak_bytes


CHANGES = pytest.mark.parametrize("changes", [{}, {"scale": 0.5}, {"scale": 2.0}, {"exp": 3}])


@CHANGES
def test_plans_are_near_the_peaks_of_one_pair_and_of_two(weights, changes, monkeypatch):
    planned_for_two, measured_of_two = planned_and_measured(weights, changes)
    monkeypatch.setattr(running, "_THREADS", 1)
    planned, measured = planned_and_measured(weights, changes)
    assert 0.8 < planned / measured < 1.25
    # How far two pairs overlap in time depends on the machine's load; together they hold at most twice what one holds.
    weights_bytes = Path(weights).stat().st_size
    full_overlap = weights_bytes + 2 * (measured - weights_bytes)
    assert 0.8 < planned_for_two / full_overlap < 1.25
    assert measured_of_two < 1.25 * planned_for_two


@pytest.mark.parametrize(("frames", "request_"), [(1, Request("nowhere")), (3, Request("nowhere", exp=0))])
def test_plan_of_nothing_to_do_needs_no_file(frames, request_):
    told = plan_for(clip(scene(frames)), request_)
    assert told.stages == () and told.sizes == ("Interpolate: nothing to do, the video stays as it is",)


def test_plan_for_a_gpu_has_one_pair_at_a_time(weights):
    peaks = {}
    for backend in ("cpu", "gpu"):
        with as_backend(backend):
            peaks[backend] = plan_for(clip(scene(5), height=120, width=180), Request(weights)).stages[0].peak_bytes
    assert peaks["gpu"] < 0.75 * peaks["cpu"]
