"""Two ways to the same result, timed in one run."""

import statistics
import time
from collections.abc import Callable

import numpy as np

Work = Callable[[], np.ndarray]


def medians(ours: Work, theirs: Work, repeats: int) -> list[tuple[float, float]]:
    """Seconds of ours and of theirs, by the wall's clock and by that of this process.

    Taken in turns, so that whatever else the machine does falls on both.
    """
    clocks = (time.perf_counter, time.process_time)
    seconds: dict[Work, list[list[float]]] = {ours: [], theirs: []}
    for turn in range(repeats):
        for work in (ours, theirs) if turn % 2 else (theirs, ours):
            start = [clock() for clock in clocks]
            work()
            seconds[work].append([clock() - begun for clock, begun in zip(clocks, start, strict=True)])
    one, other = (
        [statistics.median(turn[clock] for turn in seconds[work]) for clock in (0, 1)] for work in (ours, theirs)
    )
    return list(zip(one, other, strict=True))


def compare(name: str, ours: Work, theirs: Work, repeats: int, frames: int = 1) -> None:
    """Print both times, of one of the ``frames`` that each way gives."""
    difference = float(np.abs(ours() - theirs()).max())
    times = [[seconds / frames for seconds in pair] for pair in medians(ours, theirs, repeats)]
    cells = [f"{one:.3f} | {other:.3f} | {other / one:.2f}" for one, other in times]
    print(f"| {name} | {' | '.join(cells)} | {difference:.1e} |", flush=True)
