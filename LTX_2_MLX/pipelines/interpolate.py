"""Video to a smoother video: new frames between its own, made by RIFE.

Input frames pass through untouched. Only a few neighbours and the frames between them are in memory at a time, so
the length of the video does not matter.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from math import ceil
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.resolve import open_checkpoint
from LTX_2_MLX.media.frames import FrameStream, subdivide_times, to_levels, to_unit
from LTX_2_MLX.media.writer import waiting_bytes
from LTX_2_MLX.models.rife import IFNet, pad_for, padding_multiple
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.ops.sampling import resize, structural_similarity
from LTX_2_MLX.pipelines.requests import InterpolateRequest as Request
from LTX_2_MLX.planning.plan import Estimate, Plan, network_weights_bytes, plan
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner, map_on_cores, num_workers, run_stages
from LTX_2_MLX.runtime.this_machine import budget_bytes

STAGE = "interpolate"
# Side of the thumbnails by which a cut is found, as in the author's script.
_THUMBNAIL = 32
# Bytes per padded pixel: of a pair at work, less where flow is estimated at a smaller size, and of each frame that
# waits while gaps beside it are halved. Measured (tests/pipelines/test_interpolate.py compares).
_PAIR_BYTES = 780
_SMALL_PAIR_BYTES = 430
# On a CPU: of what has the frame's size, and what has the flow's, per pixel of each. Where the flow is small its
# convolutions are in flight together, each with its scaled kernel.
_FRAME_BYTES_ON_CPU = 90
_FLOW_BYTES_ON_CPU = 330
_SMALL_FLOW_BYTES_ON_CPU = 450
_KERNELS_BYTES_ON_CPU = 9_000_000
_MOST_SMALL_BYTES_ON_CPU = 22_000_000
_WAITING_BYTES = 40
# Both frames with their features, the fraction, and the mask, features and flow of the block before.
_BLOCK_CHANNELS = 2 * (3 + 4) + 1 + 1 + 8 + 4


def interpolate(stream: FrameStream, request: Request | None = None, runner: StageRunner | None = None) -> FrameStream:
    """The video with new frames between its own, computed while it is read.

    A video of one frame passes through, as does any with ``exp`` 0.

    Raises:
        CheckpointError: If the file is missing or of another network. Errors in the input are raised while reading.
    """
    request = request or Request()
    return run_stages(stages(stream, request), runner or StageRunner(), stream)


def weight_files(request: Request) -> list[Path]:
    """Files of the network. Raises CheckpointError if one is missing."""
    return [open_checkpoint(request.model_path, "interpolator").path]


def plan_for(stream: FrameStream, request: Request) -> Plan:
    """Memory of the run.

    Raises:
        CheckpointError: If the file is missing, of another network, or does not fit it.
    """
    to_run = stages(stream, request)
    sizes = () if to_run else ("Interpolate: nothing to do, the video stays as it is",)
    return plan(
        to_run,
        sizes=sizes,
        budget_bytes=budget_bytes(request.memory_limit_gb),
        source_bytes=stream.decoding_bytes,
        writer_bytes=waiting_bytes(stream.height, stream.width, stream.bit_depth),
    )


def stages(stream: FrameStream, request: Request) -> list["Interpolate"]:
    """The interpolation of a video of this size, length and rate; empty if there is no frame to add."""
    if stream.num_frames == 1 or (request.target_fps is None and request.exp == 0):
        return []
    factor = 2**request.exp
    timeline = Timeline(stream.frame_rate, stream.frame_rate * factor, stream.times, factor)
    if request.target_fps is not None:
        assert isinstance(request.target_fps, Fraction), "the request makes it one"
        timeline = Timeline(stream.frame_rate, request.target_fps, stream.times)
    return [Interpolate(request, stream, timeline)]


@dataclass(frozen=True)
class Timeline:
    """Output frames of an interpolation by the input frames that they lie between.

    Attributes:
        input_rate: Frames per second of the input, the mean of a variable rate.
        frame_rate: Frames per second of the output.
        times: Start of each input frame in seconds and the end of the last one; None: a constant rate.
        factor: Every gap between input frames is divided into so many parts, whatever its duration; None: an output
            frame is due at every multiple of the output's period.
    """

    input_rate: Fraction
    frame_rate: Fraction
    times: tuple[Fraction, ...] | None = None
    factor: int | None = None

    def num_frames(self, num_inputs: int | None) -> int | None:
        """Frames of the output; None while the input's number is unknown."""
        if num_inputs is None:
            return None
        if self.factor is not None:
            return (num_inputs - 1) * self.factor + 1
        last = self.times[-2] if self.times else (num_inputs - 1) / self.input_rate
        end = self.times[-1] if self.times else num_inputs / self.input_rate
        # However short the video is, it has a frame. None of those before the last input frame is left out.
        return max(round(end * self.frame_rate), ceil(last * self.frame_rate), 1)

    def fractions(self, index: int) -> list[Fraction]:
        """Interpolation fractions in [0, 1) of the output frames between input frames index and index + 1.

        A fraction of 0 is the input frame itself.
        """
        start, end, rate = index / self.input_rate, (index + 1) / self.input_rate, self.frame_rate
        if self.factor is not None:
            start, end, rate = Fraction(index), Fraction(index + 1), Fraction(self.factor)
        elif self.times:
            start, end = self.times[index], self.times[index + 1]
        fractions = []
        for output in range(ceil(start * rate), ceil(end * rate)):
            fractions.append((output / rate - start) / (end - start))
        return fractions


