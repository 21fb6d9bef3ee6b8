"""Bilinear enlargement by a whole factor, as two matrix products."""

from functools import lru_cache

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.pad import pad_edge


def enlarge(pixels: mx.array, factor: int) -> mx.array:
    """``(B, H, W, C)`` to ``(B, factor * H, factor * W, C)``, edge pixels repeated beyond the border.

    Every output pixel is a sum over three input pixels along each axis.
    """
    batch, height, width, channels = pixels.shape
    wide = factor * width * channels
    padded = pad_edge(pixels, 2, 1, 1)
    row_step = (width + 2) * channels
    # Three neighbours in a row with all their channels are adjacent in memory.
    neighbours = mx.as_strided(padded, (batch * height, width, 3 * channels), (row_step, channels, 1))
    rows = neighbours.reshape(-1, 3 * channels) @ mx.array(_row_weights(factor, channels))
    rows = pad_edge(rows.reshape(batch, height, wide), 1, 1, 1)
    image_step = (height + 2) * wide
    neighbours = mx.as_strided(rows, (batch, height, 3, wide), (image_step, wide, wide, 1))
    return (mx.array(_weights(factor)) @ neighbours).reshape(batch, factor * height, factor * width, channels)


@lru_cache(maxsize=16)
def _weights(factor: int) -> np.ndarray:
    """Weights of the pixel before, of the pixel itself and of the next one: ``(factor, 3)``."""
    positions = (np.arange(factor) + 0.5) / factor - 0.5
    distances = np.abs(positions[:, None] - np.array([-1, 0, 1]))
    weights: np.ndarray = np.maximum(0, 1 - distances).astype(np.float32)
    return weights


@lru_cache(maxsize=16)
def _row_weights(factor: int, channels: int) -> np.ndarray:
    """The same for pixels with all their channels: ``(3 * C, factor * C)``."""
    weights: np.ndarray = np.kron(_weights(factor).T, np.eye(channels, dtype=np.float32))
    return weights
