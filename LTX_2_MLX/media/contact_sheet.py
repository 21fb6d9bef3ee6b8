"""Contact sheets: frames of a video in one image, evenly spread over its length, with the waveform of its sound."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from LTX_2_MLX.errors import MediaError, RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.panels import grid, label_band, label_height, peaks_of, scaled, waveform_strip
from LTX_2_MLX.media.samples import planar
from LTX_2_MLX.media.source import open_media

# Height of the strip: that of a frame divided by this.
_STRIP_SHARE = 3
_PEAK_SAMPLES = 480
# Widths of a preview's frames: small enough for three in a window, large enough for their labels.
_PREVIEW_WIDTHS = (200, 480)


@dataclass(frozen=True)
class Layout:
    """How a sheet is arranged.

    Attributes:
        columns: Frames in a row.
        rows: Rows of frames.
        width: Pixels of each frame; at most its own.
    """

    columns: int = 4
    rows: int = 3
    width: int = 320


def contact_sheet(stream: FrameStream, layout: Layout = Layout(), peaks: np.ndarray | None = None) -> np.ndarray:
    """The sheet of a video, its first and last frames included; the stream is read to its end.

    Args:
        stream: With a known number of frames.
        layout: Its arrangement.
        peaks: Of its sound, as ``panels.peaks_of`` gives them, drawn as a strip below the frames.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        MediaError: If the number of frames is unknown, or frames are missing.
    """
    if not stream.num_frames:
        raise MediaError("The video has no known number of frames. Convert it to .mp4 first.")
    wanted = spread(stream.num_frames, layout.columns * layout.rows)
    columns = min(layout.columns, len(wanted))
    width = min(layout.width, round(stream.width * stream.display.pixel_aspect))
    height = max(1, round(width * stream.height / (stream.width * stream.display.pixel_aspect)))
    panels = []
    for index, frame in chosen_frames(stream, wanted):
        band = label_band(_position(stream, index), label_height(height), width)
        panels.append(np.concatenate([scaled(frame, height, width), band]))
    sheet = grid(panels, columns)
    if peaks is None:
        return sheet
    return np.concatenate([sheet, waveform_strip(peaks, height // _STRIP_SHARE, sheet.shape[1])])


def preview_sheet(
    title: str, frames: Sequence[np.ndarray], labels: Sequence[str], peaks: np.ndarray | None = None
) -> np.ndarray:
    """A few frames ``(H, W, 3)`` uint8 of one size in a row below a title; with ``peaks`` a waveform below them.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    narrowest, widest = _PREVIEW_WIDTHS
    width = min(max(frames[0].shape[1], narrowest), widest)
    height = max(1, round(width * frames[0].shape[0] / frames[0].shape[1]))
    panels = []
    for frame, label in zip(frames, labels, strict=True):
        panels.append(np.concatenate([scaled(frame, height, width), label_band(label, label_height(height), width)]))
    row = grid(panels, len(panels))
    parts = [label_band(title, label_height(height), row.shape[1]), row]
    if peaks is not None:
        parts.append(waveform_strip(peaks, height // _STRIP_SHARE, row.shape[1]))
    return np.concatenate(parts)


def spread(num_frames: int, count: int) -> list[int]:
    """Indices of ``count`` frames, or of all if there are fewer: the first, the last, and evenly those between."""
    if count < 1:
        raise RequestError(f"A sheet of {count} frames was asked for, expected at least 1.")
    count = min(count, num_frames)
    if count == 1:
        return [0]
    return [round(index * (num_frames - 1) / (count - 1)) for index in range(count)]


def chosen_frames(stream: FrameStream, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The frames at ascending indices, one in memory at a time; raises ``MediaError`` where one is missing."""
    remaining = list(wanted)
    try:
        for index, frame in enumerate(stream.frames()):
            if remaining and index == remaining[0]:
                yield remaining.pop(0), frame
            if not remaining:
                return
    finally:
        stream.close()
    raise MediaError(f"The video ends before frame {remaining[0]}. Read it with --repair.")


def _position(stream: FrameStream, index: int) -> str:
    seconds = stream.times[index] if stream.times is not None else Fraction(index) / stream.frame_rate
    return f"{clock(seconds)}   frame {index}"


def clock(seconds: float | Fraction) -> str:
    """A time in a video as ``1:02.50``."""
    minutes, rest = divmod(float(seconds), 60)
    return f"{int(minutes)}:{rest:05.2f}"


def read_peaks(path: str | Path) -> np.ndarray | None:
    """Peaks ``(N, 2)`` of a file's first audio track, a hundredth of a second each; None without audio.

    Raises:
        MediaError: If the file cannot be read.
    """
    with open_media(Path(path), "read") as source:
        if not source.streams.audio:
            return None
        peaks = [peaks_of(planar(frame).T, _PEAK_SAMPLES) for frame in source.decode(source.streams.audio[0])]
    return np.concatenate(peaks) if peaks else None
