"""Large arrays in tiles: where the tiles lie, how they weigh where they meet, and putting them together.

Tiles are planned on one grid (a latent's cells) and mapped to another (pixels and frames). Time has a rule of its own,
since the first cell stands for one frame and every other for several: each tile but the first starts one cell
earlier, so that what its first frame lacks is not seen.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/tiling.py and model/video_vae/{video_vae,
conv_video_decoder}.py at 400fd31.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.collective import ALONE, Group, share_out

# Weights that sum to one within this are not divided by their sum.
_SUM_TOLERANCE = 1e-5
_SMALLEST_SUM = 1e-8


@dataclass(frozen=True)
class Interval:
    """One tile's reach along one axis, ``[start, stop)``, and how many of its samples fade in and out."""

    start: int
    stop: int
    fade_in: int = 0
    fade_out: int = 0

    def __len__(self) -> int:
        return self.stop - self.start

    def scaled(self, factor: int) -> "Interval":
        """The same reach in height or width on a grid ``factor`` times as fine."""
        return Interval(*(factor * n for n in (self.start, self.stop, self.fade_in, self.fade_out)))

    def scaled_in_time(self, factor: int) -> "Interval":
        """The same reach in frames, where cell 0 is one frame and every later one ``factor``."""
        return Interval(
            start=factor * self.start,
            stop=1 + factor * (self.stop - 1),
            fade_in=1 + factor * (self.fade_in - 1) if self.fade_in else 0,
            fade_out=factor * self.fade_out,
        )