@dataclass(frozen=True)
class Interpolate:
    """Stage from a video to a smoother one.

    Attributes:
        request: The options.
        clip: Size, length and rate of the input; its frames are not read.
        timeline: When the output frames are due.
    """

    request: Request
    clip: FrameStream
    timeline: Timeline
    name: str = STAGE

    def estimate(self) -> Estimate:
        """Memory, from the file's header and the frames' size."""
        checkpoint = open_checkpoint(self.request.model_path, "interpolator")
        num_outputs = self.timeline.num_frames(self.clip.num_frames)
        lengths = "" if num_outputs is None else f"{self.clip.num_frames} to {num_outputs} frames, "
        activations, largest = work_bytes(self.clip.height, self.clip.width, self.request)
        rates = f"{float(self.clip.frame_rate):g} to {float(self.timeline.frame_rate):g} fps"
        return Estimate(
            name=self.name,
            work=f"{self.clip.height}×{self.clip.width}",
            dtype=self.request.dtype,
            file=checkpoint.path,
            weights_bytes=network_weights_bytes([IFNet], checkpoint, dtype=self.request.dtype),
            activation_bytes=activations,
            streams=True,
            array_bytes=largest,
            size=f"Interpolate: {lengths}{rates}",
        )

    def run(self, runner: StageRunner, stream: FrameStream) -> FrameStream:
        """The video with new frames, computed while it is read."""
        checkpoint = open_checkpoint(self.request.model_path, "interpolator")
        # A file of another network is refused before frames are read.
        config_of(IFNet, checkpoint)
        timeline = self.timeline
        work = partial(
            interpolated_chunks, stream=stream, request=self.request, timeline=timeline, progress=runner.progress
        )
        times = None
        if stream.times is not None and timeline.factor is not None:
            times = subdivide_times(stream.times, timeline.factor)
        return stream.replace(
            chunks=runner.stream(self.name, partial(load, IFNet, checkpoint, dtype=self.request.dtype), work),
            frame_rate=timeline.frame_rate,
            num_frames=timeline.num_frames(stream.num_frames),
            times=times,
        )


def work_bytes(height: int, width: int, request: Request) -> tuple[int, int]:
    """Memory of the pairs of frames at work beside the weights, about, and of the largest array.

    That is what the last block reads, at the flow's scale.
    """
    multiple = padding_multiple(request.scale)
    pixels = (height + -height % multiple) * (width + -width % multiple)
    flow_pixels = pixels * request.scale**2
    if on_cpu():
        small = min(_KERNELS_BYTES_ON_CPU + _SMALL_FLOW_BYTES_ON_CPU * flow_pixels, _MOST_SMALL_BYTES_ON_CPU)
        pair = _FRAME_BYTES_ON_CPU * pixels + max(_FLOW_BYTES_ON_CPU * flow_pixels, small)
    else:
        pair = _PAIR_BYTES * flow_pixels if request.scale >= 1 else _SMALL_PAIR_BYTES * pixels
    waiting = pixels * _WAITING_BYTES * (request.exp - 1)
    largest = pixels * max(request.scale, 1.0) ** 2 * _BLOCK_CHANNELS * request.dtype.size
    return int(num_workers() * (pair + waiting)), int(largest)


@dataclass(eq=False)
class InputFrame:
    """An input frame with the arrays that its two gaps share, once one of them is filled.

    Attributes:
        levels: ``(H, W, 3)``, uint8 or uint16.
        encoded: Result of ``IFNet.encode_frame``; None: not yet.
        thumbnail: ``(32, 32, 3)``, by which cuts are found.
    """

    levels: np.ndarray
    encoded: mx.array | None = None
    thumbnail: mx.array | None = None


@dataclass(frozen=True)
class Gap:
    """Two neighbouring input frames, and where new ones lie between them.

    Attributes:
        first: The frame before.
        second: The frame after it; after the last frame, that frame again.
        fractions: Of the output frames from the first up to but without the second, in [0, 1).
    """

    first: InputFrame
    second: InputFrame
    fractions: list[Fraction]


