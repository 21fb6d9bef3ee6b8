"""A script's ``main`` to a command: errors to a line and an exit code, progress, plans, the closing report.

Exit codes: 0 done; 1 the library failed; 2 the request, a file or the machine will not do; 130 Ctrl-C; 143 SIGTERM.
"""

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from LTX_2_MLX.cli.options import ProgressKind
from LTX_2_MLX.errors import LTXError, MediaError, OutputError, RequestError
from LTX_2_MLX.media.output import check_free, check_writable
from LTX_2_MLX.planning.plan import Plan
from LTX_2_MLX.runtime.memory import memory_limits, resource_advice
from LTX_2_MLX.runtime.progress import JsonProgress, NotesOnly, Progress, TerminalProgress
from LTX_2_MLX.runtime.runner import StageReport, StageRunner

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "REFUSED",
    "TERMINATED",
    "app",
    "check_disk",
    "check_output",
    "exit_codes",
    "preflight",
    "progress_for",
    "report",
    "report_lines",
    "run",
    "told",
]

FAILED, REFUSED, INTERRUPTED, TERMINATED = 1, 2, 130, 143
# Typer's own, or that of Click in older versions.
UsageError = typer.BadParameter.__base__
# Set to anything to see where an unexpected error comes from.
TRACEBACK_VARIABLE = "LTX_2_MLX_TRACEBACK"


class OneLineCommand(TyperCommand):
    """A command whose mistyped options are told as every other error: in one line."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **options: Any) -> Any:
        """As Typer makes it; an empty name of a file is refused, which ``Path`` takes for this folder."""
        # Typer takes the words out of the list.
        words = list(args)
        try:
            context = super().make_context(info_name, args, *rest, **options)
        except UsageError as error:
            text = error.format_message().rstrip(".")
            _leave(None, f"{text}. Its options are told by {Path(info_name or 'the command').name} --help.", REFUSED)
        here = [name for name, value in context.params.items() if value == Path()]
        if len(here) > sum(word.rpartition("=")[2] in (".", "./") for word in words):
            _leave(None, f"The name given for {here[0]} is empty. Is a variable of the shell not set?", REFUSED)
        return context


class Terminated(BaseException):
    """SIGTERM. Not an ``Exception``, so that only the outermost frame catches it, as with Ctrl-C."""


def run(main: Callable[..., Any]) -> None:
    """Run a script's ``main`` as its command."""
    app(main)()


def app(main: Callable[..., Any]) -> typer.Typer:
    """A script's ``main`` as a command whose errors are one line on stderr and an exit code."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @functools.wraps(main)
    def guarded(*args: Any, **options: Any) -> Any:
        with exit_codes():
            if options.get("json") and options.get("dry_run") is False:
                raise RequestError("--json does nothing without --dry-run. Pass both.")
            return main(*args, **options)

    command.command(cls=OneLineCommand)(guarded)
    return command


@contextmanager
def report(
    output: Path | None = None,
    *,
    source: Path | None = None,
    quiet: bool = False,
    progress: ProgressKind = ProgressKind.bar,
    wired_bytes: int | None = None,
) -> Iterator[StageRunner]:
    """A runner for one command's work; at the end, seconds and peak memory by stage.

    Args:
        output: Checked before anything else: its folder exists, can be written to, and it is not ``source``.
        source: The file that is read, which must not be replaced.
        quiet: No bars and no report.
        progress: Bars or JSON lines.
        wired_bytes: What the largest stage needs, where a plan says so.
    """
    voice = progress_for(quiet, progress)
    with exit_codes(voice), memory_limits(wired_bytes):
        if output is not None:
            check_output(output, source)
        runner, start = StageRunner(voice), time.perf_counter()
        yield runner
        _close(voice, runner.reports, time.perf_counter() - start, output)


def progress_for(quiet: bool, kind: ProgressKind) -> Progress:
    """Who hears of the work."""
    if kind is ProgressKind.json:
        return JsonProgress()
    return NotesOnly() if quiet else TerminalProgress()


def told(plan: Plan, *, as_json: bool) -> str:
    """A plan as ``--dry-run`` prints it."""
    return json.dumps(plan.as_json(), indent=1) if as_json else "\n".join(plan.lines())


def preflight(plan: Plan, *, dry_run: bool, as_json: bool, force: bool, cure: str) -> None:
    """Print a plan and end the command, or refuse one that does not fit; ``cure`` says what to pass instead."""
    if dry_run:
        typer.echo(told(plan, as_json=as_json))
        raise typer.Exit
    if not force:
        plan.check(cure)


def check_disk(plan: Plan, output: Path, states: Path | None = None) -> None:
    """Raise ``MediaError`` if the film, or the states that are kept of it, cannot find room on their disks."""
    check_free(output, plan.output_bytes)
    if states is not None:
        check_free(states, plan.states_bytes)


def check_output(output: Path, source: Path | None = None) -> None:
    """Raise ``MediaError`` unless ``output`` can be written and is not the file that is read."""
    check_writable(output)
    if source is not None and output.exists() and source.exists() and output.samefile(source):
        raise MediaError(f"{output} is the input itself. Give --output another name.")


@contextmanager
def exit_codes(voice: Progress | None = None) -> Iterator[None]:
    """Turn what goes wrong inside into one line on stderr and the command's exit code."""
    try:
        with _sigterm_raises():
            yield
    except LTXError as error:
        _leave(voice, f"{type(error).__name__}: {error}", FAILED if isinstance(error, OutputError) else REFUSED)
    except KeyboardInterrupt:
        _leave(voice, "Interrupted; nothing half-written is left behind.", INTERRUPTED)
    except Terminated:
        _leave(voice, "Terminated; nothing half-written is left behind.", TERMINATED)
    except (typer.Exit, typer.Abort, SystemExit):
        raise
    except BrokenPipeError:
        # Whoever read our output has gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        cure = resource_advice(error)
        text = cure or (
            f"{type(error).__name__}: {error}. This is a fault of ours; run again with {TRACEBACK_VARIABLE}=1 "
            f"to see where it comes from, and report it."
        )
        _leave(voice, text, FAILED)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_terminated(*_: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(voice: Progress | None, text: str, code: int) -> None:
    if isinstance(voice, JsonProgress):
        voice.write("error", text=text, code=code)
    else:
        Console(stderr=True, soft_wrap=True).print(" ".join(text.split()), highlight=False, markup=False)
    raise typer.Exit(code)


def _close(voice: Progress, reports: list[StageReport], seconds: float, output: Path | None) -> None:
    if isinstance(voice, JsonProgress):
        stages = [
            {
                "stage": r.name,
                "seconds": round(r.seconds, 3),
                "peak_bytes": r.peak_bytes,
                "process_bytes": r.process_bytes,
            }
            for r in reports
        ]
        voice.write("report", stages=stages, seconds=round(seconds, 3), output=str(output) if output else None)
    elif isinstance(voice, TerminalProgress):
        for line in report_lines(reports, seconds):
            voice.note(line)
        if output is not None:
            voice.note(f"Wrote {output}")


def report_lines(reports: list[StageReport], seconds: float) -> list[str]:
    """Seconds and peak memory by stage, a line each, and the whole run's."""
    width = max((len(r.name) for r in reports), default=0)
    lines = [f"{r.name:<{width}}  {r.seconds:8.1f} s  peak {_gib(r.peak_bytes)}" for r in reports]
    whole = max((r.process_bytes for r in reports), default=0)
    return [*lines, f"{seconds:.1f} s in all" + (f", process peak {_gib(whole)}" if whole else "")]


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
