"""Tiles of the frames that are super-resolved one by one, and how they are joined."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.requests import SuperResolveRequest as Request
from LTX_2_MLX.pipelines.super_resolve.lq_frames import Fit


@dataclass(frozen=True)
class Tile:
    """A rectangle of pixels, ``right`` and ``bottom`` excluded."""

    left: int
    top: int
    right: int
    bottom: int

    def cut(self, frames: np.ndarray) -> np.ndarray:
        """This rectangle of frames ``(..., H, W, 3)``."""
        return frames[..., self.top : self.bottom, self.left : self.right, :]

    def scaled(self, scale: float) -> "Tile":
        """The same rectangle of a frame ``scale`` times as large."""
        return Tile(*(round(side * scale) for side in (self.left, self.top, self.right, self.bottom)))


@dataclass(frozen=True)
class Layout:
    """The tiles of a frame, one after another through the networks; one for the whole frame without tiling.

    Attributes:
        tiles: Of the source, in pixels.
        fits: How each of them is enlarged.
        output: Height and width of the result.
    """

    tiles: list[Tile]
    fits: list[Fit]
    output: tuple[int, int]

    def targets(self, scale: float) -> list[Tile]:
        """Where the tiles' results lie in the result, in the sizes that their fits give them."""
        height, width = self.output
        targets = []
        for tile, fit in zip(self.tiles, self.fits, strict=True):
            tile_height, tile_width = fit.output
            top = min(round(tile.top * scale), height - tile_height)
            left = min(round(tile.left * scale), width - tile_width)
            targets.append(Tile(left, top, left + tile_width, top + tile_height))
        return targets


def layout_of(height: int, width: int, request: Request) -> Layout:
    """Tiles of frames of ``height`` × ``width`` pixels.

    Raises:
        RequestError: If the frames are too small.
    """
    if min(height, width) < 2:
        raise RequestError(f"The clip is {width} x {height} pixels, too small to be enlarged. Give at least 2 x 2.")
    if not request.tile_dit:
        fit = Fit(height, width, request.scale, request.borders, request.resize)
        return Layout([Tile(0, 0, width, height)], [fit], fit.output)
    tiles = frame_tiles(height, width, request.tile_size, request.overlap)
    fits = []
    for tile in tiles:
        # A cropped tile would leave a gap beside it.
        fits.append(Fit(tile.bottom - tile.top, tile.right - tile.left, request.scale, "pad", request.resize))
    return Layout(tiles, fits, Fit(height, width, request.scale).scaled)


def frame_tiles(height: int, width: int, size: int, overlap: int, multiple: int = 1) -> list[Tile]:
    """Tiles that cover a frame, row by row; the last of a row or column moves inward to keep its size.

    Args:
        height: Of the frame.
        width: Of the frame.
        size: Side of a tile; a smaller frame gives a smaller tile.
        overlap: Pixels that neighbours share at least.
        multiple: Sides are cut down to a multiple of this.

    Raises:
        RequestError: If neighbours would share half a tile or more.
    """
    if not 0 <= overlap <= size // 2:
        raise RequestError(f"overlap is {overlap}, but it must be from 0 to half the tile size of {size}.")

    tiles = []
    for top, bottom in _spans(height, size, overlap, multiple):
        for left, right in _spans(width, size, overlap, multiple):
            tiles.append(Tile(left, top, right, bottom))
    return tiles


def _spans(length: int, size: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    """Start and end of the tiles along one side."""
    stride = size - overlap
    spans = []
    for number in range(max(1, ceil((length - overlap) / stride))):
        end = min(number * stride + size, length)
        start = max(0, end - size)
        side = max((end - start) // multiple * multiple, min(multiple, length))
        spans.append((start, start + side))
    return spans


def feather(tile: Tile, height: int, width: int, overlap: int) -> np.ndarray:
    """Weights of a tile's pixels ``(H, W)``, rising over ``overlap`` pixels from sides that have a neighbour.

    Nowhere zero, and one along the edges of the ``height`` x ``width`` frame, so that every pixel counts.
    """
    rise = np.arange(1, overlap + 1, dtype=np.float32) / max(1, overlap)
    vertical = _sides(tile.bottom - tile.top, rise, tile.top > 0, tile.bottom < height)
    horizontal = _sides(tile.right - tile.left, rise, tile.left > 0, tile.right < width)
    return np.minimum(vertical[:, None], horizontal[None])


def published_feather(tile: Tile, overlap: int) -> np.ndarray:
    """Weights of a tile's pixels as in the published tools: zero along all four sides.

    With these the outermost pixels of the whole frame come out black; ``feather`` avoids that.
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


def join_tiles(
    pixels: Sequence[np.ndarray], tiles: Sequence[Tile], weights: Sequence[np.ndarray], height: int, width: int
) -> np.ndarray:
    """Tiles' pixels ``(..., h, w, 3)`` joined to ``(..., H, W, 3)``, float32; 0 where nothing has weight."""
    total = np.zeros((*pixels[0].shape[:-3], height, width, 3), np.float32)
    sums = np.zeros((height, width, 1), np.float32)
    for tile_pixels, tile, weight in zip(pixels, tiles, weights, strict=True):
        tile.cut(total)[...] += tile_pixels * weight[..., None]
        tile.cut(sums)[...] += weight[..., None]
    return total / np.where(sums == 0, 1, sums)
