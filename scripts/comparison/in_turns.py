"""Two ways to the same result, timed in one run."""

import statistics
import time
from collections.abc import Callable

import numpy as np


def compare(name: str, ours: Callable[[], np.ndarray], theirs: Callable[[], np.ndarray], repeats: int) -> None:
    """Print both times, taken in turns so that whatever else the machine does falls on both."""
    difference = float(np.abs(ours() - theirs()).max())
    clocks = (time.perf_counter, time.process_time)
    seconds: dict[Callable, list[list[float]]] = {ours: [], theirs: []}
    for turn in range(repeats):
        for work in (ours, theirs) if turn % 2 else (theirs, ours):
            start = [clock() for clock in clocks]
            work()
            seconds[work].append([clock() - begun for clock, begun in zip(clocks, start, strict=True)])
    cells = []
    for clock in range(len(clocks)):
        middle, others = (statistics.median(turn[clock] for turn in seconds[work]) for work in (ours, theirs))
        cells.append(f"{middle:.3f} | {others:.3f} | {others / middle:.2f}")
    print(f"| {name} | {' | '.join(cells)} | {difference:.1e} |", flush=True)