def split_axis(length: int, size: int, overlap: int) -> list[Interval]:
    """Tiles of ``size`` cells that share ``overlap`` with each neighbour; the last one may be shorter."""
    if length <= size:
        return [Interval(0, length)]
    num_tiles = -(-(length - overlap) // (size - overlap))
    starts = [i * (size - overlap) for i in range(num_tiles)]
    return _faded([(start, min(start + size, length)) for start in starts], overlap)


def split_evenly(length: int, num_tiles: int, overlap: int) -> list[Interval]:
    """``num_tiles`` tiles that share ``overlap``; their lengths differ by one cell at most, the longer ones first."""
    size, longer = divmod(length + overlap * (num_tiles - 1), num_tiles)
    spans = []
    start = 0
    for i in range(num_tiles):
        stop = start + size + (i < longer)
        spans.append((start, stop))
        start = stop - overlap
    return _faded(spans, overlap)


def _faded(spans: list[tuple[int, int]], overlap: int) -> list[Interval]:
    last = len(spans) - 1
    return [Interval(*span, overlap * (i > 0), overlap * (i < last)) for i, span in enumerate(spans)]


def start_earlier(tiles: Sequence[Interval]) -> list[Interval]:
    """Tiles in time, each but the first taking one cell more in front."""
    return [
        tile if tile.start == 0 else Interval(tile.start - 1, tile.stop, tile.fade_in + 1, tile.fade_out)
        for tile in tiles
    ]


def blend_weights(tile: Interval, in_time: bool = False) -> np.ndarray:
    """Weights of a tile's samples along one axis, float32; those of neighbours sum to one where they meet.

    In time the first weight is zero: that sample belongs to the extra cell in front.
    """
    weights = np.ones(len(tile), np.float32)
    if tile.fade_in:
        steps = np.arange(tile.fade_in) / tile.fade_in if in_time else _ramp(tile.fade_in)
        weights[: tile.fade_in] *= steps.astype(np.float32)
    if tile.fade_out:
        weights[-tile.fade_out :] *= (1 - _ramp(tile.fade_out)).astype(np.float32)
    return weights


def _ramp(length: int) -> np.ndarray:
    return np.arange(1, length + 1) / (length + 1)


@dataclass(frozen=True)
class TiledAxis:
    """One axis: its tiles where they are read, the same tiles where their results go, and the results' weights."""

    sources: list[Interval]
    targets: list[Interval]
    weights: list[np.ndarray]

    @cached_property
    def weights_sum(self) -> np.ndarray:
        """Sum of all tiles' weights at each target sample."""
        total = np.zeros(self.targets[-1].stop, np.float32)
        for tile, weights in zip(self.targets, self.weights, strict=True):
            total[tile.start : tile.stop] += weights
        return total

    @property
    def sums_to_one(self) -> bool:
        """Whether the tiles can be added up without dividing by the sum of their weights."""
        return bool(np.abs(self.weights_sum - 1).max() <= _SUM_TOLERANCE)


def tiled_axis(sources: Sequence[Interval], targets: Sequence[Interval], in_time: bool = False) -> TiledAxis:
    """An axis with the weights that belong to its targets."""
    return TiledAxis(list(sources), list(targets), [blend_weights(tile, in_time) for tile in targets])


@dataclass(frozen=True)
class Tile:
    """Where one tile is read."""

    time: Interval
    height: Interval
    width: Interval

    def crop(self, x: mx.array) -> mx.array:
        """This tile's height and width of ``(B, T, H, W, C)``, all of its frames."""
        return x[:, :, self.height.start : self.height.stop, self.width.start : self.width.stop]


@dataclass(frozen=True)
class TilePlan:
    """All tiles of an array: every combination of the three axes' tiles, time the slowest, width the fastest."""

    time: TiledAxis
    height: TiledAxis
    width: TiledAxis

    @property
    def sums_to_one(self) -> bool:
        """Whether weights sum to one everywhere."""
        return all(axis.sums_to_one for axis in (self.time, self.height, self.width))


def blend_tiles(plan: TilePlan, work: Callable[[Tile], mx.array], group: Group = ALONE) -> Iterator[mx.array]:
    """Work on every tile by itself and join the results.

    Args:
        plan: Where tiles lie.
        work: One tile to its result ``(B, T, H, W, C)``; called in the plan's order.
        group: Processes that share the tiles out. The first one joins them, and the others yield nothing.

    Yields:
        Consecutive chunks of the joined result, float32, evaluated; each as soon as no later tile reaches it.
    """
    results = share_out(group, _all_tiles(plan), lambda tiles: [work(tile) for tile in tiles])
    if group.rank:
        deque(results, maxlen=0)
        return
    waiting: mx.array | None = None
    position = 0
    for number, target in enumerate(plan.time.targets):
        if waiting is not None and target.start > position:
            num_finished = target.start - position
            yield _divided(plan, waiting[:, :num_finished], position)
            waiting = waiting[:, num_finished:]
        position = target.start
        span = _blend_space(plan, number, results)
        mx.eval(span)
        waiting = span if waiting is None else _add_overlapping(waiting, span)
    if waiting is not None:
        yield _divided(plan, waiting, position)


def _all_tiles(plan: TilePlan) -> Iterator[Tile]:
    for time in plan.time.sources:
        for height in plan.height.sources:
            for width in plan.width.sources:
                yield Tile(time, height, width)


def _blend_space(plan: TilePlan, number: int, results: Iterator[mx.array]) -> mx.array:
    """The next results, which are all tiles of one span of time, weighted and added up."""
    height = plan.height.targets[-1].stop
    width = plan.width.targets[-1].stop
    time_weights = plan.time.weights[number][:, None, None]
    total: mx.array | None = None
    for rows, row_weights in _targets(plan.height):
        for columns, column_weights in _targets(plan.width):
            tile = next(results).astype(mx.float32)
            weights = time_weights * row_weights[:, None] * column_weights
            weighted = tile * mx.array(weights)[None, ..., None]
            if total is None:
                total = mx.zeros((*tile.shape[:2], height, width, tile.shape[-1]))
            target = (slice(None), slice(None), slice(rows.start, rows.stop), slice(columns.start, columns.stop))
            total[target] = total[target] + weighted
            mx.eval(total)
    assert total is not None, "a plan has at least one tile"
    return total


def _targets(axis: TiledAxis) -> Iterator[tuple[Interval, np.ndarray]]:
    return zip(axis.targets, axis.weights, strict=True)


def _add_overlapping(first: mx.array, second: mx.array) -> mx.array:
    """Two arrays that begin with the same frame, added; the longer one's end stays as it is."""
    short, long = (first, second) if first.shape[1] <= second.shape[1] else (second, first)
    shared = short.shape[1]
    return mx.concatenate([short + long[:, :shared], long[:, shared:]], axis=1)


def _divided(plan: TilePlan, chunk: mx.array, position: int) -> mx.array:
    if not plan.sums_to_one:
        time = plan.time.weights_sum[position : position + chunk.shape[1]]
        total = time[:, None, None] * plan.height.weights_sum[:, None] * plan.width.weights_sum
        chunk = chunk / mx.maximum(mx.array(total), _SMALLEST_SUM)[None, ..., None]
    mx.eval(chunk)
    return chunk
