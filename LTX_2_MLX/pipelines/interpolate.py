"""A clip to a smoother one: new frames between its own, made by RIFE.

Given frames pass through untouched. Only two neighbours and what lies between them are in memory at a time, so
the length of the clip does not matter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice, pairwise
from math import ceil

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.recognise import recognise
from LTX_2_MLX.checkpoints.resolve import open_checkpoint
from LTX_2_MLX.media.frames import FrameStream, subdivide_times, to_uint8, to_unit
from LTX_2_MLX.models.rife import IFNet, pad_for, padding_multiple
from LTX_2_MLX.ops.resize import resize
from LTX_2_MLX.ops.similarity import structural_similarity
from LTX_2_MLX.ops.streams import in_groups, parts_at_once, side_by_side
from LTX_2_MLX.ops.warp import Slopes
from LTX_2_MLX.pipelines.requests import InterpolateRequest as Request
from LTX_2_MLX.planning.plan import Estimate, Plan, network_weights_bytes
from LTX_2_MLX.runtime.memory import budget_bytes
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner

STAGE = "interpolate"
# Side of the pictures by which a cut is found, as in the author's script.
_THUMBNAIL = 32
# Bytes per padded pixel of a pair, less where motion is sought at a smaller size, and of each frame that waits while
# gaps beside it are halved; measured.
_PAIR_BYTES, _SMALL_PAIR_BYTES, _HALVING_BYTES = 630, 400, 124


def plan(stream: FrameStream, request: Request) -> Plan:
    """What the run does.

    Raises:
        CheckpointError: If the file is missing, of another network, or does not fit it.
    """
    if _stays(stream, request):
        return Plan(sizes=("Interpolate: nothing to do, the clip stays as it is",), stages=())
    timeline, given = Timeline(stream, request), stream.num_frames
    frames = "" if given is None else f"{given} to {timeline.num_frames} frames, "
    rates = f"{float(stream.frame_rate):g} to {float(timeline.frame_rate):g} fps"
    checkpoint = open_checkpoint(request.model_path, "interpolator")
    working = working_bytes(stream.height, stream.width, request)
    size = f"{stream.height}×{stream.width}"
    stage = Estimate(
        name=STAGE,
        work=size,
        file=checkpoint.path,
        weights_bytes=network_weights_bytes([IFNet], checkpoint, dtype=request.dtype),
        activation_bytes=working,
        streams=True,
    )
    budget = budget_bytes(request.memory_limit_gb)
    return Plan(sizes=(f"Interpolate: {frames}{rates}",), stages=(stage,), budget_bytes=budget)


def working_bytes(height: int, width: int, request: Request) -> int:
    """Memory that pairs of frames at work take beside the weights, about; their largest arrays are float32 always."""
    multiple = padding_multiple(request.scale)
    pixels = (height + -height % multiple) * (width + -width % multiple)
    pair = _PAIR_BYTES * request.scale**2 if request.scale >= 1 else _SMALL_PAIR_BYTES
    pairs = parts_at_once()
    return int(pixels * (pairs * pair + _HALVING_BYTES * (request.exp + pairs - 1)))


def interpolate(stream: FrameStream, request: Request | None = None, runner: StageRunner | None = None) -> FrameStream:
    """The clip with new frames between its own, made while it is read.

    A clip of one frame passes through, as does any with ``exp`` 0.

    Raises:
        CheckpointError: If the file is missing or of another network. What reading the clip tells is raised then.
    """
    request, runner = request or Request(), runner or StageRunner()
    if _stays(stream, request):
        return stream
    checkpoint = open_checkpoint(request.model_path, "interpolator")
    recognise(IFNet, checkpoint)
    timeline = Timeline(stream, request)
    work = partial(_chunks, stream=stream, request=request, timeline=timeline, progress=runner.progress)
    return stream.replace(
        chunks=runner.stream(STAGE, partial(load, IFNet, checkpoint, dtype=request.dtype), work),
        frame_rate=timeline.frame_rate,
        num_frames=timeline.num_frames,
        times=None if request.target_fps else subdivide_times(stream.times, 2**request.exp),
    )


def _stays(stream: FrameStream, request: Request) -> bool:
    return stream.num_frames == 1 or (request.target_fps is None and request.exp == 0)


class Timeline:
    """When the new frames are due, for doublings and for any target rate.

    Attributes:
        frame_rate: Of the new clip.
        num_frames: Of the new clip; None while the given clip's is unknown.
    """

    def __init__(self, stream: FrameStream, request: Request):
        self._rate, self._times = stream.frame_rate, stream.times
        self._target, self._factor = request.target_fps, 2**request.exp
        self.frame_rate = request.target_fps or stream.frame_rate * self._factor
        given = stream.num_frames
        self.num_frames = None if given is None else self._before(given - 1) + self.held(given)

    def between(self, index: int) -> list[Fraction]:
        """Places of the new clip's frames from frame ``index`` to the next, in [0, 1); 0 is the given frame."""
        if self._target is None:
            return [Fraction(step, self._factor) for step in range(self._factor)]
        start, end = self._moment(index), self._moment(index + 1)
        due = range(self._before(index), self._before(index + 1))
        return [(k / self._target - start) / (end - start) for k in due]

    def held(self, given: int) -> int:
        """How often the last of ``given`` frames is shown: once, or at a target rate to the clip's end."""
        if self._target is None:
            return 1
        end = self._times[-1] if self._times else given / self._rate
        return max(round(end * self._target) - self._before(given - 1), 0)

    def _before(self, index: int) -> int:
        """Frames of the new clip that are due before frame ``index`` of the given one."""
        return index * self._factor if self._target is None else ceil(self._moment(index) * self._target)

    def _moment(self, index: int) -> Fraction:
        return self._times[index] if self._times else index / self._rate