def interpolated_chunks(
    network: IFNet, *, stream: FrameStream, request: Request, timeline: Timeline, progress: Progress
) -> Iterator[np.ndarray]:
    """Chunks of the output video, one for each gap between input frames; several gaps are filled at once."""
    gaps = _gaps(stream, timeline)
    if launch.RANK is None:
        chunks = _filled(network, request, gaps)
    else:
        # Several machines share the gaps out.
        from LTX_2_MLX.pipelines.sharing import shared_frames

        chunks = shared_frames(gaps, partial(_filled, network, request), at_once=num_workers())
    num_outputs = 0
    total = timeline.num_frames(stream.num_frames)
    try:
        for chunk in chunks:
            num_outputs += len(chunk)
            if len(chunk):
                yield chunk
            progress.advance(STAGE, num_outputs, total)
        progress.advance(STAGE, total or num_outputs, total)
    finally:
        stream.close()


def _gaps(stream: FrameStream, timeline: Timeline) -> Iterator[Gap]:
    """The gap after each input frame; after the last one that frame is repeated up to the video's end."""
    last = None
    num_outputs = 0
    for number, levels in enumerate(stream.frames()):
        frame = InputFrame(levels)
        if last is not None:
            fractions = timeline.fractions(number - 1)
            num_outputs += len(fractions)
            yield Gap(last, frame, fractions)
        last = frame
    if last is not None:
        total = timeline.num_frames(number + 1)
        assert total is not None, "the input's number is known"
        yield Gap(last, last, [Fraction(0)] * (total - num_outputs))


def _filled(network: IFNet, request: Request, gaps: Iterable[Gap]) -> Iterator[np.ndarray]:
    """The output frames of each gap, ``(T, H, W, 3)``."""
    gaps = iter(gaps)
    while at_once := list(islice(gaps, num_workers())):
        frames: list[InputFrame] = []
        for gap in at_once:
            for frame in (gap.first, gap.second):
                if any(gap.fractions) and frame.encoded is None and frame not in frames:
                    frames.append(frame)
        map_on_cores(partial(_encode, network, request.scale), frames)
        yield from map_on_cores(partial(_fill_gap, network, request), at_once)


def _encode(network: IFNet, scale: float, frame: InputFrame) -> None:
    pixels = to_unit(frame.levels[None])
    frame.encoded = network.encode_frame(pad_for(pixels, scale))
    frame.thumbnail = resize(pixels, _THUMBNAIL, _THUMBNAIL)[0]
    mx.eval(frame.encoded, frame.thumbnail)


def _fill_gap(network: IFNet, request: Request, gap: Gap) -> np.ndarray:
    """Output frames from the first input frame up to but without the second, ``(T, H, W, 3)``, in their type."""
    first, second = gap.first, gap.second
    height, width = first.levels.shape[:2]
    bit_depth = 8 * first.levels.itemsize
    new = list(filter(None, gap.fractions))
    if not new:
        return np.repeat(first.levels[None], len(gap.fractions), axis=0)
    frames = [first.levels] * (len(gap.fractions) - len(new))
    assert first.encoded is not None and second.encoded is not None, "gaps with new frames are encoded before"
    threshold = request.scene_threshold
    if threshold > 0 and structural_similarity(np.array(first.thumbnail), np.array(second.thumbnail)) < threshold:
        # A cut: the nearer frame is repeated.
        frames += [first.levels if fraction <= 0.5 else second.levels for fraction in new]
    elif request.target_fps is None:
        size = (height, width)
        for frame in halve_gap(network, first.encoded, second.encoded, request.exp, request.scale, size):
            frames.append(to_levels(frame, bit_depth)[0])
    else:
        for fraction in new:
            frame = network.between(first.encoded, second.encoded, float(fraction), request.scale)
            frames.append(to_levels(frame[:, :height, :width], bit_depth)[0])
    return np.stack(frames)


def halve_gap(
    network: IFNet, first: mx.array, second: mx.array, exp: int, scale: float, size: tuple[int, int]
) -> Iterator[mx.array]:
    """The ``2 ** exp - 1`` frames between two, by halving the gap again and again.

    Args:
        network: The interpolator.
        first: Result of ``IFNet.encode_frame`` for the padded frame before.
        second: The same for the frame after.
        exp: Number of halvings.
        scale: Resolution scale for flow estimation.
        size: Height and width of the frames without padding.

    Yields:
        ``(1, H, W, 3)``, about [0, 1], in order of time.

    Source: sgl-project/sglang, python/sglang/multimodal_gen/runtime/postprocess/rife_interpolator.py at 0bfc0102.
    """
    if exp == 0:
        return
    height, width = size
    middle = network.between(first, second, 0.5, scale)[:, :height, :width]
    mx.eval(middle)
    if exp == 1:
        yield middle
        return
    encoded = network.encode_frame(pad_for(middle, scale))
    mx.eval(encoded)
    yield from halve_gap(network, first, encoded, exp - 1, scale, size)
    yield middle
    yield from halve_gap(network, encoded, second, exp - 1, scale, size)
