"""Commands: a function and its options as a program with one-line errors, exit codes, and a report of its stages.

Exit codes: 0 success; 1 failure of the library; 2 invalid request, file or machine; 129 SIGHUP; 130 Ctrl-C;
143 SIGTERM. Modules of commands import MLX and FFmpeg inside their functions, so that ``--help`` and errors in the
arguments answer at once.
"""

import gc
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from LTX_2_MLX.cli.echo import echo
from LTX_2_MLX.cli.options import (
    SEED_FLAG,
    UNSET,
    PlanOptions,
    RunOptions,
    VideoOptions,
    WriteOptions,
    parameters,
    with_each_seed,
    with_random_seed,
)
from LTX_2_MLX.errors import LTXError, OutputError, RequestError
from LTX_2_MLX.files import printable, remove_unfinished, without_writing
from LTX_2_MLX.pipelines.options import (
    NONE,
    PRECISION_FLAGS,
    check_options,
    declared_options,
    precision,
    refuse_without_effect,
)
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.progress import JsonProgress, NotesOnly, Progress, SilentProgress, TerminalProgress
from LTX_2_MLX.runtime.this_machine import require_mlx

if TYPE_CHECKING:
    from LTX_2_MLX.cli.upscale import UpscaleOptions
    from LTX_2_MLX.media.frames import FrameStream
    from LTX_2_MLX.planning.plan import Plan
    from LTX_2_MLX.runtime.runner import StageReport, StageRunner

FAILED = 1
REFUSED = 2
HANGUP = 129
INTERRUPTED = 130
TERMINATED = 143
# Typer's own, or that of Click in older versions.
UsageError: Any = typer.BadParameter.__base__
# Set to anything to see where an unexpected error comes from.
TRACEBACK_VARIABLE = "LTX_2_MLX_TRACEBACK"
_CONTEXT = "context"


