"""Every flag of every command reaches the library, and every default is the library's own.

A script joins by being in scripts/. Each of its flags is given once, with a value other than its default, while
the library's functions only write down how they are called: what is written down has to change.
"""

import ast
import dataclasses
import importlib.util
import inspect
import json
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from typer.models import ArgumentInfo, OptionInfo
from typer.testing import CliRunner

from LTX_2_MLX import cli

SCRIPTS = sorted((Path(__file__).parent.parent / "scripts").glob("*.py"))
# What measures, trains or tries to break things builds what it needs; its flags are no requests.
WORKSHOP = ("bench", "train", "measure", "crash", "fuzz")

# Values where a type alone does not say what is allowed.
VALUES: dict[str, str] = {"fps": "25", "target_fps": "25", "duration": "2.5", "quantize": "8", "group_size": "32"}
ENABLED = ["--enable-frame-interpolation", "--enable-upscaling"]
# Flags that only mean something beside others, by script and parameter.
COMPANY: dict[tuple[str, str], list[str]] = {
    ("postprocess", "order"): ENABLED,
    ("postprocess", "crf"): ENABLED,
    ("postprocess", "dry_run"): ENABLED,
    ("postprocess", "force"): ENABLED,
    ("postprocess", "memory_limit_gb"): ENABLED,
    ("generate", "steps"): ["--pipeline", "distilled"],
    ("generate", "json"): ["--dry-run"],
    ("upscale_temporal", "json"): ["--dry-run"],
    ("super_resolve", "json"): ["--dry-run"],
    ("interpolate", "json"): ["--dry-run"],
    ("upscale", "json"): ["--dry-run"],
    ("postprocess", "json"): [*ENABLED, "--dry-run"],
    ("convert_weights", "group_size"): ["--quantize", "8"],
    # Without it the recorded disk is full.
    ("download_weights", "dry_run"): ["--force"],
}


class Recorder:
    """Takes every call, gives itself back, and writes down in ``trace`` how it was called.

    As a collection it is empty, as a number it is itself, below every other.
    """

    def __init__(self, trace: list[str], name: str):
        self._trace, self._name = trace, name

    def __call__(self, *args: Any, **options: Any) -> "Recorder":
        self._trace.append(f"{self._name}{args!r}{sorted(options.items())!r}")
        return Recorder(self._trace, self._name)

    def __getattr__(self, name: str) -> "Recorder":
        if name.startswith("__"):
            raise AttributeError(name)
        return Recorder(self._trace, f"{self._name}.{name}")

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def __or__(self, other: Any) -> Any:
        return other

    __ror__ = __or__

    def __repr__(self) -> str:
        return f"<{self._name}>"

    def __format__(self, _: str) -> str:
        return repr(self)

    def itself(self, _: Any) -> "Recorder":
        return self

    __truediv__ = __mul__ = __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = itself

    def __lt__(self, other: Any) -> bool:
        return True

    def __gt__(self, other: Any) -> bool:
        return False

    __le__, __ge__ = __lt__, __gt__


def as_dictionary(value: Any) -> dict:
    """``dataclasses.asdict`` that takes a recorder for an empty one."""
    return {} if isinstance(value, Recorder) else dataclasses.asdict(value)


@dataclasses.dataclass
class Command:
    """One script: its module, its ``main`` and the flags of it."""

    name: str
    module: types.ModuleType

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.module.main).parameters)

    def library(self) -> dict[str, Any]:
        """What the script took from the library, by the name it has there."""
        return {
            name: value
            for name, value in vars(self.module).items()
            if getattr(value, "__module__", "").startswith("LTX_2_MLX") and name != "cli"
        }


def open_command(path: Path) -> Command:
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Command(path.stem, module)


def parts(parameter: inspect.Parameter) -> tuple[Any, OptionInfo | ArgumentInfo]:
    """A parameter's plain type and its Typer declaration."""
    kind, *notes = typing.get_args(parameter.annotation)
    declared = next(note for note in notes if isinstance(note, OptionInfo | ArgumentInfo))
    if isinstance(kind, types.UnionType):
        kind = next(member for member in typing.get_args(kind) if member is not type(None))
    return kind, declared


def other_value(parameter: inspect.Parameter, folder: Path) -> str:
    """A legal value that is not the default."""
    kind, declared = parts(parameter)
    default = parameter.default
    if parameter.name in VALUES:
        return VALUES[parameter.name]
    if typing.get_origin(kind) in (list, tuple):
        kind = typing.get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(member.value for member in kind if member != default)
    if kind in (int, float):
        return str(other_number(kind, default, declared))
    if kind is Path:
        given = folder / f"{parameter.name}.mp4"
        given.touch()
        return str(given)
    return f"other-{parameter.name}"


def other_number(kind: type, default: Any, declared: OptionInfo | ArgumentInfo) -> int | float:
    low = declared.min if declared.min is not None else 0
    high = declared.max if declared.max is not None else low + 10
    candidates = [low, high, low + 1, low + 2, (low + high) / 2]
    return next(kind(value) for value in candidates if value != default and low <= value <= high)


