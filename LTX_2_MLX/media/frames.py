"""The stream of frames that every road ends in or begins with, and its number formats."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import OutputError


@dataclass(frozen=True)
class Display:
    """How a file asks its pixels to be shown; carried from reader to writer, never applied to them.

    Attributes:
        pixel_aspect: Width of a pixel over its height.
        primaries: ITU-T H.273 colour primaries; 1 is bt709.
        transfer: ITU-T H.273 transfer characteristics; 1 is bt709.
    """

    pixel_aspect: Fraction = Fraction(1)
    primaries: int = 1
    transfer: int = 1


@dataclass
class FrameStream:
    """One clip's frames in order, made as they are asked for, and what belongs to them.

    It can be read once, from front to back. Closing it early frees whatever makes the frames.

    Attributes:
        chunks: Consecutive frames, each chunk ``(T, H, W, 3)`` uint8 RGB; T may differ.
        height: Pixels; every chunk has it.
        width: Pixels; every chunk has it.
        frame_rate: Frames per second, exact.
        num_frames: How many frames will come; None where only reading them tells.
        audio: What the writer puts beside the frames (see ``media.audio``); None for a silent clip.
        metadata: Written into the file's tags.
        times: For a variable frame rate: when each frame appears, in seconds from the first, and when the last
            one ends, so one entry more than frames. ``frame_rate`` is the mean then. None: a constant rate.
        display: How the pixels are meant to be shown.
    """

    chunks: Iterable[np.ndarray]
    height: int
    width: int
    frame_rate: Fraction
    num_frames: int | None = None
    audio: Any = None
    metadata: dict[str, str] = field(default_factory=dict)
    times: tuple[Fraction, ...] | None = None
    display: Display = Display()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Chunks ``(T, H, W, 3)`` uint8."""
        return iter(self.chunks)

    def frames(self) -> Iterator[np.ndarray]:
        """Frames one by one, each ``(H, W, 3)`` uint8."""
        for chunk in self:
            yield from chunk

    def replace(self, **changes: Any) -> "FrameStream":
        """The same clip with other chunks, size or rate; audio and metadata stay unless changed."""
        return replace(self, **changes)

    @property
    def duration_seconds(self) -> Fraction | None:
        """How long the clip is shown; None while the number of frames is unknown."""
        if self.times is not None:
            return self.times[-1]
        return None if self.num_frames is None else self.num_frames / self.frame_rate

    def array(self) -> np.ndarray:
        """The whole clip, ``(T, H, W, 3)`` uint8. Takes its full size in memory."""
        return np.concatenate(list(self))

    def close(self) -> None:
        """Free whatever makes the frames. Further reading gives nothing."""
        if hasattr(self.chunks, "close"):
            self.chunks.close()

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the clip to a video file while its frames are made; options as ``media.video.write_video``."""
        from LTX_2_MLX.media.video import write_video

        return write_video(self, path, **options)


def subdivide_times(times: tuple[Fraction, ...] | None, factor: int) -> tuple[Fraction, ...] | None:
    """Times of a clip with ``factor - 1`` new frames evenly between each two; the last frame keeps its share.

    N frames become ``(N - 1) * factor + 1``. None (a constant rate) stays None.
    """
    if times is None:
        return None
    *starts, end = times
    between = [
        start + (following - start) * Fraction(step, factor)
        for start, following in pairwise(starts)
        for step in range(factor)
    ]
    return (*between, starts[-1], starts[-1] + (end - starts[-1]) / factor)


def to_uint8(pixels: mx.array) -> np.ndarray:
    """Pixels in [0, 1] to uint8, same shape: clipped, rounded, then cast, in float32.

    A bare cast truncates and wraps: 254.9 becomes 254 and 300 becomes 44.

    Raises:
        OutputError: If a value is NaN or infinite.
    """
    return _to_levels(pixels, 255, mx.uint8)


def to_uint16(pixels: mx.array) -> np.ndarray:
    """Pixels in [0, 1] to uint16, same shape, as ``to_uint8`` does."""
    return _to_levels(pixels, 65535, mx.uint16)


def _to_levels(pixels: mx.array, largest: int, dtype: mx.Dtype) -> np.ndarray:
    finite = mx.isfinite(pixels).all()
    levels = mx.round(mx.clip(pixels.astype(mx.float32), 0, 1) * largest).astype(dtype)
    mx.eval(finite, levels)
    if not finite.item():
        raise OutputError(
            "The frames hold NaN or infinite values: the network overflowed. Try --fp32, or --bf16 instead of --fp16."
        )
    return np.array(levels)


def to_unit(frames: np.ndarray | mx.array, dtype: mx.Dtype = mx.float32) -> mx.array:
    """uint8 or uint16 frames to pixels in [0, 1], same shape."""
    levels = mx.array(frames)
    largest = 65535 if levels.dtype == mx.uint16 else 255
    return (levels.astype(mx.float32) / largest).astype(dtype)


def to_signed(frames: np.ndarray | mx.array, dtype: mx.Dtype = mx.float32) -> mx.array:
    """uint8 frames to pixels in [-1, 1], same shape: what video encoders take."""
    return (mx.array(frames).astype(mx.float32) / 127.5 - 1).astype(dtype)


def signed_to_uint8(pixels: mx.array) -> np.ndarray:
    """Pixels in [-1, 1], as video decoders give them, to uint8, same shape."""
    return to_uint8((pixels.astype(mx.float32) + 1) / 2)
