"""Time left of a stage, from the durations of its last steps."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

# Steps that the estimate looks back on: a machine that grows warm slows down.
_RECENT = 5


@dataclass(frozen=True)
class _Pace:
    """Progress of one stage.

    Attributes:
        marks: When how much was done: the start of the steps looked back on, then each of them.
        total: What is to be done; None: unknown.
        steps: Steps that have ended.
    """

    marks: tuple[tuple[float, int], ...]
    total: int | None = None
    steps: int = 0


class TimeLeft:
    """Seconds that each open stage still takes.

    Loading a network, and the first step, which compiles its kernels, count only as long as nothing better is known.
    Other threads may ask while one reports.
    """

    def __init__(self, clock: Callable[[], float] | None = None):
        self._clock = clock
        self._paces: dict[str, _Pace] = {}

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self._paces[stage] = _Pace(((self._now(), 0),))

    def advance(self, stage: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` are finished."""
        mark = (self._now(), done)
        pace = self._paces.get(stage, _Pace((mark,)))
        if done == 0:
            # Loading has ended.
            self._paces[stage] = _Pace((mark,), total)
        elif done == pace.marks[-1][1]:
            self._paces[stage] = replace(pace, total=total)
        else:
            # From the second step on the first one is left out.
            kept = pace.marks[-1:] if pace.steps == 1 else pace.marks[-_RECENT:]
            self._paces[stage] = _Pace((*kept, mark), total, pace.steps + 1)

    def end(self, stage: str) -> None:
        """A stage ended."""
        self._paces.pop(stage, None)

    def seconds(self, stage: str) -> float | None:
        """Seconds left now; None while nothing is known."""
        pace = self._paces.get(stage)
        if pace is None or pace.total is None or len(pace.marks) < 2:
            return None
        (first, done_first), (last, done_last) = pace.marks[0], pace.marks[-1]
        left = (last - first) / (done_last - done_first) * (pace.total - done_last)
        return max(left - (self._now() - last), 0.0) if left > 0 else 0.0

    def _now(self) -> float:
        return time.perf_counter() if self._clock is None else self._clock()