@dataclass(frozen=True)
class _Frame:
    """A given frame and what the network sees of it."""

    levels: np.ndarray
    seen: Slopes
    thumbnail: mx.array


def _chunks(
    network: IFNet, *, stream: FrameStream, request: Request, timeline: Timeline, progress: Progress
) -> Iterator[np.ndarray]:
    last, index, done = None, 0, 0
    try:
        for group in in_groups(stream.frames()):
            following = _looked_at(network, group, request)
            gaps = list(pairwise([last, *following] if last else following))
            last, first_gap, index = following[-1], index, index + len(gaps)
            for chunk in _filled(network, gaps, [timeline.between(k) for k in range(first_gap, index)], request):
                done += len(chunk)
                yield chunk
            progress.advance(STAGE, done, timeline.num_frames)
        for _ in range(timeline.held(index + 1) if last is not None else 0):
            yield last.levels[None]
        progress.advance(STAGE, timeline.num_frames or done, timeline.num_frames)
    finally:
        stream.close()


def _looked_at(network: IFNet, levels: list[np.ndarray], request: Request) -> list[_Frame]:
    pixels = [to_unit(frame[None]) for frame in levels]
    padded = [pad_for(frame, request.scale).astype(network.dtype) for frame in pixels]
    thumbnails = [resize(frame, _THUMBNAIL, _THUMBNAIL)[0] for frame in pixels]
    seen = side_by_side(network.seeing, padded)
    mx.eval(seen, thumbnails)
    return [_Frame(*parts) for parts in zip(levels, seen, thumbnails, strict=True)]


def _filled(
    network: IFNet, gaps: list[tuple[_Frame, _Frame]], places: list[list[Fraction]], request: Request
) -> Iterator[np.ndarray]:
    """The new clip's frames from the first of each gap up to but without the second, ``(T, H, W, 3)`` uint8."""
    inside = [[place for place in due if place] for due in places]
    cuts = [
        bool(new) and is_cut(first.thumbnail, second.thumbnail, request.scene_threshold)
        for (first, second), new in zip(gaps, inside, strict=True)
    ]
    made = _made(network, [(*gap, new) for gap, new, cut in zip(gaps, inside, cuts, strict=True) if not cut], request)
    for (first, second), due, new, cut in zip(gaps, places, inside, cuts, strict=True):
        frames = [first.levels] * (len(due) - len(new))
        if not cut:
            frames += [to_uint8(pixels)[0] for pixels in islice(made, len(new))]
        else:
            frames += [first.levels if place <= Fraction(1, 2) else second.levels for place in new]
        if frames:
            yield np.stack(frames)


def _made(network: IFNet, gaps: list[tuple[_Frame, _Frame, list[Fraction]]], request: Request) -> Iterator[mx.array]:
    """The frames within each gap, as the network gives them."""
    if not gaps:
        return
    height, width = gaps[0][0].levels.shape[:2]
    if request.target_fps is None:
        pairs = [(first.seen, second.seen) for first, second, _ in gaps]
        yield from halved(network, pairs, request.exp, request.scale, (height, width))
        return
    wanted = [(first.seen, second.seen, float(place)) for first, second, due in gaps for place in due]
    for some in in_groups(wanted):
        for frame in side_by_side(lambda pair: network.making(*pair, request.scale), some):
            yield frame[:, :height, :width]


def halved(
    network: IFNet, gaps: list[tuple[Slopes, Slopes]], exp: int, scale: float, size: tuple[int, int]
) -> Iterator[mx.array]:
    """The ``2 ** exp - 1`` frames within each gap, by halving it again and again.

    Args:
        network: The interpolator.
        gaps: What it sees of the frames before and after (``IFNet.seen``), padded.
        exp: Times that each gap is halved.
        scale: Size at which motion is sought.
        size: Height and width of the frames without padding.

    Yields:
        ``(1, H, W, 3)``, about [0, 1], gap by gap; a frame in the middle stays as the network gave it while gaps
        beside it are halved.

    Source: sgl-project/sglang, python/sglang/multimodal_gen/runtime/postprocess/rife_interpolator.py at 0bfc0102.
    """
    if exp == 0:
        return
    made = side_by_side(lambda gap: network.making(*gap, 0.5, scale), gaps)
    middles = [frame[:, : size[0], : size[1]] for frame in made]
    mx.eval(middles)
    if exp == 1:
        yield from middles
        return
    for (first, second), middle in zip(gaps, middles, strict=True):
        seen = network.seen(pad_for(middle, scale))
        frames = halved(network, [(first, seen), (seen, second)], exp - 1, scale, size)
        yield from islice(frames, 2 ** (exp - 1) - 1)
        yield middle
        yield from frames


def is_cut(first: mx.array, second: mx.array, threshold: float) -> bool:
    """Whether two small pictures ``(H, W, 3)`` in [0, 1] are of different scenes."""
    return threshold > 0 and structural_similarity(first, second).item() < threshold
