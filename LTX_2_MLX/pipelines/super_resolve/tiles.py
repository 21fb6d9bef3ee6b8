"""Tiles of a picture that are super-resolved one by one, and how they become one picture again."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from LTX_2_MLX.errors import RequestError


@dataclass(frozen=True)
class Tile:
    """A rectangle of pixels; the far sides are not part of it."""

    left: int
    top: int
    right: int
    bottom: int

    def cut(self, frames: np.ndarray) -> np.ndarray:
        """This part of frames ``(..., H, W, 3)``."""
        return frames[..., self.top : self.bottom, self.left : self.right, :]

    def scaled(self, scale: float) -> "Tile":
        """The same rectangle of a picture ``scale`` times as large."""
        return Tile(*(round(side * scale) for side in (self.left, self.top, self.right, self.bottom)))


def picture_tiles(height: int, width: int, size: int, overlap: int, multiple: int = 1) -> list[Tile]:
    """Tiles that cover a picture, row by row; the last of a row or column moves inward to keep its size.

    Args:
        height: The picture's.
        width: The picture's.
        size: Side of a tile; a smaller picture gives a smaller tile.
        overlap: Pixels that neighbours share at least.
        multiple: Sides are cut down to a multiple of this.

    Raises:
        RequestError: If neighbours would share half a tile or more.
    """
    if not 0 <= overlap <= size // 2:
        raise RequestError(f"overlap is {overlap}, but it must be from 0 to half the tile size of {size}.")

    def spans(length: int) -> list[tuple[int, int]]:
        stride = size - overlap
        ends = [min(i * stride + size, length) for i in range(max(1, ceil((length - overlap) / stride)))]
        starts = [max(0, end - size) for end in ends]
        return [
            (start, start + max((end - start) // multiple * multiple, min(multiple, length)))
            for start, end in zip(starts, ends, strict=True)
        ]

    return [Tile(left, top, right, bottom) for top, bottom in spans(height) for left, right in spans(width)]


def feather(tile: Tile, height: int, width: int, overlap: int) -> np.ndarray:
    """Weights of a tile's pixels ``(H, W)``, rising over ``overlap`` pixels from sides that have a neighbour.

    Nowhere zero, and one along the edges of the ``height`` x ``width`` picture, so that every pixel counts.
    """
    rise = np.arange(1, overlap + 1, dtype=np.float32) / max(1, overlap)
    vertical = _sides(tile.bottom - tile.top, rise, tile.top > 0, tile.bottom < height)
    horizontal = _sides(tile.right - tile.left, rise, tile.left > 0, tile.right < width)
    return np.minimum(vertical[:, None], horizontal[None])


def published_feather(tile: Tile, overlap: int) -> np.ndarray:
    """Weights of a tile's pixels as the published tools have them: zero along all four sides.

    With these the outermost pixels of the whole picture come out black; ``feather`` does what they meant.
    """
    rise = np.linspace(0, 1, overlap, dtype=np.float32)
    vertical = _sides(tile.bottom - tile.top, rise, True, True)
    horizontal = _sides(tile.right - tile.left, rise, True, True)
    return np.minimum(vertical[:, None], horizontal[None])


def _sides(length: int, rise: np.ndarray, before: bool, after: bool) -> np.ndarray:
    weights = np.ones(length, np.float32)
    rise = rise[:length]
    if before and len(rise):
        weights[: len(rise)] = np.minimum(weights[: len(rise)], rise)
    if after and len(rise):
        weights[-len(rise) :] = np.minimum(weights[-len(rise) :], rise[::-1])
    return weights


def join_picture(
    parts: Sequence[np.ndarray], tiles: Sequence[Tile], weights: Sequence[np.ndarray], height: int, width: int
) -> np.ndarray:
    """Tiles' pixels ``(..., h, w, 3)`` as one picture ``(..., H, W, 3)``, float32; 0 where nothing has weight."""
    total = np.zeros((*parts[0].shape[:-3], height, width, 3), np.float32)
    sums = np.zeros((height, width, 1), np.float32)
    for part, tile, weight in zip(parts, tiles, weights, strict=True):
        tile.cut(total)[...] += part * weight[..., None]
        tile.cut(sums)[...] += weight[..., None]
    return total / np.where(sums == 0, 1, sums)
