"""Images warped along a flow: bilinear samples, edge pixels repeated beyond the border."""

import mlx.core as mx

from LTX_2_MLX.ops.cpu import sampling
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.ops.resize import middle_pixels, resize


def warp(pixels: mx.array, flow: mx.array) -> mx.array:
    """Sample each output pixel at its own position plus ``flow``.

    Args:
        pixels: ``(B, H, W, C)``.
        flow: ``(B, H, W, 2)``, displacement (x, y) in pixels.

    Returns:
        ``(B, H, W, C)`` in the dtype of ``pixels``.

    Source: hzwer/Practical-RIFE, model/warplayer.py at 17d8c7a: grid_sample, bilinear, border padding, corners aligned.
    """
    x, y = _positions(flow)
    return mean_of_samples(pixels, x[:, None], y[:, None])


def warp_resized(pixels: mx.array, flow: mx.array, step: float) -> mx.array:
    """``warp(pixels, flow)`` resized to ``1 / step`` of its size, bilinear.

    Only the pixels that the reduction reads are sampled.

    Args:
        pixels: ``(B, H, W, C)``; H and W are multiples of ``step``.
        flow: ``(B, H, W, 2)``, displacement (x, y) in pixels.
        step: Reduction: an even number, 1, or a fraction below 1 for an enlargement.

    Returns:
        ``(B, H / step, W / step, C)`` in the dtype of ``pixels``.
    """
    if step <= 1:
        height, width = pixels.shape[1:3]
        return resize(warp(pixels, flow), int(height / step), int(width / step))
    x, y = _positions(flow)
    return mean_of_samples(pixels, middle_pixels(x, int(step)), middle_pixels(y, int(step)))


def mean_of_samples(pixels: mx.array, x: mx.array, y: mx.array) -> mx.array:
    """Mean of the bilinear samples at columns ``x`` and rows ``y``, clamped to the image.

    Coordinates stay float32: float16 knows only quarter pixels at a width of 448.

    Args:
        pixels: ``(B, H, W, C)``.
        x: ``(B, K, h, w)``, float32, in pixels: K samples for each output pixel; 0 is the centre of the first column.
        y: As ``x``, for rows.

    Returns:
        ``(B, h, w, C)`` in the dtype of ``pixels``.
    """
    height, width = pixels.shape[1:3]
    x = mx.clip(x, 0, width - 1)
    y = mx.clip(y, 0, height - 1)
    if on_cpu() and pixels.dtype == mx.float32:
        return sampling.mean_of_samples(pixels, x, y)
    # No coordinate is negative, so that the conversion rounds down.
    left = x.astype(mx.int32)
    top = y.astype(mx.int32)
    right = mx.minimum(left + 1, width - 1)
    bottom = mx.minimum(top + 1, height - 1)
    image = mx.arange(pixels.shape[0])[:, None, None, None]
    right_weight = (x - left)[..., None].astype(pixels.dtype)
    bottom_weight = (y - top)[..., None].astype(pixels.dtype)
    upper = _mix(pixels[image, top, left], pixels[image, top, right], right_weight)
    lower = _mix(pixels[image, bottom, left], pixels[image, bottom, right], right_weight)
    return _mix(upper, lower, bottom_weight).mean(axis=1)


def _positions(flow: mx.array) -> tuple[mx.array, mx.array]:
    """Columns and rows to sample at, each ``(B, H, W)``, float32."""
    height, width = flow.shape[1:3]
    x = flow[..., 0].astype(mx.float32) + mx.arange(width, dtype=mx.float32)
    y = flow[..., 1].astype(mx.float32) + mx.arange(height, dtype=mx.float32)[:, None]
    return x, y


def _mix(first: mx.array, second: mx.array, weight: mx.array) -> mx.array:
    return first + (second - first) * weight
