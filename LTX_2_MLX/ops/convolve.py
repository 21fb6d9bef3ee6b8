"""Convolutions of 3 x 3 by the faster of two exact ways."""

from functools import cached_property, lru_cache

import mlx.core as mx
import numpy as np

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
        if mx.default_device() != mx.cpu or x.dtype != mx.float32 or x.shape[1] * x.shape[2] < _FEW_PIXELS:
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
    height, width, channels = picture.shape
    border = mx.zeros(((width + 1) * channels,), dtype=picture.dtype)
    line = mx.concatenate([border, picture.reshape(-1), border])
    # Three neighbours in a row lie side by side in memory, but beyond either end of a row lies another one. Products
    # go through memory by pieces of rows, which is twice as fast as a copy value by value.
    neighbours = mx.as_strided(line, (height + 2, width, 3 * channels), (width * channels, channels, 1))
    rows = neighbours * mx.array(_within_rows(width, channels))
    total = bias
    for i, tap in enumerate(taps):
        total = mx.addmm(total, rows[i : i + height].reshape(height * width, -1), tap)
    return total.reshape(height, width, -1)


@lru_cache(maxsize=8)
def _within_rows(width: int, channels: int) -> np.ndarray:
    """1 for the neighbours in a row, 0 beyond its ends: ``(W, 3 * C)``."""
    within = np.ones((width, 3, channels), np.float32)
    within[0, 0] = within[-1, 2] = 0
    return within.reshape(width, -1)
