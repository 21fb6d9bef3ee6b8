"""Images sampled anew: resized, and warped along a flow, edge pixels repeated beyond the border; and how alike two are.

Resizing weighs neighbours, bilinear, bicubic or Lanczos, with half-pixel centres and no antialias. Similarity is in
NumPy: variances are differences of products, which TF32 would spoil.
"""

from functools import lru_cache
from typing import Literal

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.conv import pad_edge
from LTX_2_MLX.ops.cpu import images as cpu
from LTX_2_MLX.ops.device import on_cpu, with_plain_gradient

Kernel = Literal["linear", "cubic", "lanczos4"]
# Matrix products enlarge an image of so many channels faster than sums do (measured on two cores).
_FEW_CHANNELS = 16
# Coefficient of the bicubic kernel.
_CUBIC = -0.75
# Of the Gaussian window of structural similarity.
_TAPS, _SPREAD = 11, 1.5
# (0.01 * L) ** 2 and (0.03 * L) ** 2 for pixels from 0 to L = 1.
_C1, _C2 = 0.01**2, 0.03**2


def resize(pixels: mx.array, height: int, width: int, kernel: Kernel = "linear") -> mx.array:
    """``pixels`` at ``height`` x ``width``; edge pixels are repeated beyond the border.

    The number of neighbours is the same whatever the reduction, so a strong one skips pixels, as torch's
    ``interpolate`` without antialias (``linear``, ``cubic`` with the coefficient -0.75) and OpenCV's ``resize``
    (``lanczos4``) do.

    Args:
        pixels: ``(B, H, W, C)``, floating point.
        height: Rows of the result.
        width: Columns of the result.
        kernel: Weights of 2, 4 or 8 neighbours along each axis.

    Returns:
        ``(B, height, width, C)`` in the dtype of ``pixels``; cubic and Lanczos overshoot.
    """
    if kernel == "linear":
        factor, remainder = divmod(width, pixels.shape[2])
        is_enlarged = remainder == 0 and factor > 1 and height == factor * pixels.shape[1]
        if is_enlarged and pixels.shape[3] <= _FEW_CHANNELS and pixels.dtype == mx.float32 and on_cpu():
            return cpu.enlarge(pixels, factor)
        step, remainder = divmod(pixels.shape[2], width)
        is_reduced = remainder == 0 and step % 2 == 0 and pixels.shape[1] == step * height
        if is_reduced:
            return mx.mean(middle_pixels(pixels, step), axis=1)
    # The smaller axis first would save work only for extreme shapes; rows first copies whole rows.
    if pixels.shape[1] != height:
        pixels = _resize_axis(pixels, height, kernel, axis=1)
    if pixels.shape[2] != width:
        pixels = _resize_axis(pixels, width, kernel, axis=2)
    return pixels


def middle_pixels(x: mx.array, step: int) -> mx.array:
    """The 2×2 pixels in the middle of each cell of ``step`` x ``step``, which a bilinear reduction takes the mean of.

    Args:
        x: ``(B, H, W, ...)``; H and W are multiples of ``step``.
        step: An even number.

    Returns:
        ``(B, 4, H / step, W / step, ...)``.
    """
    first = step // 2 - 1
    samples = []
    for rows in (x[:, first::step], x[:, first + 1 :: step]):
        samples += [rows[:, :, first::step], rows[:, :, first + 1 :: step]]
    return mx.stack(samples, axis=1)


def _enlarge_axis(pixels: mx.array, factor: int, axis: int) -> mx.array:
    """Bilinear, by a whole factor: each position within a pixel is one sum over the whole array."""
    size = pixels.shape[axis]
    padded = pad_edge(pixels, axis, 1, 1)
    to_previous = mx.split(padded, [size], axis=axis)[0] - pixels
    to_next = mx.split(padded, [2], axis=axis)[1] - pixels
    slices = []
    for i in range(factor):
        position = (i + 0.5) / factor - 0.5
        slices.append(pixels + (to_next if position > 0 else to_previous) * abs(position))
    return mx.stack(slices, axis=axis + 1).flatten(axis, axis + 1)