class OneLineCommand(TyperCommand):
    """A Typer command whose errors are one line and an exit code, usage errors as JSON with ``--progress json``."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **options: Any) -> Any:
        """Parse the arguments; an error in them ends the program."""
        # Typer takes the words out of the list.
        words = list(args)
        if SEED_FLAG in " ".join(words):
            for parameter in self.params:
                if parameter.name == "seed":
                    args = with_random_seed(with_each_seed(words) if getattr(parameter, "multiple", False) else words)
        try:
            return super().make_context(info_name, args, *rest, **options)
        except UsageError as error:
            parent = options.get("parent")
            started = f"{parent.command_path} {info_name}" if parent else _started(info_name)
            progress = JsonProgress() if _wants_json(words) else None
            _leave(
                progress,
                f"{error.format_message().rstrip('.')}.{_dash_hint(error, words)} Run `{started} --help`.",
                alike=True,
            )
        raise AssertionError("unreachable")

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error ends the program."""
        with exit_codes(progress_from(ctx.params)):
            return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options under the headings of their groups."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = getattr(parameter, "rich_help_panel", None) or "Options"
                is_argument = parameter.param_type_name == "argument"
                groups.setdefault("Arguments" if is_argument else heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Ended(BaseException):
    """A signal that ends the program. Not an ``Exception``, so that only the outermost frame catches it.

    Attributes:
        word: For the message.
        code: Exit code.
    """

    def __init__(self, word: str, code: int):
        super().__init__(word)
        self.word = word
        self.code = code


# Signals that came.
_arrived: list[Ended] = []


def command(
    name: str, run: Callable[..., None], own: type = RunOptions, request: type | None = None
) -> Callable[..., None]:
    """The ``main`` of a command.

    Args:
        name: The command with underscores, as its script is called.
        run: Called with the typed options of ``request`` by name, then with ``own``; or with ``own`` alone.
        own: Dataclass with the command's own options.
        request: Dataclass with the options of the library call.

    Returns:
        Runs the command on the arguments of this process. With keyword arguments, as Typer passes them, it runs on
        those.
    """
    own_options = declared_options(own)
    given = parameters(own)
    if request is not None:
        of_request = parameters(request, positional_optional=True)
        given = [each for each in of_request if each.name not in own_options] + given
    # Arguments come first in the help text.
    given.sort(key=lambda each: each.annotation.__metadata__[0].__class__ is not typer.models.ArgumentInfo)

    def main(**values: Any) -> None:
        if not values:
            run_command(main)
            return
        context = values.pop(_CONTEXT, None)
        # All of them count as typed where no command line was parsed.
        typed = {}
        for each, value in values.items():
            source = context and context.get_parameter_source(each)
            if context is None or (source is not None and source.name != "DEFAULT"):
                typed[each] = value
        with without_writing() if values.get("dry_run") else nullcontext():
            options = own(**typed_options(own, typed))
            check_options(options)
            refuse_without_effect(options)
            require_mlx()
            with nullcontext() if launch.RANK is None else _machines(name), _downloads(options):
                if request is None:
                    run(options)
                else:
                    run(typed_options(request, typed), options)

    main.__name__ = name
    main.__doc__ = run.__doc__
    context_parameter = inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    main.__signature__ = inspect.Signature([*given, context_parameter])  # type: ignore[attr-defined]
    main.__annotations__ = {each.name: each.annotation for each in [*given, context_parameter]}
    return main


def _machines(name: str) -> Any:
    """The other processes that ``mlx.launch`` started with this command."""
    from LTX_2_MLX.cli.machines import joined_command

    return joined_command(name)


@contextmanager
def _downloads(options: Any) -> Iterator[None]:
    """Downloads on first use inside the block, for a command that writes something; a dry run downloads nothing."""
    if not isinstance(options, WriteOptions) or getattr(options, "dry_run", False):
        yield
        return
    from LTX_2_MLX.checkpoints.catalog import OBTAIN
    from LTX_2_MLX.cli.first_use import FirstUse

    token = OBTAIN.set(FirstUse(progress_from(vars(options)), yes=options.yes, forbidden=options.no_download))
    try:
        yield
    finally:
        OBTAIN.reset(token)


def typed_options(options: type, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of a dataclass that were typed, by the names of its fields.

    ``none`` leaves out a file or a number that is recorded, ``--fp16`` is the field ``precision``.

    Raises:
        RequestError: If the name of a file is empty, or two precisions were typed.
    """
    found: dict[str, Any] = {}
    for name, declared in declared_options(options).items():
        opt = declared.opt
        if name == "precision":
            flags = {}
            for flag in PRECISION_FLAGS:
                if flag in typed:
                    flags[flag] = typed[flag]
            if flags:
                found[name] = precision(**flags)
        if name not in typed:
            continue

        value = typed[name]
        if value is UNSET or (opt.is_file and declared.optional and value in (NONE, [NONE])):
            found[name] = None
            continue
        several = declared.repeated or opt.one_or_more
        if several:
            value = tuple(value or ())
        if declared.repeated and opt.is_file and value == (NONE,):
            value = ()
        if (opt.is_file or opt.is_output) and "" in (value if several else (value,)):
            raise RequestError(f"The name given for {declared.flag} is empty. Is a shell variable unset?")
        found[name] = value
    return found


def run_command(main: Callable[..., Any], **settings: Any) -> None:
    """Run a function, or a Typer program of several, as the program, and leave at once where a signal has ended it."""
    if hasattr(sys.stdout, "reconfigure"):
        # A terminal without Unicode gets question marks instead of a traceback.
        sys.stdout.reconfigure(errors="replace")
    program = main if isinstance(main, typer.Typer) else as_program(main)
    # Says to ``report`` that all that is imported before the work stays until the end.
    gc.freeze()
    try:
        program(**settings)
    except SystemExit as error:
        if error.code in (HANGUP, INTERRUPTED, TERMINATED) or launch.RANK is not None:
            # MLX may still compute in its threads, and ending Python under them is a memory fault. One of several
            # processes would be ended without its exit code while Python ends.
            remove_unfinished()
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(int(error.code or 0))
        raise


def as_program(main: Callable[..., Any]) -> typer.Typer:
    """A function as a Typer program whose errors are one line on stderr and an exit code."""
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    program.command(cls=OneLineCommand)(main)
    return program


def progress_from(values: Mapping[str, Any]) -> Progress:
    """The reporter that ``--quiet`` and ``--progress`` ask for. Of several processes the first one reports."""
    if launch.FOLLOWS:
        return SilentProgress()
    if values.get("progress") == "json":
        return JsonProgress()
    if values.get("preview_inline"):
        from LTX_2_MLX.cli.inline_images import terminal_images

        return TerminalProgress(show_image=terminal_images())
    return NotesOnly() if values.get("quiet") else TerminalProgress()


@contextmanager
def exit_codes(progress: Progress | None = None) -> Iterator[None]:
    """Turn an error inside into one line on stderr and the exit code of the command."""
    try:
        # One of several processes ends at once until it has joined the others, see ``joined_command``.
        with ended_by_signals() if launch.RANK is None else nullcontext():
            yield
    except LTXError as error:
        code = FAILED if isinstance(error, OutputError) else REFUSED
        _leave(progress, f"{type(error).__name__}: {error}", code, getattr(error, "__notes__", ()), alike=True)
    except KeyboardInterrupt:
        _leave(progress, "Interrupted; nothing half-written is left behind.", INTERRUPTED)
    except Ended as error:
        _leave(progress, f"{error.word}; nothing half-written is left behind.", error.code)
    except (typer.Exit, typer.Abort, SystemExit):
        raise
    except BrokenPipeError:
        # The reader closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except Exception as error:
        if _arrived:
            # An import that a signal interrupts may turn it into an error of its own.
            _leave(progress, f"{_arrived[0].word}; nothing half-written is left behind.", _arrived[0].code)
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        _leave(progress, _explanation(error), FAILED)


def _explanation(error: Exception) -> str:
    if isinstance(error, ImportError) and "MLX" in str(error):
        return str(error)
    from LTX_2_MLX.runtime.this_machine import resource_advice

    return resource_advice(error) or (
        f"{type(error).__name__}: {error}. This is a bug in this program; run again with {TRACEBACK_VARIABLE}=1 "
        f"to see where it comes from, and report it."
    )


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise ``Ended`` inside the block, so that it cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {}
    for number, word, code in ((signal.SIGTERM, "Terminated", TERMINATED), (signal.SIGHUP, "Hung up", HANGUP)):
        # nohup leaves SIGHUP ignored, and so it stays.
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, partial(_raise_ended, word, code))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _raise_ended(word: str, code: int, *_: Any) -> None:
    _arrived.append(Ended(word, code))
    raise _arrived[-1]


def _leave(
    progress: Progress | None, text: str, code: int = REFUSED, notes: Iterable[str] = (), *, alike: bool = False
) -> None:
    """End the program with an error, followed by the notes of what had been chosen.

    ``alike``: every process of a run has this error, until they have met.
    """
    if launch.FOLLOWS:
        from LTX_2_MLX.cli.machines import follower_text

        text, notes = follower_text(text, alike), ()
    # The terminal may be gone.
    with suppress(OSError):
        if not text:
            pass
        elif isinstance(progress, JsonProgress):
            progress.write("error", text=text, code=code)
        else:
            NotesOnly().note(" ".join(text.split()))
            for line in notes:
                NotesOnly().note(line)
    raise typer.Exit(code)


def _started(info_name: str | None) -> str:
    path = sys.argv[0]
    return f"python {path}" if path.endswith(f"{info_name}") and path.endswith(".py") else str(info_name)


def _wants_json(words: list[str]) -> bool:
    return "--progress=json" in words or ("--progress", "json") in pairwise(words)


def _dash_hint(error: Any, words: list[str]) -> str:
    name = getattr(error, "option_name", None)
    is_text = any(" " in word and word.startswith("-") for word in words)
    return " Put -- before a prompt that begins with a dash." if name and is_text else ""


def check_existing(path: Path, *, yes: bool) -> None:
    """Ask before a file is replaced; without a terminal it is replaced unasked.

    Raises:
        RequestError: If the answer is no.
    """
    if yes or not path.exists() or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if not typer.confirm(printable(f"{path} exists. Replace it?"), err=True):
        raise RequestError(f"{path} was kept. Give --output another name.")


def check_recorded_files(paths: Sequence[Path], *, yes: bool, note: Callable[[str], None]) -> None:
    """Ask before files are read that a record names; without a terminal they are listed, and read unasked.

    Raises:
        RequestError: If the answer is no.
    """
    if yes or not paths:
        return
    listed = f"The record names files outside its folder and weights/: {', '.join(map(str, paths))}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        note(listed)
    elif not typer.confirm(printable(f"{listed}. Read them?"), err=True):
        raise RequestError("The recorded files were not read. Name other ones with their flags.")


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
) -> "Iterator[StageRunner]":
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
    from LTX_2_MLX.files import check_writable
    from LTX_2_MLX.runtime.runner import StageRunner
    from LTX_2_MLX.runtime.this_machine import idle_gpu_warning, memory_limits

    reporter = progress_from({"quiet": quiet, "progress": progress, "preview_inline": preview_inline})
    # Of several processes, an error goes to the other ones first.
    with exit_codes(reporter) if launch.RANK is None else nullcontext(), memory_limits(wired_bytes):
        if output is not None:
            check_writable(output, source)
            check_existing(output, yes=yes)
        runner = StageRunner(reporter)
        paged: Any = nullcontext()
        if page is not None:
            from LTX_2_MLX.cli.run_page import page_on

            paged = page_on(page, runner, output, source, yes=yes)
        with paged:
            if sys.platform == "darwin":
                keep_awake()
            if gc.get_freeze_count():
                # The collections at the ends of stages pass over what the program has imported.
                gc.freeze()
            if (warning := idle_gpu_warning()) is not None:
                reporter.note(warning)
            start = time.perf_counter()
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


def plan_text(plan: "Plan", *, as_json: bool) -> str:
    """A plan as ``--dry-run`` prints it."""
    return json.dumps(plan.as_json(), indent=1) if as_json else "\n".join(plan.lines())


def preflight(plan: "Plan", own: PlanOptions, advice: str, runner: "StageRunner") -> None:
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
    from LTX_2_MLX.pipelines.sharing import run_group

    size = run_group().size
    if size > 1 and not own.json:
        echo(f"{size} machines share the work; each needs this memory. docs/SEVERAL-MACS.md says what is shared.")


def write_result(
    stream: "FrameStream", request: Any, command: str, own: "VideoOptions | UpscaleOptions", runner: "StageRunner"
) -> None:
    """Write a processed video with the record of its request, unless it is blank."""
    from LTX_2_MLX.media.encoder import CRF
    from LTX_2_MLX.media.frames import validated
    from LTX_2_MLX.media.writer import run_record, write_video

    runner.facts |= {"command": command, "settings": asdict(request)}
    tags: dict[str, str] = {}
    if own.metadata:
        tags = run_record(command, asdict(request), beside=stream.metadata, note=runner.progress.note)
    stream = stream.replace(metadata=tags)
    stream = stream if own.allow_blank else validated(stream)
    crf = CRF if own.crf is None else own.crf
    write_video(stream, own.output, crf=crf, exact_size=own.exact_size, progress=runner.progress)


def _close(progress: Progress, reports: "list[StageReport]", seconds: float, output: Path | None) -> None:
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


def report_lines(reports: "list[StageReport]", seconds: float) -> list[str]:
    """Seconds and peak memory by stage, a line each, and those of the whole run."""
    from LTX_2_MLX.planning.plan import format_bytes

    width = max((len(stage.name) for stage in reports), default=0)
    lines = [
        f"{stage.name:<{width}}  {stage.seconds:8.1f} s  peak {format_bytes(stage.peak_bytes)}" for stage in reports
    ]
    largest = max((stage.process_bytes for stage in reports), default=0)
    process = f", process peak {format_bytes(largest)}" if largest else ""
    return [*lines, f"{seconds:.1f} s in all{process}"]
