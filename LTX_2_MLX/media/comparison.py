"""Two or three videos shown together: the same moments side by side, or with a moving line between two of them."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.encoder import Display
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.panels import label_band, label_height, scaled

MOST_VIDEOS = 3
_WIPE_SECONDS = 4
_LINE = (255, 255, 255)
# Shapes that a wipe takes for the same.
_SAME_ASPECT = 0.02


@dataclass(frozen=True)
class Panels:
    """Size and time of the videos that are shown together.

    Attributes:
        height: Rows of every panel.
        widths: Columns of each.
        frame_rate: The highest of the videos'.
        num_frames: Of the longest video at that rate.
    """

    height: int
    widths: tuple[int, ...]
    frame_rate: Fraction
    num_frames: int

    @property
    def times(self) -> Iterator[Fraction]:
        """Start of every frame in seconds."""
        return (index / self.frame_rate for index in range(self.num_frames))


def panels_for(streams: Sequence[FrameStream], height: int | None = None) -> Panels:
    """Panels in the largest height of the videos, or in ``height``; shapes are kept, sizes are even.

    Raises:
        RequestError: If there are fewer than two videos or more than three, or one has no known number of frames.
    """
    if not 2 <= len(streams) <= MOST_VIDEOS:
        raise RequestError(f"{len(streams)} videos were given, expected 2 or {MOST_VIDEOS}.")
    if any(not stream.num_frames for stream in streams):
        raise RequestError("A video has no known number of frames. Convert it to .mp4 first.")
    rows = _even(height or max(stream.height for stream in streams))
    widths = [_even(rows * stream.width * stream.display.pixel_aspect / stream.height) for stream in streams]
    rate = max(stream.frame_rate for stream in streams)
    duration = max(_duration(stream) for stream in streams)
    return Panels(rows, tuple(widths), rate, max(1, round(duration * rate)))


def _even(number: float | Fraction) -> int:
    return max(2, round(number / 2) * 2)


def _duration(stream: FrameStream) -> Fraction:
    duration = stream.duration_seconds
    assert duration is not None, "its number of frames is known"
    return duration


def differences(streams: Sequence[FrameStream], labels: Sequence[str]) -> list[str]:
    """What a viewer should know: lengths that differ by more than a frame."""
    durations = [_duration(stream) for stream in streams]
    if max(durations) - min(durations) <= max(1 / stream.frame_rate for stream in streams):
        return []
    lengths = ", ".join(f"{label} {float(each):.2f} s" for label, each in zip(labels, durations, strict=True))
    return [f"The lengths differ: {lengths}. The last frame of a shorter video stays."]


def side_by_side(streams: Sequence[FrameStream], labels: Sequence[str], panels: Panels) -> FrameStream:
    """The videos next to each other below their labels, with the sound of the first; computed when read."""
    bands = []
    for label, width in zip(labels, panels.widths, strict=True):
        bands.append(label_band(label, label_height(panels.height), width))
    header = np.concatenate(bands, axis=1)

    def chunks() -> Iterator[np.ndarray]:
        for frames in moments(streams, panels):
            yield np.concatenate([header, np.concatenate(frames, axis=1)])[None]

    return _together(streams, panels, chunks(), len(header) + panels.height, sum(panels.widths))


def strip(streams: Sequence[FrameStream], panels: Panels, seen: Callable[[list[np.ndarray]], None]) -> FrameStream:
    """The videos next to each other without labels; ``seen`` gets the frames of every moment."""

    def chunks() -> Iterator[np.ndarray]:
        for frames in moments(streams, panels):
            seen(frames)
            yield np.concatenate(frames, axis=1)[None]

    return _together(streams, panels, chunks(), panels.height, sum(panels.widths))


def wipe(streams: Sequence[FrameStream], labels: Sequence[str], panels: Panels) -> FrameStream:
    """The first video left of a line that moves to and fro, the second right of it, below their labels.

    Raises:
        RequestError: If there are three videos, or two of different shape.
    """
    if len(streams) != 2:
        raise RequestError(f"--wipe shows 2 videos, {len(streams)} were given. Leave one out, or leave out --wipe.")
    width = panels.widths[0]
    if abs(panels.widths[1] - width) > _SAME_ASPECT * width:
        shapes = " and ".join(f"{stream.width}×{stream.height}" for stream in streams)
        raise RequestError(f"--wipe shows videos of one shape, these are {shapes}. Leave out --wipe.")
    half = width // 2
    rows = label_height(panels.height)
    # A short video shows a whole way of the line, too.
    period = min(Fraction(_WIPE_SECONDS), panels.num_frames / panels.frame_rate)
    header = np.concatenate([label_band(labels[0], rows, half), label_band(labels[1], rows, width - half)], axis=1)

    def chunks() -> Iterator[np.ndarray]:
        for time, frames in zip(panels.times, moments(streams, panels), strict=True):
            line = _line_position(time / period, width)
            image = np.concatenate([frames[0][:, :line], scaled(frames[1], panels.height, width)[:, line:]], axis=1)
            image[:, max(line - 1, 0) : line + 1] = _LINE
            yield np.concatenate([header, image])[None]

    return _together(streams, panels, chunks(), len(header) + panels.height, width)


def _line_position(turns: Fraction, width: int) -> int:
    """Column of the line: it begins in the middle, and goes to the right first; one turn goes to both sides."""
    return round(width * (0.5 + 0.5 * math.sin(2 * math.pi * float(turns))))


def _together(
    streams: Sequence[FrameStream], panels: Panels, chunks: Iterator[np.ndarray], height: int, width: int
) -> FrameStream:
    return FrameStream(
        chunks=chunks,
        height=height,
        width=width,
        frame_rate=panels.frame_rate,
        num_frames=panels.num_frames,
        audio=streams[0].audio,
        display=Display(primaries=streams[0].display.primaries, transfer=streams[0].display.transfer),
    )


def moments(streams: Sequence[FrameStream], panels: Panels) -> Iterator[list[np.ndarray]]:
    """For each moment, the frame that each video shows then, in the size of its panel; one of each in memory."""
    shown = [frames_at(stream, panels.times) for stream in streams]
    try:
        for frames in zip(*shown, strict=True):
            yield [scaled(frame, panels.height, width) for frame, width in zip(frames, panels.widths, strict=True)]
    finally:
        for stream in streams:
            stream.close()


def frames_at(stream: FrameStream, times: Iterable[Fraction]) -> Iterator[np.ndarray]:
    """The frame that a video shows at each of the ascending times; its last one after its end."""
    frames = stream.frames()
    current, following = next(frames), next(frames, None)
    index = 0
    for time in times:
        while following is not None and _start(stream, index + 1) <= time:
            current, following = following, next(frames, None)
            index += 1
        yield current


def _start(stream: FrameStream, index: int) -> Fraction:
    return stream.times[index] if stream.times is not None else index / stream.frame_rate
