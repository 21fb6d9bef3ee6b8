"""The stream of frames that every road ends in or begins with, and its number formats."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np


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
    """

    chunks: Iterable[np.ndarray]
    height: int
    width: int
    frame_rate: Fraction
    num_frames: int | None = None
    audio: Any = None
    metadata: dict[str, str] = field(default_factory=dict)

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

    def array(self) -> np.ndarray:
        """The whole clip, ``(T, H, W, 3)`` uint8. Takes its full size in memory."""
        return np.concatenate(list(self))

    def close(self) -> None:
        """Free whatever makes the frames. Further reading gives nothing."""
        if hasattr(self.chunks, "close"):
            self.chunks.close()

    def save(self, path: str | Path) -> Path:
        """Write the clip to a video file while its frames are made; see ``media.video.write_video``."""
        from LTX_2_MLX.media.video import write_video

        return write_video(self, path)


def to_uint8(pixels: mx.array) -> np.ndarray:
    """Pixels in [0, 1] to uint8, same shape: clipped, rounded, then cast, in float32.

    A bare cast truncates and wraps: 254.9 becomes 254 and 300 becomes 44.
    """
    return np.array(mx.round(mx.clip(pixels.astype(mx.float32), 0, 1) * 255).astype(mx.uint8))


def to_unit(frames: np.ndarray | mx.array, dtype: mx.Dtype = mx.float32) -> mx.array:
    """uint8 frames to pixels in [0, 1], same shape."""
    return (mx.array(frames).astype(mx.float32) / 255).astype(dtype)


def to_signed(frames: np.ndarray | mx.array, dtype: mx.Dtype = mx.float32) -> mx.array:
    """uint8 frames to pixels in [-1, 1], same shape: what video encoders take."""
    return (mx.array(frames).astype(mx.float32) / 127.5 - 1).astype(dtype)


def signed_to_uint8(pixels: mx.array) -> np.ndarray:
    """Pixels in [-1, 1], as video decoders give them, to uint8, same shape."""
    return to_uint8((pixels.astype(mx.float32) + 1) / 2)
