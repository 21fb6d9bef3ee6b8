"""``--report``: what a command writes down of its run, for people to look at or to attach to a bug report."""

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from PIL import Image

from LTX_2_MLX._version import __version__
from LTX_2_MLX.bench.machine import findings
from LTX_2_MLX.cli.command import check_existing
from LTX_2_MLX.errors import LTXError, MediaError
from LTX_2_MLX.files import check_writable, write_file
from LTX_2_MLX.media.contact_sheet import Layout, contact_sheet
from LTX_2_MLX.media.image import is_image, read_image, to_8_bit
from LTX_2_MLX.media.panels import scaled
from LTX_2_MLX.media.video import read_video
from LTX_2_MLX.pages.document import setting_words
from LTX_2_MLX.pages.run_report import RunFacts, StageFigures, run_page
from LTX_2_MLX.planning.plan import Plan
from LTX_2_MLX.runtime.progress import Progress, show_preview
from LTX_2_MLX.runtime.runner import StageReport, StageRunner

_SHEET = Layout(columns=4, rows=2, width=300)
_JPEG_QUALITY = 85
_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/:'\"]+/)*")


class NotesKept:
    """A reporter that hands everything on and keeps the notes, and the last preview of each stage."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self.notes: list[str] = []
        self.previews: dict[str, Path] = {}
        self.begin, self.advance, self.end = progress.begin, progress.advance, progress.end

    def note(self, text: str) -> None:
        """Keep the line, and show it."""
        self.notes.append(text)
        self._progress.note(text)

    def preview(self, stage: str, path: Path) -> None:
        """Keep where it is, and show it."""
        self.previews[stage] = path
        show_preview(self._progress, stage, path)


@dataclass
class RunPage:
    """The page on one run.

    Attributes:
        path: Of the page.
        progress: Keeps the notes.
    """

    path: Path
    progress: NotesKept

    def write(
        self, runner: StageRunner, seconds: float, output: Path | None, error: BaseException | None = None
    ) -> None:
        """Write the page, after a run that failed too.

        The runner's facts name the command, its settings and plan, and the videos of a batch, by their words.
        """
        settings: dict[str, Any] = runner.facts.get("settings", {})
        videos: dict[str, Path] = runner.facts.get("videos", {})
        outcome = f"Wrote {output.name}." if output is not None else "Done."
        if videos:
            outcome = f"Wrote {len(videos)} videos."
        if error is not None:
            outcome = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        facts = RunFacts(
            command=runner.facts.get("command", ""),
            outcome=without_folders(outcome),
            failed=error is not None,
            settings=setting_words(settings),
            machine={"LTX-2-MLX": __version__} | {finding.subject: finding.value for finding in findings()},
            stages=stage_figures(runner.facts.get("plan"), runner.reports),
            seconds=seconds,
            notes=tuple(map(without_folders, self.progress.notes)),
            sheet=b"" if error is not None or output is None else sheet_of(output),
            previews={stage: sheet_of(path) for stage, path in self.progress.previews.items()},
            videos={words: sheet_of(path) for words, path in videos.items()},
        )
        write_file(self.path, run_page(facts))


@contextmanager
def page_on(path: Path, runner: StageRunner, output: Path | None, source: Path | None, *, yes: bool) -> Iterator[None]:
    """Write a page on the run inside the block when it ends, well or not."""
    _check_page(path, output, source, yes=yes)
    page = RunPage(path, NotesKept(runner.progress))
    runner.progress = page.progress
    start = time.perf_counter()
    try:
        yield
    except typer.Exit:
        # A dry run did nothing.
        raise
    except BaseException as error:
        page.write(runner, time.perf_counter() - start, output, error)
        raise
    page.write(runner, time.perf_counter() - start, output)


def _check_page(page: Path, output: Path | None, source: Path | None, *, yes: bool) -> None:
    """Check that a page can be written, and that it replaces nothing that is read or written."""
    for other in (output, source):
        if other is not None and page.absolute() == other.absolute():
            raise MediaError(f"--report {page} is {other}, which the run uses. Give it another name.")
    if page.suffix.lower() not in (".html", ".htm"):
        raise MediaError(f"--report is {page}, expected a name that ends in .html.")
    check_writable(page, source)
    check_existing(page, yes=yes)


def without_folders(line: str) -> str:
    """A line with the folders taken out of every absolute path: they tell of the user rather than of the run."""
    # The home folder first, whose name may have spaces.
    return _FOLDERS.sub("", line.replace(f"{Path.home()}/", "/"))


def stage_figures(plan: Plan | None, reports: list[StageReport]) -> list[StageFigures]:
    """Planned and measured figures, side by side where the stages have the same name.

    A stage that ran several times has its largest peak, and all its seconds, as many times those of the plan.
    """
    planned = {} if plan is None else {stage.name: stage for stage in plan.stages}
    measured: dict[str, list[StageReport]] = {}
    for report in reports:
        measured.setdefault(report.name, []).append(report)
    figures = []
    for name in [*planned, *(name for name in measured if name not in planned)]:
        estimate, runs = planned.get(name), measured.get(name, [])
        seconds = None if estimate is None else estimate.seconds
        figures.append(
            StageFigures(
                name=name,
                planned_bytes=None if estimate is None else estimate.peak_bytes,
                peak_bytes=max((run.peak_bytes for run in runs), default=None),
                planned_seconds=None if seconds is None else seconds * max(len(runs), 1),
                seconds=sum(run.seconds for run in runs) if runs else None,
            )
        )
    return figures


def sheet_of(output: Path) -> bytes:
    """Frames of an output as JPEG; empty where it is none that can be shown, such as a folder."""
    try:
        if is_image(output):
            pixels = to_8_bit(read_image(output)).pixels
            width = min(pixels.shape[1], _SHEET.width * _SHEET.columns)
            pixels = scaled(pixels, max(1, round(pixels.shape[0] * width / pixels.shape[1])), width)
        else:
            pixels = contact_sheet(read_video(output), _SHEET)
    except LTXError:
        return b""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