def arguments_for(parameter: inspect.Parameter, folder: Path) -> list[str]:
    kind, declared = parts(parameter)
    if isinstance(declared, ArgumentInfo):
        return [other_value(parameter, folder)]
    # Typer keeps the first name of an annotated option in the place of its default.
    first = [declared.default] if isinstance(declared.default, str) and declared.default.startswith("-") else []
    names = [*first, *(declared.param_decls or ())] or [f"--{parameter.name.replace('_', '-')}"]
    if kind is bool:
        on, _, off = names[0].partition("/")
        return [off or f"--no-{on.removeprefix('--')}"] if parameter.default else [on]
    return [names[0], other_value(parameter, folder)]


@contextmanager
def recorded(command: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The library's functions that the script knows, replaced by recorders."""
    trace: list[str] = []
    with monkeypatch.context() as patch:
        for name, value in command.library().items():
            if inspect.isfunction(value):
                patch.setattr(command.module, name, Recorder(trace, name))
        if hasattr(command.module, "asdict"):
            patch.setattr(command.module, "asdict", as_dictionary)
        patch.setattr(json.JSONEncoder, "default", lambda self, value: repr(value))
        for name in ("report", "progress_for", "check_disk", "told"):
            patch.setattr(cli, name, Recorder(trace, name))
        patch.setattr(mx, "set_default_device", Recorder(trace, "set_default_device"))
        yield trace


def run(command: Command, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], str, int]:
    with recorded(command, monkeypatch) as trace:
        done = CliRunner().invoke(cli.app(command.module.main), arguments)
    return trace, done.output, done.exit_code


COMMANDS = [open_command(path) for path in SCRIPTS if not path.stem.startswith(WORKSHOP)]
FLAGS = [(command, parameter) for command in COMMANDS for parameter in command.parameters.values()]


def flag_id(value: Any) -> str:
    return getattr(value, "name", str(value))


@pytest.mark.parametrize(("command", "parameter"), FLAGS, ids=flag_id)
def test_flag_reaches_the_library(command, parameter, tmp_path, monkeypatch):
    required = [p for p in command.parameters.values() if p.default is inspect.Parameter.empty]
    positional = [p for p in command.parameters.values() if isinstance(parts(p)[1], ArgumentInfo)]
    company = COMPANY.get((command.name, parameter.name), [])
    common = company + [
        word
        for other in {p.name: p for p in (*positional, *required)}.values()
        if other.name != parameter.name
        for word in arguments_for(other, tmp_path)
    ]
    with_flag = arguments_for(parameter, tmp_path)
    changed = run(command, [*common, *with_flag], monkeypatch)
    # A flag that cannot be left out is given a second value instead.
    before = [*with_flag[:-1], with_flag[-1] + "x"] if parameter in required else []
    assert changed != run(command, [*common, *before], monkeypatch), f"{with_flag} changes nothing"
    assert "Traceback" not in changed[1] and "fault of ours" not in changed[1], changed[1]
    assert "No such option" not in changed[1] and "Invalid value" not in changed[1], changed[1]


def plain(value: Any) -> Any:
    """A default in the form in which a command and the library can be compared."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path | Fraction):
        return str(value)
    return None if value in ((), []) else value


def library_defaults(command: Command) -> dict[str, list[tuple[str, Any]]]:
    """Defaults by name, with who has them, of the requests and functions that the script uses."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for owner, value in command.library().items():
        if dataclasses.is_dataclass(value):
            pairs = [(f.name, f.default) for f in dataclasses.fields(value) if f.default is not dataclasses.MISSING]
        elif inspect.isfunction(value):
            given = inspect.signature(value).parameters.values()
            pairs = [(p.name, p.default) for p in given if p.default is not inspect.Parameter.empty]
        else:
            continue
        for name, default in pairs:
            found.setdefault(name, []).append((owner, default))
    return found


# A voice of its own is what a command has and a library call has not.
OWN_TO_COMMANDS = {"progress", "quiet"}


@pytest.mark.parametrize(("command", "parameter"), FLAGS, ids=flag_id)
def test_default_is_the_librarys_own(command, parameter):
    if parameter.default is inspect.Parameter.empty or parameter.name in OWN_TO_COMMANDS:
        return
    for owner, default in library_defaults(command).get(parameter.name, []):
        assert plain(parameter.default) == plain(default), f"{owner} has {parameter.name}={default!r}"


@pytest.mark.parametrize("command", COMMANDS, ids=flag_id)
def test_every_flag_has_words_of_help(command):
    for parameter in command.parameters.values():
        assert parts(parameter)[1].help, f"{parameter.name} has no help"
    assert command.module.main.__doc__


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_is_thin_and_says_what_it_does(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 150, "what could be reused lives in the package"
    assert ast.get_docstring(ast.parse(text))
    assert path.stem.startswith(WORKSHOP) or "cli.run(main)" in text
