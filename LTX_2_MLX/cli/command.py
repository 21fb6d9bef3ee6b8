"""Commands: a function and its options as a program with one-line errors and exit codes.

Exit codes: 0 success; 1 failure of the library; 2 invalid request, file or machine; 129 SIGHUP; 130 Ctrl-C;
143 SIGTERM. Modules of commands import MLX and FFmpeg inside their functions, so that ``--help`` and errors in the
arguments answer at once.
"""

import gc
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from LTX_2_MLX.cli.options import (
    SEED_FLAG,
    RunOptions,
    WriteOptions,
    parameters,
    typed_options,
    with_each_seed,
    with_random_seed,
)
from LTX_2_MLX.errors import LTXError, OutputError, RequestError
from LTX_2_MLX.files import printable, remove_unfinished, without_writing
from LTX_2_MLX.pipelines.options import declared_options
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.progress import JsonProgress, NotesOnly, Progress, SilentProgress, TerminalProgress
from LTX_2_MLX.runtime.this_machine import require_mlx

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
        with exit_codes():
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
        typed = _typed_names(context, values)
        forbidden = without_writing() if values.get("dry_run") else nullcontext()
        with exit_codes(progress_from(values)), forbidden:
            own_values = {}
            for each, value in typed_options(own, values, own_options).items():
                if value is not None:
                    own_values[each] = value
            options = own(**own_values)
            require_mlx()
            with nullcontext() if launch.RANK is None else _machines(name), _downloads(options):
                if request is None:
                    run(options)
                else:
                    run(typed_options(request, values, typed), options)

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


def _downloads(options: Any) -> Any:
    """Downloads on first use for a command that writes something; a dry run downloads nothing."""
    if not isinstance(options, WriteOptions) or getattr(options, "dry_run", False):
        return nullcontext()
    from LTX_2_MLX.checkpoints.catalog import downloads
    from LTX_2_MLX.cli.first_use import FirstUse

    progress = progress_from(vars(options))
    return downloads(FirstUse(progress, yes=options.yes, forbidden=options.no_download))


def _typed_names(context: typer.Context | None, values: Mapping[str, Any]) -> list[str]:
    """Options that stand on the command line; all of them where no command line was parsed."""
    if context is None:
        return list(values)
    typed = []
    for name in values:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            typed.append(name)
    return typed


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
