"""Streams of a few grey frames, for tests that write them."""

from fractions import Fraction

import numpy as np

from LTX_2_MLX.media.frames import FrameStream


def clip_of(frames: np.ndarray, rate=Fraction(24), **facts) -> FrameStream:
    """A stream of given frames, three at a time."""
    pieces = (frames[start : start + 3] for start in range(0, len(frames), 3))
    height, width = frames.shape[1:3]
    return FrameStream(
        chunks=pieces, height=height, width=width, frame_rate=Fraction(rate), num_frames=len(frames), **facts
    )


def grey_steps(count: int, size=(32, 48)) -> np.ndarray:
    return np.stack([np.full((*size, 3), 20 + 11 * index % 200, dtype=np.uint8) for index in range(count)])
