"""Large images through a network tile by tile, each with some context around it, which is cropped afterwards.

Unlike tiles that overlap and are blended, these are laid side by side: where the context covers the
network's receptive field, the result is that of the whole image.
"""

from collections.abc import Callable

import mlx.core as mx
import numpy as np


def in_tiles(
    network: Callable[[mx.array], mx.array], pixels: mx.array, *, scale: int, tile: int, context: int
) -> mx.array:
    """``network(pixels)`` computed tile by tile; each is evaluated before the next one begins.

    Args:
        network: Images ``(B, h, w, C)`` of any size to ``(B, scale * h, scale * w, C')``.
        pixels: ``(B, H, W, C)``.
        scale: Factor of the sides.
        tile: Side of a tile in input pixels; the last ones are smaller.
        context: Input pixels around a tile that the network sees as well, as far as the image goes.

    Returns:
        ``(B, scale * H, scale * W, C')``.
    """
    height, width = pixels.shape[1:3]
    rows = []
    for top in range(0, height, tile):
        tile_height = min(tile, height - top)
        upper = max(top - context, 0)
        lower = min(top + tile + context, height)
        row = []
        for left in range(0, width, tile):
            tile_width = min(tile, width - left)
            near = max(left - context, 0)
            far = min(left + tile + context, width)
            enlarged = network(pixels[:, upper:lower, near:far])
            y = (top - upper) * scale
            x = (left - near) * scale
            row.append(enlarged[:, y : y + tile_height * scale, x : x + tile_width * scale])
            mx.eval(row[-1])
        rows.append(mx.concatenate(row, axis=2))
        mx.eval(rows[-1])
    return mx.concatenate(rows, axis=1)


def pad_reflected(pixels: mx.array, below: int, right: int) -> mx.array:
    """``(B, H, W, C)`` continued below and to the right by its own mirror image, edge pixels not doubled."""
    for axis, added in ((1, below), (2, right)):
        if added:
            indices = np.pad(np.arange(pixels.shape[axis]), (0, added), mode="reflect")
            pixels = mx.take(pixels, mx.array(indices), axis=axis)
    return pixels
