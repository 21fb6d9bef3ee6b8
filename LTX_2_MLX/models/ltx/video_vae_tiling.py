"""Encoding and decoding in tiles that overlap and blend: for sizes that do not fit in memory whole.

Not exact: the networks see further than any overlap. In time no tiles are needed, as both networks run over a clip
piece by piece with the exact result; they serve where height and width alone are too much.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.layers.streaming import copy_frames, join_frames
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.ops.collective import ALONE, Group
from LTX_2_MLX.ops.tiling import (
    Interval,
    Tile,
    TilePlan,
    blend_tiles,
    split_axis,
    start_earlier,
    tiled_axis,
)
from LTX_2_MLX.shapes import Compression, LatentShape

_FEWEST_CELLS = 2


@dataclass(frozen=True)
class TileSize:
    """Cells of a tile along one axis, and how many of them neighbours share."""

    size: int
    overlap: int

    @classmethod
    def from_pixels(cls, size: int, overlap: int, compression: int) -> "TileSize | None":
        """From pixels (or frames); None, an axis that is not tiled, for a size of 0.

        Raises:
            RequestError: If the sizes are no multiples of the compression, or the overlap is as large as the tile.
        """
        if size == 0:
            return None
        if size % compression or overlap % compression or size < _FEWEST_CELLS * compression or overlap < 0:
            raise RequestError(
                f"A tile of {size} with an overlap of {overlap} does not fit the grid of {compression}. "
                f"Use multiples of {compression}, the tile at least {_FEWEST_CELLS * compression}."
            )
        if overlap >= size:
            raise RequestError(f"An overlap of {overlap} is too large for a tile of {size}. Use a smaller one.")
        return cls(size // compression, overlap // compression)

    def beside(self, length: int, longest: int) -> "TileSize":
        """The tile of a shorter axis, in proportion; its overlap is the same."""
        return TileSize(max(_FEWEST_CELLS, self.overlap + 1, round(self.size * length / longest)), self.overlap)


@dataclass(frozen=True)
class Tiling:
    """Tile sizes of the three axes; None: not tiled."""

    time: TileSize | None
    height: TileSize | None
    width: TileSize | None

    @classmethod
    def along_long_side(cls, latent: LatentShape, side: TileSize, time: TileSize | None) -> "Tiling":
        """``side`` along the longer of height and width, the shorter one in proportion."""
        longest = max(latent.height, latent.width)
        return cls(time, side.beside(latent.height, longest), side.beside(latent.width, longest))


def default_tiling(latent: LatentShape, compression: Compression) -> Tiling:
    """The published pipelines' tiles: 768 pixels of the long side sharing 64, 80 frames sharing 24.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/tiling.py at 400fd31.
    """
    long_side = TileSize.from_pixels(768, 64, max(compression.height, compression.width))
    assert long_side is not None
    return Tiling.along_long_side(latent, long_side, TileSize.from_pixels(80, 24, compression.time))


def decode_plan(latent: LatentShape, tiling: Tiling, compression: Compression) -> TilePlan:
    """Tiles of a latent and where they fall in the video."""
    time, height, width = _cells(latent, tiling)
    return plan_from_cells(time, height, width, compression)


def plan_from_cells(
    time: list[Interval], height: list[Interval], width: list[Interval], compression: Compression
) -> TilePlan:
    """A decoding plan of given tiles, in cells; those in time by :func:`start_earlier`."""
    return TilePlan(
        tiled_axis(time, [tile.scaled_in_time(compression.time) for tile in time], in_time=True),
        tiled_axis(height, [tile.scaled(compression.height) for tile in height]),
        tiled_axis(width, [tile.scaled(compression.width) for tile in width]),
    )


def encode_plan(latent: LatentShape, tiling: Tiling, compression: Compression) -> TilePlan:
    """Tiles of a video, planned on the latent that they make, and where they fall in it."""
    time, height, width = _cells(latent, tiling)
    return TilePlan(
        tiled_axis([tile.scaled_in_time(compression.time) for tile in time], time, in_time=True),
        tiled_axis([tile.scaled(compression.height) for tile in height], height),
        tiled_axis([tile.scaled(compression.width) for tile in width], width),
    )


def _cells(latent: LatentShape, tiling: Tiling) -> tuple[list[Interval], list[Interval], list[Interval]]:
    def split(length: int, tile: TileSize | None) -> list[Interval]:
        return [Interval(0, length)] if tile is None else split_axis(length, tile.size, tile.overlap)

    time = start_earlier(split(latent.num_frames, tiling.time))
    return time, split(latent.height, tiling.height), split(latent.width, tiling.width)


def decode_tiled(
    decoder: VideoDecoder, latent: mx.array, plan: TilePlan, key: mx.array | None = None, group: Group = ALONE
) -> Iterator[mx.array]:
    """Consecutive chunks of the video ``(B, T, H, W, 3)``, float32, about [-1, 1].

    ``key`` is that of :meth:`VideoDecoder.decode`; the processes of ``group`` share the tiles out (``blend_tiles``).
    """
    (noisy,) = decoder.add_noise([latent], key)

    def work(tile: Tile) -> mx.array:
        return join_frames(*decoder.stream([tile.crop(noisy[:, tile.time.start : tile.time.stop])], noisy=True))

    return blend_tiles(plan, work, group)


def encode_tiled(
    encoder: VideoEncoder, chunks: Iterable[mx.array], plan: TilePlan, group: Group = ALONE
) -> Iterator[mx.array]:
    """Consecutive pieces of the normalised latent of frames ``(B, T, H, W, 3)`` in [-1, 1], which come in chunks.

    No more frames are held than the tiles of one span of time reach. The processes of ``group`` share the tiles out
    (``blend_tiles``); each has the frames.
    """
    window = _Window(chunks)
    yield from blend_tiles(plan, lambda tile: encoder.encode(tile.crop(window.frames(tile.time))), group)
    # Where another process has the last tile.
    window.read_on()


class _Window:
    """The frames of a stream that the current tiles look at; it only moves forward, maybe past some frames."""

    def __init__(self, chunks: Iterable[mx.array]):
        self._chunks = iter(chunks)
        self._frames = next(self._chunks)
        self._start = 0

    def frames(self, span: Interval) -> mx.array:
        """Those of one span of time, which begins no earlier than the span before."""
        while self._start + self._frames.shape[1] <= span.start:
            self._start += self._frames.shape[1]
            self._frames = next(self._chunks)
        self._frames = copy_frames(self._frames, span.start - self._start, self._frames.shape[1])
        self._start = span.start
        while self._frames.shape[1] < len(span):
            self._frames = join_frames(self._frames, next(self._chunks))
        mx.eval(self._frames)
        return self._frames[:, : len(span)]

    def read_on(self) -> None:
        """Read the stream to its end."""
        deque(self._chunks, maxlen=0)
