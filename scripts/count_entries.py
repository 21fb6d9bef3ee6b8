"""Count the modules and functions of the package that a command enters, in the order of first entry."""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from safetensors.numpy import load_file, save

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from LTX_2_MLX.checkpoints.reader import Checkpoint  # noqa: E402
from LTX_2_MLX.development.entered import entered  # noqa: E402
from LTX_2_MLX.training.bundle import FILES  # noqa: E402
from LTX_2_MLX.training.sound_bundle import is_sound  # noqa: E402
from LTX_2_MLX.verify.case import Case  # noqa: E402

PROMPT = "A blue ball bouncing on green grass"
CLIP = ROOT / "tests" / "media" / "pebbles_160x112.mp4"


def main(
    command: Annotated[str, typer.Argument(help="generate (a silent video), sound or interpolate.")] = "generate",
    show: Annotated[bool, typer.Option("--list", help="Print every function in the order of first entry.")] = False,
) -> None:
    """Run COMMAND with small inputs and print how many modules and functions of LTX_2_MLX it enters."""
    with tempfile.TemporaryDirectory() as folder:
        # As on a machine that never had this prompt.
        os.environ["LTX_2_MLX_CACHE"] = folder
        script = "generate" if command == "sound" else command
        entries = entered(ROOT / "scripts" / f"{script}.py", arguments(command, Path(folder)))
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


if __name__ == "__main__":
    typer.run(main)
