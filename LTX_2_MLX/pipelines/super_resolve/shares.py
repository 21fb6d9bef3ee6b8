"""Super-resolved tiles joined to frames, and what several machines share: the tiles, or the blocks of a whole frame's.

Tiles are independent of each other. A whole frame's networks remember the chunks before, so machines divide the
blocks of the transformer instead, and work on consecutive chunks at once; the first machine decodes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np

from LTX_2_MLX.layers.chain import run_bounds
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.flashvsr.stream import BlockShare
from LTX_2_MLX.models.wan.transformer import WanTransformer
from LTX_2_MLX.ops.collective import Group
from LTX_2_MLX.pipelines.requests import SuperResolutionMode
from LTX_2_MLX.pipelines.super_resolve.tiles import Layout, feather, join_tiles
from LTX_2_MLX.runtime.spool import Spool

# Time of decoding over that of all blocks: the Wan decoder takes 70 % of a run, and the tiny one is seven times as
# fast (FlashVSR, https://zhuang2002.github.io/FlashVSR and its paper).
_DECODING: dict[SuperResolutionMode, float] = {"full": 0.7 / 0.3, "tiny": 0.1 / 0.3, "tiny-long": 0.1 / 0.3}
TileResult = Callable[[int], Iterator[np.ndarray]]


class TileWork(Protocol):
    """What is known of a clip, and its temporary files."""

    @property
    def num_frames(self) -> int | None:
        """Frames of the source; None where only reading it tells."""

    @property
    def levels(self) -> type:
        """Type of the frames."""

    def spool(self, shape: tuple[int, ...], dtype: type = np.uint8) -> Spool:
        """A new temporary file for arrays of one shape."""


def block_share(
    group: Group,
    transformer: WanTransformer,
    projection: LQProjection,
    layout: Layout,
    mode: SuperResolutionMode | None = None,
) -> BlockShare | None:
    """The blocks of this machine, of a clip in one tile; None where each works on tiles of its own.

    Args:
        group: The machines.
        transformer: The network whose blocks are shared out.
        projection: Its tokens go to the first blocks, which stay together.
        layout: The tiles.
        mode: Of the decoder that works on the first machine meanwhile; None where it works later.
    """
    if group.size == 1 or len(layout.tiles) > 1:
        return None
    num_blocks = len(transformer.blocks)
    first = min(max(projection.config.num_layers, 1), num_blocks)
    work = [float(first), *[1.0] * (num_blocks - first)]
    if mode is not None:
        work.append(_DECODING[mode] * num_blocks)
    bounds = run_bounds(work, [0.0] * len(work), group.size)
    place = len(bounds) - 2 - group.rank
    if place < 0:
        return BlockShare(group, range(0), num_blocks)
    start, stop = (min(max(bound - 1, 0) + first, num_blocks) if bound else 0 for bound in bounds[place : place + 2])
    return BlockShare(group, range(start, stop), num_blocks)


def own_tiles(layout: Layout, group: Group) -> list[int]:
    """Numbers of the tiles that this machine works on; a single one is everyone's."""
    numbers = list(range(len(layout.tiles)))
    return numbers if len(numbers) == 1 else numbers[group.rank :: group.size]


def all_tiles(
    layout: Layout,
    work: TileWork,
    tile_result: TileResult,
    *,
    group: Group,
    report: Callable[[int, int | None], None],
    overlap: int,
    scale: float,
) -> Iterator[np.ndarray]:
    """Whole frames of the results of all tiles, each of which is made in full before the next.

    Args:
        layout: The tiles.
        work: The clip.
        tile_result: Frames of a tile, by its number.
        group: Machines that share the tiles out. The first one has the frames, and the others yield nothing.
        report: Receives the frames that are done, and their number in all; None: unknown.
        overlap: Pixels of the result that neighbouring tiles share.
        scale: Of the result.
    """
    if len(layout.tiles) == 1:
        num_done = 0
        for chunk in tile_result(0):
            num_done += len(chunk)
            report(num_done, work.num_frames)
            yield chunk
        return
    spools = _spooled_tiles(layout, work, tile_result, group, report)
    if group.rank:
        return
    targets = layout.targets(scale)
    weights = [feather(target, *layout.output, overlap) for target in targets]
    for tiles in zip(*spools, strict=True):
        frame = join_tiles(tiles, targets, weights, *layout.output)
        yield np.rint(frame).astype(work.levels)[None]


def _spooled_tiles(
    layout: Layout,
    work: TileWork,
    tile_result: TileResult,
    group: Group,
    report: Callable[[int, int | None], None],
) -> list[Spool]:
    """A file with the frames of each tile, on the first machine; a tile of every machine is made at once."""
    spools: list[Spool] = []
    num_tiles = len(layout.tiles)
    num_all = (work.num_frames or 0) * num_tiles
    num_done = 0
    for first in range(0, num_tiles, group.size):
        number = first + group.rank
        own = tile_result(number) if number < num_tiles else iter(())
        turn = layout.fits[first : first + group.size] if group.rank == 0 else []
        spools += [work.spool((*fit.output, 3), work.levels) for fit in turn]
        for chunks in _gathered(own, group):
            for rank, chunk in enumerate(chunks[: len(turn)]):
                spools[first + rank].append(chunk)
            num_done += sum(map(len, chunks))
            report(num_done, num_all)
    return spools


def _gathered(own: Iterator[np.ndarray], group: Group) -> Iterator[Sequence[np.ndarray]]:
    """The next chunk of every machine that still has one, until none has."""
    if group.size == 1:
        yield from ([chunk] for chunk in own)
        return
    while True:
        chunk = next(own, None)
        gathered = group.gather_arrays([] if chunk is None else [mx.array(chunk)])
        chunks = [np.array(array) for arrays in gathered for array in arrays]
        if not chunks:
            return
        yield chunks
