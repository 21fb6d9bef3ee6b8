"""Measure generate.py of another checkout of this repository beside this one's, in turns, on the same files."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from comparison import workers

PROMPT = "A blue ball bouncing on green grass"
WORDS = ("--pipeline", "two-stage", "--seed", "1")


def main(
    context: typer.Context,
    other: Annotated[Path, typer.Argument(help="Folder of the other checkout.", exists=True, file_okay=False)],
    turns: Annotated[int, typer.Option("--turns", help="Turns of each.", min=1)] = 5,
) -> None:
    """Print medians of seconds; both use the other checkout's weights/. What follows -- goes to generate.py in place
    of --pipeline two-stage --seed 1.

    "again" is this checkout's next run of the same prompt, whose embeddings are kept.
    """
    commits = [workers.commit(str(folder)) for folder in (workers.ROOT, other)]
    print(f"this at {commits[0]}, other at {commits[1]}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    words = context.args or WORDS
    seconds: dict[str, list[tuple[float, float]]] = {"other": [], "this": [], "again": []}
    with tempfile.TemporaryDirectory() as folder:
        # Files in weights/ of the current folder come before a checkout's own.
        Path(folder, "weights").symlink_to(other.resolve() / "weights", target_is_directory=True)
        for turn in range(turns):
            cache = Path(folder, f"cache{turn}")
            seconds["other"].append(run(other.resolve(), words, Path(folder), Path(folder, f"other{turn}")))
            seconds["this"].append(run(workers.ROOT, words, Path(folder), cache))
            seconds["again"].append(run(workers.ROOT, words, Path(folder), cache))
    print("| generate.py | CPU, s | wall, s | wall over the other's |\n|---|---|---|---|")
    walls = {name: statistics.median(wall for _, wall in each) for name, each in seconds.items()}
    for name, each in seconds.items():
        cpu = statistics.median(cpu for cpu, _ in each)
        print(f"| {name} | {cpu:.2f} | {walls[name]:.2f} | {walls[name] / walls['other']:.2f} |")


def run(checkout: Path, words: Sequence[str], folder: Path, cache: Path) -> tuple[float, float]:
    """CPU and wall seconds of one command, whose prompt cache is ``cache``."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, checkout / "scripts" / "generate.py", PROMPT, "--quiet", "-o", folder / "a.mp4", *words],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(checkout), "LTX_2_MLX_CACHE": str(cache)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise typer.BadParameter(f"generate.py of {checkout} failed: {done.stderr.strip()}")
    return (
        after.children_user + after.children_system - before.children_user - before.children_system,
        wall,
    )


if __name__ == "__main__":
    program = typer.Typer(add_completion=False)
    program.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)
    program()
