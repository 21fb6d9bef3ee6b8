"""Who hears how far a run is: nobody, a terminal, or a program reading JSON lines."""

import json
import sys
import time
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars

# Drawing costs more than a short step does: a terminal needs no more than this.
_REDRAWS_PER_SECOND = 4
_JSON_SECONDS = 0.25


class Progress(Protocol):
    """What pipelines tell while they work. Implementations must be cheap: steps may be short."""

    def begin(self, stage: str) -> None:
        """A stage begins; its model is about to load."""

    def advance(self, stage: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` steps, tiles or frames of the stage are finished (total None: unknown)."""

    def end(self, stage: str) -> None:
        """The stage is over, well or not."""

    def note(self, text: str) -> None:
        """One line for the user: a warning, a choice that was made for them."""


class SilentProgress:
    """Hears everything and says nothing."""

    def begin(self, stage: str) -> None: ...

    def advance(self, stage: str, done: int, total: int | None) -> None: ...

    def end(self, stage: str) -> None: ...

    def note(self, text: str) -> None: ...


class NotesOnly(SilentProgress):
    """No bars: only the lines that a user has to know."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True)

    def note(self, text: str) -> None:
        """Print the line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class TerminalProgress(NotesOnly):
    """A bar for each stage with the time left, on stderr. Without a terminal: one line as a stage ends."""

    def __init__(self, console: Console | None = None):
        super().__init__(console)
        self._bars = RichBars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=_REDRAWS_PER_SECOND,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def begin(self, stage: str) -> None:
        """Show a bar of unknown length."""
        self._started[stage] = time.perf_counter()
        if not self._tasks:
            self._bars.start()
        self._tasks[stage] = self._bars.add_task(stage, total=None)

    def advance(self, stage: str, done: int, total: int | None) -> None:
        """Move the stage's bar; the screen follows at its own pace."""
        if stage in self._tasks:
            self._bars.update(self._tasks[stage], completed=done, total=total)

    def end(self, stage: str) -> None:
        """Leave the bar as it stands; the last one to end stops the drawing."""
        task, seconds = self._tasks.pop(stage, None), time.perf_counter() - self._started.pop(stage, 0.0)
        if task is not None:
            self._bars.stop_task(task)
        if not self._tasks:
            self._bars.stop()
        if not self._console.is_terminal:
            self.note(f"{stage}: {seconds:.1f} s")


class JsonProgress:
    """One JSON object per line on stderr, for programs.

    ``{"event": "begin" | "advance" | "end" | "note" | "report" | "error", ...}``; ``seconds`` counts from the
    stage's begin, ``left`` is an estimate from the pace so far.
    """

    def __init__(self, file: IO[str] | None = None):
        self._file = file or sys.stderr
        self._started: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def say(self, event: str, **facts: Any) -> None:
        """Write one line."""
        self._file.write(json.dumps({"event": event, **facts}) + "\n")
        self._file.flush()

    def begin(self, stage: str) -> None:
        """Tell that the stage begins."""
        self._started[stage] = time.perf_counter()
        self._told[stage] = 0.0
        self.say("begin", stage=stage)

    def advance(self, stage: str, done: int, total: int | None) -> None:
        """Tell how far the stage is, at most four times a second; its last step always."""
        now = time.perf_counter()
        if done != total and now - self._told.get(stage, 0.0) < _JSON_SECONDS:
            return
        self._told[stage] = now
        seconds = now - self._started.setdefault(stage, now)
        left = seconds / done * (total - done) if total and done else None
        self.say("advance", stage=stage, done=done, total=total, seconds=_rounded(seconds), left=_rounded(left))

    def end(self, stage: str) -> None:
        """Tell that the stage is over."""
        now = time.perf_counter()
        self.say("end", stage=stage, seconds=_rounded(now - self._started.pop(stage, now)))

    def note(self, text: str) -> None:
        """Tell one line."""
        self.say("note", text=text)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
