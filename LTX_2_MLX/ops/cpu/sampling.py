"""Bilinear samples with channels first, and enlargement by a whole factor as two matrix products."""

from functools import lru_cache
from itertools import product

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.conv import pad_edge

# Output pixels of one piece.
_PIECE_PIXELS = 8192


def mean_of_samples(pixels: mx.array, x: mx.array, y: mx.array) -> mx.array:
    """Mean of the samples at columns ``x`` and rows ``y``, both inside the image; evaluated.

    With channels first a weight belongs to a whole row of products, and a piece of the output stays in a core's cache
    from the first gather to the mean.

    Args:
        pixels: ``(B, H, W, C)``, float32.
        x: ``(B, K, h, w)``, float32, from 0 to W - 1: K samples for each output pixel.
        y: As ``x``, from 0 to H - 1.

    Returns:
        ``(B, h, w, C)``.
    """
    batch, height, width, channels = pixels.shape
    planes = mx.contiguous(pixels.transpose(0, 3, 1, 2)).reshape(batch, channels, height * width)
    columns = x.reshape(batch, x.shape[1], -1)
    rows = y.reshape(batch, x.shape[1], -1)
    means = mx.zeros((batch, channels, columns.shape[-1]))
    mx.eval(planes, columns, rows, means)
    # The arrays' own memory.
    values, result = np.array(planes, copy=False), np.array(means, copy=False)
    at_columns, at_rows = np.array(columns, copy=False), np.array(rows, copy=False)
    for image, start in product(range(batch), range(0, columns.shape[-1], _PIECE_PIXELS)):
        piece = slice(start, start + _PIECE_PIXELS)
        total = result[image, :, piece]
        for k in range(x.shape[1]):
            total += _samples(values[image], at_columns[image, k, piece], at_rows[image, k, piece], width)
        total /= np.float32(x.shape[1])
    return means.reshape(batch, channels, *x.shape[2:]).transpose(0, 2, 3, 1)


def _samples(planes: np.ndarray, columns: np.ndarray, rows: np.ndarray, width: int) -> np.ndarray:
    """Bilinear samples ``(C, n)`` of ``(C, H * W)``."""
    height = planes.shape[1] // width
    # The last column and row are reached from the one before, with weight 1.
    left = np.minimum(columns.astype(np.intp), max(width - 2, 0))
    top = np.minimum(rows.astype(np.intp), max(height - 2, 0))
    right_weight = columns - left.astype(np.float32)
    lower_weight = rows - top.astype(np.float32)
    index = top * width + left
    mixed: list[np.ndarray] = []
    for offset in (0, min(1, height - 1) * width):
        values = planes.take(index + offset, axis=1, mode="clip")
        mixed.append(planes.take(index + (offset + min(1, width - 1)), axis=1, mode="clip"))
        mixed[-1] -= values
        mixed[-1] *= right_weight
        mixed[-1] += values
    upper, lower = mixed
    lower -= upper
    lower *= lower_weight
    lower += upper
    return lower


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
    rows = neighbours.reshape(-1, 3 * channels) @ mx.array(_weights(factor, channels))
    rows = pad_edge(rows.reshape(batch, height, wide), 1, 1, 1)
    image_step = (height + 2) * wide
    neighbours = mx.as_strided(rows, (batch, height, 3, wide), (image_step, wide, wide, 1))
    return (mx.array(_weights(factor).T) @ neighbours).reshape(batch, factor * height, factor * width, channels)


@lru_cache(maxsize=16)
def _weights(factor: int, channels: int = 1) -> np.ndarray:
    """Weights of the pixel before, of the pixel itself and of the next one, by channel: ``(3 * C, factor * C)``."""
    positions = (np.arange(factor) + 0.5) / factor - 0.5
    distances = np.abs(positions - np.array([-1, 0, 1])[:, None])
    weights: np.ndarray = np.kron(np.maximum(0, 1 - distances), np.eye(channels)).astype(np.float32)
    return weights
