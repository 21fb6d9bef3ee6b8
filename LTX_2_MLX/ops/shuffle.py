"""Channels to pixels and back, in rows and columns."""

import mlx.core as mx


def pixel_shuffle(x: mx.array, factor: int) -> mx.array:
    """Channels ``(channel, row, column)`` to pixels: ``(B, H, W, C * f * f)`` -> ``(B, f * H, f * W, C)``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, height * factor, width * factor, -1)


def pixel_unshuffle(x: mx.array, factor: int) -> mx.array:
    """Pixels to channels ``(channel, row, column)``: ``(B, f * H, f * W, C)`` -> ``(B, H, W, C * f * f)``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // factor, width // factor, -1)
