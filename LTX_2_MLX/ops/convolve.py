"""Convolutions of 3 x 3 by the faster of two exact ways."""

from functools import cached_property, lru_cache

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.device import on_cpu

# Below this many pixels the framework's own way is as fast on the CPU.
_FEW_PIXELS = 1024


def convolve_3x3(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """Convolution with a kernel of 3 x 3, zeros around the picture.

    On the CPU the framework lays out all nine neighbours of every pixel before it multiplies. Laying out three and
    adding up three products takes a third of the memory and, where that does not fit the caches, half the time
    (at 128 x 224 pixels with 64 channels: 40 ms instead of 86).

    Args:
        x: ``(B, H, W, C)``.
        weight: ``(O, 3, 3, C)``.
        bias: ``(O,)``; None adds nothing.

    Returns:
        ``(B, H, W, O)``.
    """
    return Taps(weight, bias)(x)


class Taps:
    """A kernel of 3 x 3 ready for pictures, to be used again and again: see ``convolve_3x3``."""

    def __init__(self, weight: mx.array, bias: mx.array | None = None):
        self._weight = weight
        self._bias = mx.zeros(weight.shape[:1], dtype=weight.dtype) if bias is None else bias

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, H, W, C)`` to ``(B, H, W, O)``."""
        if not on_cpu() or x.dtype != mx.float32 or x.shape[1] * x.shape[2] < _FEW_PIXELS:
            return mx.conv2d(x, self._weight, padding=1) + self._bias
        pictures = [_by_rows(picture, self._rows, self._bias)[None] for picture in x]
        # Of one picture this is no copy.
        return mx.concatenate(pictures)

    @cached_property
    def _rows(self) -> list[mx.array]:
        """For each row of the kernel ``(3 * C, O)``, of contiguous rows a view: BLAS takes that without a copy."""
        rows = mx.contiguous(self._weight.transpose(1, 0, 2, 3))
        return [row.flatten(1).T for row in rows]


def _by_rows(picture: mx.array, taps: list[mx.array], bias: mx.array) -> mx.array:
    height, width, _ = picture.shape
    # The rows of neighbours above, around and below the picture's serve three of its own each.
    rows = neighbours(picture, 1, 3)
    total = bias
    for i, tap in enumerate(taps):
        total = mx.addmm(total, rows[i * width : (i + height) * width], tap)
    return total.reshape(height, width, -1)


def neighbours(picture: mx.array, tall: int, wide: int) -> mx.array:
    """All windows of ``tall`` x ``wide`` pixels over a picture with zeros around it, one pixel to each side.

    Args:
        picture: ``(H, W, C)``, float32.
        tall: Rows of a window, 1 or 2.
        wide: Columns of a window, 2 or 3.

    Returns:
        ``((H + 3 - tall) * (W + 3 - wide), tall * wide * C)``.
    """
    height, width, channels = picture.shape
    border = mx.zeros(((width + 1) * channels,), dtype=picture.dtype)
    line = mx.concatenate([border, picture.reshape(-1), border])
    # Neighbours in a row lie side by side in memory, but beyond either end of a row lies another one. Products go
    # through memory by pieces of rows, which is twice as fast as a copy value by value.
    step = width * channels
    sizes = (height + 3 - tall, width + 3 - wide, tall, wide * channels)
    windows = mx.as_strided(line, sizes, (step, channels, step, 1)) * mx.array(_within_rows(width, channels, wide))
    return windows.reshape(-1, tall * wide * channels)


@lru_cache(maxsize=16)
def _within_rows(width: int, channels: int, wide: int) -> np.ndarray:
    """1 for the neighbours in a row, 0 beyond its ends: ``(W + 3 - wide, 1, wide * C)``."""
    within = np.ones((width + 3 - wide, wide, channels), np.float32)
    within[0, 0] = within[-1, -1] = 0
    return within.reshape(-1, 1, wide * channels)
