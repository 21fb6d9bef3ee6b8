"""The parts of a picture that go through FlashVSR's networks one after another."""

from dataclasses import dataclass

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.super_resolve.lq_frames import Fit
from LTX_2_MLX.pipelines.super_resolve.request import Request
from LTX_2_MLX.pipelines.super_resolve.tiles import Tile, picture_tiles


@dataclass(frozen=True)
class Areas:
    """The parts of the picture that go through the networks one after another: all of it, or tiles.

    Attributes:
        tiles: Of the source, in pixels.
        fits: How each of them is enlarged.
        output: Height and width of the result.
    """

    tiles: list[Tile]
    fits: list[Fit]
    output: tuple[int, int]


def areas_of(height: int, width: int, request: Request) -> Areas:
    """How a picture is cut up.

    Raises:
        RequestError: If it is too small.
    """
    if min(height, width) < 2:
        raise RequestError(f"The clip is {width} x {height} pixels, too small to be enlarged. Give at least 2 x 2.")
    if not request.tile_dit:
        fit = Fit(height, width, request.scale, request.borders, request.resize)
        return Areas([Tile(0, 0, width, height)], [fit], fit.output)
    tiles = picture_tiles(height, width, request.tile_size, request.overlap)
    # A cropped tile would leave a gap beside it.
    fits = [Fit(t.bottom - t.top, t.right - t.left, request.scale, "pad", request.resize) for t in tiles]
    return Areas(tiles, fits, Fit(height, width, request.scale).scaled)
