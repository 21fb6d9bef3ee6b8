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
    corners = mx.take(_corners(pixels), index, axis=0)
    upper, lower = corners[..., 0, :], corners[..., 1, :]
    column = upper + (lower - upper) * lower_share
    return column[..., :channels] + (column[..., channels:] - column[..., :channels]) * right_share


def _corners(pixels: mx.array) -> mx.array:
    """Each pixel and its right neighbour, above those of the next row: ``(B * H * W, 2, 2 * C)``.

    Neighbours are neighbours in memory, so this is one copy, and one gather then finds all four. What stands beyond
    the right and the lower edge belongs to other rows or is zero; its share is zero too.
    """
    batch, height, width, channels = pixels.shape
    count = batch * height * width
    beyond = mx.zeros(((width + 1) * channels,), dtype=pixels.dtype)
    flat = mx.concatenate([pixels.reshape(-1), beyond])
    return mx.contiguous(mx.as_strided(flat, (count, 2, 2 * channels), (channels, width * channels, 1)))
