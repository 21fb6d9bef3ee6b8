"""Count the modules and functions of the package that a command enters, in the order of first entry."""

import importlib
import inspect
import json
import os
import pkgutil
import runpy
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Annotated, Any

import typer
from safetensors.numpy import load_file, save

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import LTX_2_MLX  # noqa: E402
from LTX_2_MLX.checkpoints.reader import Checkpoint  # noqa: E402
from LTX_2_MLX.training.bundle import FILES  # noqa: E402
from LTX_2_MLX.training.sound_bundle import is_sound  # noqa: E402
from LTX_2_MLX.verify.case import Case  # noqa: E402

PACKAGE = ROOT / "LTX_2_MLX"
PROMPT = "A blue ball bouncing on green grass"
CLIP = ROOT / "tests" / "media" / "pebbles_160x112.mp4"


@dataclass
class Entries:
    """First entries from a command's ``main`` on: modules, and functions by module and qualified name."""

    # Dictionaries for their order; the values mean nothing.
    modules: dict[str, None] = field(default_factory=dict)
    functions: dict[str, None] = field(default_factory=dict)


def main(
    command: Annotated[str, typer.Argument(help="generate (a silent video), sound or interpolate.")] = "generate",
    show: Annotated[bool, typer.Option("--list", help="Print every function in the order of first entry.")] = False,
) -> None:
    """Run COMMAND with small inputs and print how many modules and functions of LTX_2_MLX it enters."""
    with tempfile.TemporaryDirectory() as folder:
        # As on a machine that never had this prompt.
        os.environ["LTX_2_MLX_CACHE"] = folder
        entries = count(command, arguments(command, Path(folder)))
    if show:
        typer.echo("\n".join(entries.functions))
    typer.echo(f"{command}: {len(entries.modules)} modules, {len(entries.functions)} functions")


def arguments(command: str, folder: Path) -> list[str]:
    """A small run of the command that writes into ``folder``."""
    output = ["--output", str(folder / "output.mp4"), "--quiet", "--force"]
    if command == "generate":
        # The video alone; "sound" counts what the demo model's sound comes to beside it.
        silent_demo(folder)
        os.chdir(folder)
    if command in ("generate", "sound"):
        return [PROMPT, *output]
    if command == "interpolate":
        return [str(CLIP), "--model-path", str(stand_in_rife(folder)), *output]
    raise typer.BadParameter(f"Unknown command {command!r}. Use generate, sound or interpolate.")


def silent_demo(folder: Path) -> None:
    """The demo model without its sound, in ``folder/weights``, where it comes before the one of the package."""
    demo = folder / "weights" / "demo"
    shutil.copytree(ROOT / "weights" / "demo", demo)
    path = demo / FILES["dev"]
    tensors = {name: value for name, value in load_file(path).items() if not is_sound(name)}
    metadata = Checkpoint(path).header.metadata
    path.write_bytes(save(tensors, metadata | {"config": json.dumps(Checkpoint(path).header.config)}))


def stand_in_rife(folder: Path) -> Path:
    """A RIFE file with the stand-in weights of its golden case."""
    case = Case.open(ROOT / "tests" / "goldens" / "rife" / "ifnet_4_22_lite", folder)
    return case.write_checkpoint("rife.safetensors")


def count(command: str, arguments: list[str]) -> Entries:
    """Run a script under a profiler that notes first entries once ``main`` has begun.

    All modules are imported before, so that what they do on import is not counted where one is imported late.
    """
    for module in pkgutil.walk_packages(LTX_2_MLX.__path__, "LTX_2_MLX."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    entries = Entries()
    profiler = note_entries(entries)
    script = "generate" if command == "sound" else command
    sys.argv = [f"{script}.py", *arguments]
    threading.setprofile(profiler)
    sys.setprofile(profiler)
    try:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
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
            module = path.relative_to(ROOT).as_posix()
            entries.modules[module] = None
            entries.functions[f"{module} {code.co_qualname}"] = None

    return profile


def is_main(path: Path, code: CodeType) -> bool:
    """Whether a command's ``main`` begins."""
    return code.co_name == "main" and path.parent in (ROOT / "scripts", PACKAGE / "cli")


if __name__ == "__main__":
    typer.run(main)
