"""Pictures pulled along a flow: bilinear samples at any place, edge pixels repeated beyond the border."""

import mlx.core as mx


def warp(pixels: mx.array, flow: mx.array) -> mx.array:
    """Each output pixel taken from its own place plus ``flow``.

    Coordinates stay float32: float16 knows only quarter pixels at a width of 448.

    Args:
        pixels: ``(B, H, W, C)``.
        flow: ``(B, H, W, 2)``, displacement (x, y) in pixels.

    Returns:
        ``(B, H, W, C)`` in the dtype of ``pixels``.

    Source: hzwer/Practical-RIFE, model/warplayer.py at 17d8c7a: grid_sample, bilinear, border padding, corners aligned.
    """
    height, width = pixels.shape[1:3]
    x = flow[..., 0].astype(mx.float32) + mx.arange(width, dtype=mx.float32)
    y = flow[..., 1].astype(mx.float32) + mx.arange(height, dtype=mx.float32)[:, None]
    return sample_bilinear(pixels, x, y)


def sample_bilinear(pixels: mx.array, x: mx.array, y: mx.array) -> mx.array:
    """Bilinear samples of ``pixels`` at columns ``x`` and rows ``y``, clamped to the picture.

    Args:
        pixels: ``(B, H, W, C)``.
        x: ``(B, ...)``, float32, in pixels; 0 is the centre of the first column.
        y: Like ``x``, for rows.

    Returns:
        ``(B, ..., C)`` in the dtype of ``pixels``.
    """
    batch, height, width, channels = pixels.shape
    x, y = mx.clip(x, 0, width - 1), mx.clip(y, 0, height - 1)
    left, top = mx.floor(x), mx.floor(y)
    right_share = (x - left)[..., None].astype(pixels.dtype)
    lower_share = (y - top)[..., None].astype(pixels.dtype)
    first_row = mx.arange(batch).reshape(-1, *[1] * (x.ndim - 1)) * height
    index = (first_row + top.astype(mx.int32)) * width + left.astype(mx.int32)
    corners = mx.take(_corners(pixels).reshape(-1, 4 * channels), index, axis=0)
    upper_left, upper_right, lower_left, lower_right = mx.split(corners, 4, axis=-1)
    upper = upper_left + (upper_right - upper_left) * right_share
    lower = lower_left + (lower_right - lower_left) * right_share
    return upper + (lower - upper) * lower_share


def _corners(pixels: mx.array) -> mx.array:
    """Each pixel beside its right, lower and lower right neighbour, ``(B, H, W, 4 * C)``.

    One gather of four neighbours costs little more than a gather of one.
    """
    pairs = mx.concatenate([pixels, _shifted(pixels, axis=2)], axis=-1)
    return mx.concatenate([pairs, _shifted(pairs, axis=1)], axis=-1)


def _shifted(pixels: mx.array, axis: int) -> mx.array:
    """The next pixel along ``axis``; the last one repeats itself."""
    size = pixels.shape[axis]
    return mx.take(pixels, mx.minimum(mx.arange(1, size + 1), size - 1), axis=axis)