def _resize_axis(pixels: mx.array, size: int, kernel: Kernel, axis: int) -> mx.array:
    if kernel == "linear" and size % pixels.shape[axis] == 0:
        return _enlarge_axis(pixels, size // pixels.shape[axis], axis)
    sources, weights = _taps(pixels.shape[axis], size, kernel)
    shape = [1] * pixels.ndim
    shape[axis] = size
    total: mx.array | None = None
    for source, weight in zip(sources, weights, strict=True):
        tap = mx.take(pixels, mx.array(source), axis=axis) * mx.array(weight, dtype=pixels.dtype).reshape(shape)
        total = tap if total is None else total + tap
    assert total is not None
    return total


@lru_cache(maxsize=32)
def _taps(old: int, new: int, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """Source indices and weights of every output index, each ``(taps, new)``."""
    taps = {"linear": 2, "cubic": 4, "lanczos4": 8}[kernel]
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre)
    offsets = np.arange(taps)[:, None] - (taps // 2 - 1)
    distance = np.abs(centre - first - offsets)
    if kernel == "linear":
        weights = 1 - distance
    elif kernel == "cubic":
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1
        far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
        weights = np.where(distance <= 1, near, far)
    else:
        weights = np.sinc(distance) * np.sinc(distance / 4)
    sources = np.clip(first + offsets, 0, old - 1)
    return sources.astype(np.int32), (weights / weights.sum(axis=0)).astype(np.float32)


def to_be_warped(pixels: mx.array) -> mx.array:
    """``pixels`` ``(B, H, W, C)``, in memory as warping reads them here: images that are warped often are moved once.

    The CPU's form reads one channel after another.
    """
    if not (on_cpu() and pixels.dtype == mx.float32):
        return pixels
    return mx.contiguous(pixels.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)


def warp(pixels: mx.array, flow: mx.array, step: float = 1) -> mx.array:
    """Sample each output pixel at its own position plus ``flow``, and resize to ``1 / step`` of the size, bilinear.

    Only the pixels that a reduction reads are sampled.

    Args:
        pixels: ``(B, H, W, C)``; H and W are multiples of ``step``.
        flow: ``(B, H, W, 2)``, displacement (x, y) in pixels.
        step: Reduction: an even number, 1, or a fraction below 1 for an enlargement.

    Returns:
        ``(B, H / step, W / step, C)`` in the dtype of ``pixels``.

    Source: hzwer/Practical-RIFE, model/warplayer.py at 17d8c7a: grid_sample, bilinear, border padding, corners aligned.
    """
    height, width = pixels.shape[1:3]
    # Coordinates stay float32: float16 knows only quarter pixels at a width of 448.
    x = flow[..., 0].astype(mx.float32) + mx.arange(width, dtype=mx.float32)
    y = flow[..., 1].astype(mx.float32) + mx.arange(height, dtype=mx.float32)[:, None]
    # The samples of each output pixel, ``(B, K, h, w)``.
    x = middle_pixels(x, int(step)) if step > 1 else x[:, None]
    y = middle_pixels(y, int(step)) if step > 1 else y[:, None]
    x = mx.clip(x, 0, width - 1)
    y = mx.clip(y, 0, height - 1)
    if on_cpu() and pixels.dtype == mx.float32:
        warped = with_plain_gradient(cpu.mean_of_samples, mean_of_samples, pixels, x, y)
    else:
        warped = mean_of_samples(pixels, x, y)
    return warped if step >= 1 else resize(warped, int(height / step), int(width / step))


def mean_of_samples(pixels: mx.array, x: mx.array, y: mx.array) -> mx.array:
    """Mean of the bilinear samples at columns ``x`` and rows ``y``, all inside the image.

    Args:
        pixels: ``(B, H, W, C)``.
        x: ``(B, K, h, w)``, float32, in pixels: K samples for each output pixel; 0 is the centre of the first column.
        y: As ``x``, for rows.

    Returns:
        ``(B, h, w, C)`` in the dtype of ``pixels``.
    """
    height, width = pixels.shape[1:3]
    # No coordinate is negative, so that the conversion rounds down.
    left = mx.stop_gradient(x).astype(mx.int32)
    top = mx.stop_gradient(y).astype(mx.int32)
    right = mx.minimum(left + 1, width - 1)
    bottom = mx.minimum(top + 1, height - 1)
    image = mx.arange(pixels.shape[0])[:, None, None, None]
    right_weight = (x - left)[..., None].astype(pixels.dtype)
    bottom_weight = (y - top)[..., None].astype(pixels.dtype)
    upper = _mix(pixels[image, top, left], pixels[image, top, right], right_weight)
    lower = _mix(pixels[image, bottom, left], pixels[image, bottom, right], right_weight)
    return _mix(upper, lower, bottom_weight).mean(axis=1)


def _mix(first: mx.array, second: mx.array, weight: mx.array) -> mx.array:
    return first + (second - first) * weight


def structural_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two images, 1 for equal ones, near 0 for unrelated ones.

    The Gaussian window runs over rows, columns and colours alike, edges repeated, which the usual measure per
    channel does not do.

    Args:
        first: ``(H, W, C)`` in [0, 1], float32.
        second: The same size.

    Returns:
        At most 1.

    Source: hzwer/Practical-RIFE, model/pytorch_msssim/__init__.py (``ssim_matlab``) at 17d8c7a.
    """
    height, width, channels = first.shape
    images = np.stack([first, second, first * first, second * second, first * second])
    rows = (_window(height) @ images.reshape(5, height, -1)).reshape(images.shape)
    blurred = _window(width) @ rows @ _window(channels).T
    mean_1, mean_2, square_1, square_2, mean_product = blurred
    variance_1 = square_1 - mean_1 * mean_1
    variance_2 = square_2 - mean_2 * mean_2
    covariance = mean_product - mean_1 * mean_2
    structure = (2 * covariance + _C2) / (variance_1 + variance_2 + _C2)
    brightness = (2 * mean_1 * mean_2 + _C1) / (mean_1 * mean_1 + mean_2 * mean_2 + _C1)
    return float((brightness * structure).mean())


@lru_cache(maxsize=8)
def _window(size: int) -> np.ndarray:
    """The window along an axis of ``size`` as a matrix; taps beyond the ends fall on the end itself."""
    offsets = np.arange(_TAPS) - _TAPS // 2
    taps = np.exp(-(offsets**2) / (2 * _SPREAD**2))
    matrix = np.zeros((size, size))
    for offset, tap in zip(offsets, taps / taps.sum(), strict=True):
        columns = np.clip(np.arange(size) + offset, 0, size - 1)
        matrix[np.arange(size), columns] += tap
    return matrix.astype(np.float32)
