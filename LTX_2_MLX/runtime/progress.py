"""Progress reporters: silent, for a terminal, or JSON lines for programs."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichBars
from rich.text import Text

from LTX_2_MLX.files import printable
from LTX_2_MLX.runtime.time_left import TimeLeft

# Drawing may take longer than a short step.
_REDRAWS_PER_SECOND = 4
_MIN_JSON_INTERVAL_SECONDS = 0.25


class Progress(Protocol):
    """Callbacks that pipelines call while they work. Implementations must be cheap: steps may be short."""

    def begin(self, stage: str) -> None:
        """A stage begins, before its model loads."""

    def advance(self, stage: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` steps, tiles or frames of the stage are finished; None if the total is unknown."""

    def end(self, stage: str) -> None:
        """A stage ended or failed."""

    def note(self, text: str) -> None:
        """Show one line to the user, such as a warning or an automatic choice."""


def show_preview(progress: Progress, stage: str, path: Path) -> None:
    """Hand a preview that was written to a reporter that shows images; the others have no ``preview``."""
    show = getattr(progress, "preview", None)
    if show is not None:
        show(stage, path)


class SilentProgress:
    """Progress reporter that prints nothing."""

    def begin(self, stage: str) -> None: ...

    def advance(self, stage: str, done: int, total: int | None) -> None: ...

    def end(self, stage: str) -> None: ...

    def note(self, text: str) -> None: ...


class NotesOnly(SilentProgress):
    """Prints notes, but no progress bars."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True)

    def note(self, text: str) -> None:
        """Print the line."""
        self._console.print(Text(printable(text)), soft_wrap=True)


class _TimeLeftColumn(ProgressColumn):
    """Time left by the durations of the last steps; rich's own column forgets steps longer than half a minute."""

    max_refresh = 0.5

    def __init__(self, left: TimeLeft):
        super().__init__()
        self._left = left

    def render(self, task: Task) -> Text:
        """``0:01:05``, or dashes while nothing is known."""
        seconds = self._left.seconds(task.description)
        return Text(clock_text(seconds), style="progress.remaining")


def clock_text(seconds: float | None) -> str:
    """Seconds as ``0:01:05``; dashes for None."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class TerminalProgress(NotesOnly):
    """A progress bar with the time left for each stage, on stderr. Without a terminal, one line when a stage ends.

    ``show_image`` shows a preview among the bars; None: previews are files alone.
    """

    def __init__(self, console: Console | None = None, show_image: Callable[[Path], None] | None = None):
        super().__init__(console)
        self._show_image = show_image
        self._left = TimeLeft()
        self._bars = RichBars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            _TimeLeftColumn(self._left),
            console=self._console,
            refresh_per_second=_REDRAWS_PER_SECOND,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def begin(self, stage: str) -> None:
        """Add a bar of unknown length."""
        self._started[stage] = time.perf_counter()
        self._left.begin(stage)
        if not self._tasks:
            self._bars.start()
        self._tasks[stage] = self._bars.add_task(stage, total=None)

    def advance(self, stage: str, done: int, total: int | None) -> None:
        """Update the stage's bar; it is redrawn at intervals."""
        self._left.advance(stage, done, total)
        if stage in self._tasks:
            self._bars.update(self._tasks[stage], completed=done, total=total)

    def preview(self, stage: str, path: Path) -> None:
        """Show the image, if the terminal can; the bars go on below it."""
        if self._show_image is not None:
            self._bars.stop()
            self._show_image(path)
            self._bars.start()

    def end(self, stage: str) -> None:
        """Stop the stage's bar; without open stages, drawing stops."""
        task = self._tasks.pop(stage, None)
        seconds = time.perf_counter() - self._started.pop(stage, 0.0)
        if task is not None:
            self._bars.stop_task(task)
        self._left.end(stage)
        if not self._tasks:
            self._bars.stop()
        if not self._console.is_terminal:
            self.note(f"{stage}: {seconds:.1f} s")


class JsonProgress:
    """Writes one JSON object per line to stderr, for programs.

    ``{"event": "begin" | "advance" | "end" | "note" | "preview" | "report" | "error", ...}``; ``seconds`` counts from
    the beginning of the stage, ``left`` follows from the last steps.
    """

    def __init__(self, file: IO[str] | None = None):
        self._file = file or sys.stderr
        self._started: dict[str, float] = {}
        self._last_written: dict[str, float] = {}
        self._left = TimeLeft()

    def write(self, event: str, **facts: Any) -> None:
        """Write one line."""
        self._file.write(json.dumps({"event": event, **facts}) + "\n")
        self._file.flush()

    def begin(self, stage: str) -> None:
        """Write that the stage begins."""
        self._started[stage] = time.perf_counter()
        self._last_written[stage] = 0.0
        self._left.begin(stage)
        self.write("begin", stage=stage)

    def advance(self, stage: str, done: int, total: int | None) -> None:
        """Write the progress of the stage, at most four times a second, and its last step."""
        now = time.perf_counter()
        self._left.advance(stage, done, total)
        if done != total and now - self._last_written.get(stage, 0.0) < _MIN_JSON_INTERVAL_SECONDS:
            return
        self._last_written[stage] = now
        seconds = now - self._started.setdefault(stage, now)
        left = _rounded(self._left.seconds(stage))
        self.write("advance", stage=stage, done=done, total=total, seconds=_rounded(seconds), left=left)

    def end(self, stage: str) -> None:
        """Write that the stage ended."""
        now = time.perf_counter()
        self._left.end(stage)
        self.write("end", stage=stage, seconds=_rounded(now - self._started.pop(stage, now)))

    def preview(self, stage: str, path: Path) -> None:
        """Write where a preview is."""
        self.write("preview", stage=stage, path=str(path))

    def note(self, text: str) -> None:
        """Write a note."""
        self.write("note", text=text)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
