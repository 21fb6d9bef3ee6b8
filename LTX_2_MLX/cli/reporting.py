"""The runner of a command: checks of its output before the work, seconds and peak memory by stage after it."""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from LTX_2_MLX.cli.command import check_existing, exit_codes, progress_from
from LTX_2_MLX.cli.echo import echo
from LTX_2_MLX.cli.options import PlanOptions
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.encoder import CRF
from LTX_2_MLX.media.frames import FrameStream, validated
from LTX_2_MLX.media.output import check_writable, run_record
from LTX_2_MLX.media.writer import write_video
from LTX_2_MLX.pipelines.sharing import run_group
from LTX_2_MLX.planning.plan import Plan, format_bytes
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.progress import JsonProgress, Progress, TerminalProgress
from LTX_2_MLX.runtime.runner import StageReport, StageRunner
from LTX_2_MLX.runtime.this_machine import idle_gpu_warning, memory_limits


@contextmanager
def report(
    output: Path | None = None,
    *,
    source: Path | None = None,
    quiet: bool = False,
    progress: str = "bar",
    yes: bool = False,
    wired_bytes: int | None = None,
    page: Path | None = None,
    preview_inline: bool = False,
) -> Iterator[StageRunner]:
    """A runner for one command's work; at the end, seconds and peak memory by stage.

    Args:
        output: Checked before anything else: its folder exists, can be written to, and it is not ``source``.
        source: The file that is read, which must not be replaced.
        quiet: No bars and no report.
        progress: ``bar`` or ``json``.
        yes: Replace an existing output without a question.
        wired_bytes: Memory of the largest stage, where a plan says so.
        page: Where to write a page on the run, one that fails included.
        preview_inline: Show previews in the terminal.
    """
    reporter = progress_from({"quiet": quiet, "progress": progress, "preview_inline": preview_inline})
    # Of several processes, an error goes to the other ones first.
    with exit_codes(reporter) if launch.RANK is None else nullcontext(), memory_limits(wired_bytes):
        if output is not None:
            check_writable(output, source)
            check_existing(output, yes=yes)
        if page is not None:
            check_page(page, output, source, yes=yes)
        if sys.platform == "darwin":
            keep_awake()
        if gc.get_freeze_count():
            # The collections at the ends of stages pass over what the program has imported.
            gc.freeze()
        runner = StageRunner(reporter)
        if (warning := idle_gpu_warning()) is not None:
            reporter.note(warning)
        start = time.perf_counter()
        with nullcontext() if page is None else page_on(page, runner, output):
            yield runner
        _close(reporter, runner.reports, time.perf_counter() - start, output)


def keep_awake() -> None:
    """Hold off idle sleep of macOS until this process ends, however it ends."""
    # -i: no idle sleep. -w: until the process with this number has gone.
    command = ["caffeinate", "-i", "-w", str(os.getpid())]
    try:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        # The work does not depend on it.
        return


def check_page(page: Path, output: Path | None, source: Path | None, *, yes: bool) -> None:
    """Check that a page can be written, and that it replaces nothing that is read or written."""
    for other in (output, source):
        if other is not None and page.absolute() == other.absolute():
            raise MediaError(f"--report {page} is {other}, which the run uses. Give it another name.")
    if page.suffix.lower() not in (".html", ".htm"):
        raise MediaError(f"--report is {page}, expected a name that ends in .html.")
    check_writable(page, source)
    check_existing(page, yes=yes)


@contextmanager
def page_on(path: Path, runner: StageRunner, output: Path | None) -> Iterator[None]:
    """Write a page on the run inside the block when it ends, well or not."""
    from LTX_2_MLX.cli.run_page import NotesKept, RunPage

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


def plan_text(plan: Plan, *, as_json: bool) -> str:
    """A plan as ``--dry-run`` prints it."""
    return json.dumps(plan.as_json(), indent=1) if as_json else "\n".join(plan.lines())


def preflight(plan: Plan, own: PlanOptions, advice: str, runner: StageRunner) -> None:
    """Print a plan and end the command, or refuse one that does not fit; ``advice`` says what to pass instead."""
    if own.dry_run:
        echo(plan_text(plan, as_json=own.json))
        tell_machines(own)
        raise typer.Exit
    runner.facts["plan"] = plan
    if not own.force:
        plan.check(advice)


def tell_machines(own: PlanOptions) -> None:
    """Say with a plan that several machines share the run."""
    size = run_group().size
    if size > 1 and not own.json:
        echo(f"{size} machines share the work; each needs this memory. docs/SEVERAL-MACS.md says what is shared.")


def write_result(stream: FrameStream, request: Any, command: str, own: Any, runner: StageRunner) -> None:
    """Write a processed video with the record of its request, unless it is blank."""
    runner.facts |= {"command": command, "settings": asdict(request)}
    tags: dict[str, str] = {}
    if own.metadata:
        tags = run_record(command, asdict(request), beside=stream.metadata, note=runner.progress.note)
    stream = stream.replace(metadata=tags)
    stream = stream if own.allow_blank else validated(stream)
    crf = CRF if own.crf is None else own.crf
    write_video(stream, own.output, crf=crf, exact_size=own.exact_size, progress=runner.progress)


def _close(progress: Progress, reports: list[StageReport], seconds: float, output: Path | None) -> None:
    if isinstance(progress, JsonProgress):
        stages = []
        for stage in reports:
            figures = {"seconds": round(stage.seconds, 3)}
            figures |= {"peak_bytes": stage.peak_bytes, "process_bytes": stage.process_bytes}
            stages.append({"stage": stage.name} | figures)
        progress.write("report", stages=stages, seconds=round(seconds, 3), output=str(output) if output else None)
    elif isinstance(progress, TerminalProgress):
        for line in report_lines(reports, seconds):
            progress.note(line)
        if output is not None:
            progress.note(f"Wrote {output}")


def report_lines(reports: list[StageReport], seconds: float) -> list[str]:
    """Seconds and peak memory by stage, a line each, and those of the whole run."""
    width = max((len(stage.name) for stage in reports), default=0)
    lines = [
        f"{stage.name:<{width}}  {stage.seconds:8.1f} s  peak {format_bytes(stage.peak_bytes)}" for stage in reports
    ]
    largest = max((stage.process_bytes for stage in reports), default=0)
    process = f", process peak {format_bytes(largest)}" if largest else ""
    return [*lines, f"{seconds:.1f} s in all{process}"]
