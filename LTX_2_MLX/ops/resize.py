"""Pictures to another size by weighted neighbours: bilinear, bicubic or Lanczos, half-pixel centres, no antialias."""

from functools import lru_cache
from typing import Literal

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.ops.pad import pad_edge

Kernel = Literal["linear", "cubic", "lanczos4"]
# Values that one piece of a line becomes when it is enlarged.
_PIECE = 32


def resize(pixels: mx.array, height: int, width: int, kernel: Kernel = "linear") -> mx.array:
    """``pixels`` at ``height`` x ``width``; edge pixels are repeated beyond the border.

    The number of neighbours is the same whatever the reduction, so a strong one skips pixels, as torch's
    ``interpolate`` without antialias (``linear``, ``cubic`` with the coefficient -0.75) and OpenCV's ``resize``
    (``lanczos4``) do.

    Args:
        pixels: ``(B, H, W, C)``, floating point.
        height: Rows wanted.
        width: Columns wanted.
        kernel: Weights of 2, 4 or 8 neighbours along each axis.

    Returns:
        ``(B, height, width, C)`` in the dtype of ``pixels``; cubic and Lanczos overshoot.
    """
    if kernel == "linear" and _in_pieces(pixels, height, width):
        return _enlarge_planes(pixels[..., 0], width // pixels.shape[2])[..., None]
    # The smaller axis first would save work only for extreme shapes; rows first copies whole rows.
    if pixels.shape[1] != height:
        pixels = _resize_axis(pixels, height, kernel, axis=1)
    if pixels.shape[2] != width:
        pixels = _resize_axis(pixels, width, kernel, axis=2)
    return pixels


def _enlarge_axis(pixels: mx.array, factor: int, axis: int) -> mx.array:
    """Bilinear, by a whole factor: each place within a pixel is one sum over the whole array."""
    size = pixels.shape[axis]
    padded = pad_edge(pixels, axis, 1, 1)
    to_previous = mx.split(padded, [size], axis=axis)[0] - pixels
    to_next = mx.split(padded, [2], axis=axis)[1] - pixels
    parts = []
    for i in range(factor):
        place = (i + 0.5) / factor - 0.5
        parts.append(pixels + (to_next if place > 0 else to_previous) * abs(place))
    return mx.stack(parts, axis=axis + 1).flatten(axis, axis + 1)


def _in_pieces(pixels: mx.array, height: int, width: int) -> bool:
    """Whether planes are better enlarged as products: on the CPU, where single values are slow to place."""
    factor, rest = divmod(width, pixels.shape[2])
    whole = rest == 0 and height == factor * pixels.shape[1] and factor > 1 and pixels.shape[3] == 1
    pieces = whole and _PIECE % factor == 0 and width % _PIECE == 0
    return pieces and pixels.dtype == mx.float32 and on_cpu()


def _enlarge_planes(planes: mx.array, factor: int) -> mx.array:
    """Bilinear, ``(N, H, W)`` by a whole factor: pieces of lines, then of columns, each times a small matrix."""
    count, height, width = planes.shape
    size, wide = _PIECE // factor, factor * width
    # Every piece has a neighbour at both ends.
    pieces = mx.as_strided(
        pad_edge(planes, 2, 1, 1), (count * height, width // size, size + 2), (width + 2, size, 1)
    ).reshape(-1, size + 2)
    lines = (pieces @ mx.array(_piece_weights(size, factor))).reshape(count, height, wide)
    stride = (height + 2) * wide
    columns = mx.as_strided(pad_edge(lines, 1, 1, 1), (count, height, 3, wide), (stride, wide, wide, 1))
    return (mx.array(_piece_weights(1, factor)).T @ columns).reshape(count, factor * height, wide)


@lru_cache(maxsize=16)
def _piece_weights(size: int, factor: int) -> np.ndarray:
    """What each of ``size`` values and their two neighbours gives to each of the values that they become."""
    places = (np.arange(size * factor) + 0.5) / factor + 0.5
    return np.maximum(0, _linear(places - np.arange(size + 2)[:, None])).astype(np.float32)


def _resize_axis(pixels: mx.array, size: int, kernel: Kernel, axis: int) -> mx.array:
    if kernel == "linear" and size % pixels.shape[axis] == 0:
        return _enlarge_axis(pixels, size // pixels.shape[axis], axis)
    places, weights = _taps(pixels.shape[axis], size, kernel)
    shape = [1] * pixels.ndim
    shape[axis] = size
    total = None
    for place, weight in zip(places, weights, strict=True):
        part = mx.take(pixels, mx.array(place), axis=axis) * mx.array(weight, dtype=pixels.dtype).reshape(shape)
        total = part if total is None else total + part
    return total


@lru_cache(maxsize=32)
def _taps(old: int, new: int, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """Source places and weights of every output place, each ``(taps, new)``."""
    weigh, taps = {"linear": (_linear, 2), "cubic": (_cubic, 4), "lanczos4": (_lanczos4, 8)}[kernel]
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre)
    offsets = np.arange(taps)[:, None] - (taps // 2 - 1)
    weights = weigh(centre - first - offsets)
    places = np.clip(first + offsets, 0, old - 1)
    return places.astype(np.int32), (weights / weights.sum(axis=0)).astype(np.float32)


def _linear(distance: np.ndarray) -> np.ndarray:
    return 1 - np.abs(distance)


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, far)


def _lanczos4(distance: np.ndarray) -> np.ndarray:
    return np.sinc(distance) * np.sinc(distance / 4)
