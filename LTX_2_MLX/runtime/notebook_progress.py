"""Progress in Jupyter notebooks: bars and notes below the cell, and the last preview, which replaces itself."""

import base64
import html
import time
from collections.abc import Callable
from pathlib import Path

from LTX_2_MLX.files import printable
from LTX_2_MLX.runtime.progress import clock_text
from LTX_2_MLX.runtime.time_left import TimeLeft

# Shows HTML below the cell and gives the function that replaces it.
Show = Callable[[str], Callable[[str], None]]
_REDRAW_SECONDS = 0.25
_MOST_NOTES = 8


class NotebookProgress:
    """A bar with the time left for each stage, the last notes, and the last preview.

    One object serves one call; IPython is asked for only here.
    """

    def __init__(self, show: Show | None = None):
        self._show = show or _shown_by_ipython
        self._replace: Callable[[str], None] | None = None
        self._replace_preview: Callable[[str], None] | None = None
        self._left = TimeLeft()
        self._bars: dict[str, tuple[int, int | None]] = {}
        self._ended: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._notes: list[str] = []
        self._drawn = 0.0

    def begin(self, stage: str) -> None:
        """Add a bar of unknown length."""
        self._started[stage] = time.perf_counter()
        self._left.begin(stage)
        self._bars[stage] = (0, None)
        self._ended.pop(stage, None)
        self._draw()

    def advance(self, stage: str, done: int, total: int | None) -> None:
        """Update the stage's bar, which is drawn at intervals."""
        self._left.advance(stage, done, total)
        self._bars[stage] = (done, total)
        if done == total or time.perf_counter() - self._drawn > _REDRAW_SECONDS:
            self._draw()

    def end(self, stage: str) -> None:
        """Replace the stage's bar by its seconds, after an interrupt too."""
        self._left.end(stage)
        self._ended[stage] = time.perf_counter() - self._started.get(stage, time.perf_counter())
        self._draw()

    def note(self, text: str) -> None:
        """Show the line."""
        self._notes = [*self._notes, printable(text)][-_MOST_NOTES:]
        self._draw()

    def preview(self, stage: str, path: Path) -> None:
        """Show a preview in the place of the last one."""
        source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
        words = f"Preview of {html.escape(stage)}, {html.escape(path.stem)}"
        image = f'<img src="{source}" alt="{words}" style="max-width: 100%">'
        if self._replace_preview is None:
            self._replace_preview = self._show(image)
        else:
            self._replace_preview(image)

    def _draw(self) -> None:
        self._drawn = time.perf_counter()
        rows = "".join(self._row(stage) for stage in self._bars)
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self._notes)
        page = f"<table>{rows}</table>{notes}"
        if self._replace is None:
            self._replace = self._show(page)
        else:
            self._replace(page)

    def _row(self, stage: str) -> str:
        done, total = self._bars[stage]
        name = html.escape(stage)
        if stage in self._ended:
            state = f"{done} of {total}, " if total and done < total else ""
            return f"<tr><td>{name}</td><td></td><td>{state}{self._ended[stage]:.1f} s</td></tr>"
        bar = f'<progress aria-label="{name}"></progress>'
        state = ""
        if total:
            bar = f'<progress aria-label="{name}" value="{done}" max="{total}"></progress>'
            state = f"{done} of {total}, {clock_text(self._left.seconds(stage))} left"
        return f"<tr><td>{name}</td><td>{bar}</td><td>{state}</td></tr>"


def _shown_by_ipython(page: str) -> Callable[[str], None]:
    """Show HTML by IPython, which every notebook has.

    Raises:
        ImportError: Outside of a notebook, where IPython is missing.
    """
    from IPython.display import HTML, display  # type: ignore[import-not-found]

    handle = display(HTML(page), display_id=True)
    return lambda changed: handle.update(HTML(changed))
