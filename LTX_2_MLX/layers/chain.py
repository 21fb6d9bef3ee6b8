"""Layers that a clip goes through one after another in pieces, on several processes.

Each process computes a run of consecutive steps, and sends its pieces to the process before it in number,
so that the first one has the result. The pieces are those of one process, and so are their bits. All work at once as
soon as the first piece has arrived.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from LTX_2_MLX.layers.streaming import Layer, Piece, continue_pieces, joined_steps, stream_pieces
from LTX_2_MLX.ops.collective import Group


@dataclass(frozen=True)
class ChainLayer:
    """One layer of a chain.

    Attributes:
        steps: What it does with a piece, one step after another; processes share steps out.
        most: Frames of a piece.
        work: Operations of a step for the whole clip, on any scale.
        late: By how much a step's result lags behind its input, as a share of the clip.
    """

    steps: Sequence[Layer]
    most: int
    work: float = 1.0
    late: float = 0.0


def run_chain(layers: Sequence[ChainLayer], chunks: Iterable[mx.array], group: Group) -> Iterator[mx.array]:
    """What several processes make of a clip, piece by piece; the first one yields it, the others nothing.

    Every process has the clip's chunks, and reads them to their end.
    """
    work = [layer.work for layer in layers for _ in layer.steps]
    late = [layer.late for layer in layers for _ in layer.steps]
    bounds = run_bounds(work, late, group.size)
    place = len(bounds) - 2 - group.rank
    if place:
        deque(chunks, maxlen=0)
    if place < 0:
        return
    received = _received(group) if place else None
    for piece, last in _own_pieces(layers, (bounds[place], bounds[place + 1]), chunks, received):
        if group.rank:
            group.send_piece(piece, group.rank - 1, last=last)
        else:
            yield piece


def run_bounds(work: Sequence[float], late: Sequence[float], num_processes: int) -> list[int]:
    """Where the runs of steps begin and end that take the least time together: one more number than there are runs.

    A run begins when the steps before it have made its first piece. There are no more runs than steps.

    Args:
        work: Of each step, on any scale.
        late: By how much each step's result lags behind its input, as a share of the clip.
        num_processes: Most runs.
    """
    waits = [_wait(work[:start], late[:start]) for start in range(len(work))]
    num_runs = min(num_processes, len(work))
    # The time of the runs that cover the first steps, and where they begin.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for run in range(num_runs):
        found: dict[int, tuple[float, list[int]]] = {}
        stops = [len(work)] if run == num_runs - 1 else range(run + 1, len(work))
        for stop in stops:
            options = []
            for start, (seconds, starts) in best.items():
                if start < stop:
                    options.append((max(seconds, waits[start] + sum(work[start:stop])), [*starts, start]))
            if options:
                found[stop] = min(options)
        best = found
    return [*best[len(work)][1], len(work)]


def _wait(work: Sequence[float], late: Sequence[float]) -> float:
    """Work until the last of some steps makes its first piece."""
    total = 0.0
    needed = 0.0
    for step_work, step_late in zip(reversed(work), reversed(late), strict=True):
        needed = min(needed + step_late, 1.0)
        total += step_work * needed
    return total


def _own_pieces(
    layers: Sequence[ChainLayer], run: tuple[int, int], chunks: Iterable[mx.array], received: Iterator[Piece] | None
) -> Iterator[Piece]:
    """The pieces of one run of steps, from the clip's chunks or from those that another process sends."""
    pieces = received
    first = 0
    for layer in layers:
        own = layer.steps[max(run[0] - first, 0) : max(run[1] - first, 0)]
        if own and pieces is not None and run[0] > first:
            # The other process has cut the pieces of this layer.
            pieces = continue_pieces(joined_steps(own), pieces)
        elif own:
            frames = chunks if pieces is None else _frames(pieces)
            pieces = stream_pieces(joined_steps(own), frames, layer.most)
        first += len(layer.steps)
    assert pieces is not None, "a run has at least one step"
    return pieces


def _received(group: Group) -> Iterator[Piece]:
    last = False
    while not last:
        piece, last = group.receive_piece(group.rank + 1)
        yield piece, last
        del piece


def _frames(pieces: Iterable[Piece]) -> Iterator[mx.array]:
    return (piece for piece, _ in pieces)
