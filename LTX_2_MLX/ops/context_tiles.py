"""Large images through a network tile by tile, each with some context around it, which is cropped afterwards.

Unlike tiles that overlap and are blended, these are laid side by side: where the context covers the
network's receptive field, the result is that of the whole image.
"""

from collections.abc import Callable
from itertools import product

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.collective import ALONE, Group, share_out


def in_tiles(
    network: Callable[[mx.array], mx.array],
    pixels: mx.array,
    *,
    scale: int,
    tile: int,
    context: int,
    group: Group = ALONE,
) -> mx.array:
    """``network(pixels)`` computed tile by tile; each is evaluated before the next one begins.

    Args:
        network: Images ``(B, h, w, C)`` of any size to ``(B, scale * h, scale * w, C')``.
        pixels: ``(B, H, W, C)``.
        scale: Factor of the sides.
        tile: Side of a tile in input pixels; the last ones are smaller.
        context: Input pixels around a tile that the network sees as well, as far as the image goes.
        group: Processes that have the same pixels, share the tiles out, and all get the result.

    Returns:
        ``(B, scale * H, scale * W, C')``.
    """
    height, width = pixels.shape[1:3]

    def enlarged(corners: list[tuple[int, int]]) -> list[mx.array]:
        tiles = [_enlarged_tile(network, pixels, corner, scale, tile, context) for corner in corners]
        mx.eval(tiles)
        return tiles

    corners = list(product(range(0, height, tile), range(0, width, tile)))
    tiles = share_out(group, corners, enlarged)
    rows = []
    for _ in range(0, height, tile):
        rows.append(mx.concatenate([next(tiles) for _ in range(0, width, tile)], axis=2))
        mx.eval(rows[-1])
    return mx.concatenate(rows, axis=1)


def _enlarged_tile(
    network: Callable[[mx.array], mx.array],
    pixels: mx.array,
    corner: tuple[int, int],
    scale: int,
    tile: int,
    context: int,
) -> mx.array:
    """One tile without its context; ``corner`` is its first row and column."""
    top, left = corner
    height, width = pixels.shape[1:3]
    tile_height = min(tile, height - top)
    tile_width = min(tile, width - left)
    upper = max(top - context, 0)
    near = max(left - context, 0)
    enlarged = network(pixels[:, upper : top + tile + context, near : left + tile + context])
    y = (top - upper) * scale
    x = (left - near) * scale
    return enlarged[:, y : y + tile_height * scale, x : x + tile_width * scale]


def pad_reflected(pixels: mx.array, below: int, right: int) -> mx.array:
    """``(B, H, W, C)`` continued below and to the right by its own mirror image, edge pixels not doubled."""
    for axis, added in ((1, below), (2, right)):
        if added:
            indices = np.pad(np.arange(pixels.shape[axis]), (0, added), mode="reflect")
            pixels = mx.take(pixels, mx.array(indices), axis=axis)
    return pixels
