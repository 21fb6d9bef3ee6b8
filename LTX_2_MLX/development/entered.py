"""Modules and functions of the package that a command enters: what a reader has to know to follow it."""

import importlib
import inspect
import pkgutil
import runpy
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import LTX_2_MLX

PACKAGE = Path(LTX_2_MLX.__file__).parent


@dataclass
class Entries:
    """First entries from a command's ``main`` on: modules, and functions by module and qualified name."""

    # Dictionaries for their order; the values mean nothing.
    modules: dict[str, None] = field(default_factory=dict)
    functions: dict[str, None] = field(default_factory=dict)


def entered(script: Path, arguments: Sequence[str]) -> Entries:
    """Run a script under a profiler that notes first entries once ``main`` has begun.

    All modules are imported before, so that what they do on import is not counted where one is imported late.
    """
    for module in pkgutil.walk_packages(LTX_2_MLX.__path__, "LTX_2_MLX."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    entries = Entries()
    profiler = note_entries(entries)
    sys.argv = [script.name, *arguments]
    threading.setprofile(profiler)
    sys.setprofile(profiler)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return entries


def note_entries(entries: Entries) -> Callable[[FrameType, str, Any], None]:
    """A profiler that appends every function of the package when it is first entered."""
    seen: set[CodeType] = set()
    started = False

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal started
        code = frame.f_code
        if event != "call" or code in seen:
            return
        path = Path(code.co_filename)
        started = started or is_main(path, code)
        seen.add(code)
        if started and path.is_relative_to(PACKAGE) and code.co_flags & inspect.CO_OPTIMIZED:
            module = path.relative_to(PACKAGE.parent).as_posix()
            entries.modules[module] = None
            entries.functions[f"{module} {code.co_qualname}"] = None

    return profile


def is_main(path: Path, code: CodeType) -> bool:
    """Whether a command's ``main`` begins."""
    return code.co_name == "main" and path.parent in (PACKAGE.parent / "scripts", PACKAGE / "cli")
