"""Measure start-up: seconds until help, errors, a plan and a run's first progress line, and the slowest imports."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[1]
PROMPT = "A blue ball bouncing on green grass"
# What is typed after scripts/generate.py; the seconds end with the process.
COMMANDS = {
    "--help": ["--help"],
    "an unknown flag": ["--nope"],
    "a value out of range": [PROMPT, "--cfg", "-7"],
    "a size that is not legal": [PROMPT, "--height", "7"],
    "--dry-run": [PROMPT, "--dry-run"],
}
IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)")


def main(
    turns: Annotated[int, typer.Option("--turns", help="Turns of each; medians are printed.", min=1)] = 5,
    imports: Annotated[int, typer.Option("--imports", help="Slowest imports of a run to print.", min=0)] = 10,
) -> None:
    """Print a table of seconds, then the imports that take longest by themselves."""
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| generate.py | CPU, s | wall, s |\n|---|---|---|")
    for name, words in COMMANDS.items():
        print_row(name, [until_end(words) for _ in range(turns)])
    print_row("first progress line of the demo model", [until_first_progress() for _ in range(turns)])
    for seconds, module in slowest_imports(imports):
        print(f"{module}: {seconds:.3f} s")


def print_row(name: str, taken: list[tuple[float, float]]) -> None:
    """One line of the table, of medians."""
    cpu, wall = (statistics.median(each) for each in zip(*taken, strict=True))
    print(f"| {name} | {cpu:.2f} | {wall:.2f} |", flush=True)


def started(words: list[str], *options: str) -> subprocess.Popen[str]:
    """The command in a process of its own, without what earlier runs have kept."""
    return subprocess.Popen(
        [sys.executable, *options, str(ROOT / "scripts" / "generate.py"), *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "LTX_2_MLX_CACHE": ""},
    )  # fmt: skip


def until_end(words: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a command."""
    before, start = os.times(), time.perf_counter()
    started(words).communicate()
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, time.perf_counter() - start


def until_first_progress() -> tuple[float, float]:
    """CPU and wall seconds until a stage of a run begins; the run is ended there."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = os.times(), time.perf_counter()
        process = started([PROMPT, "--progress", "json", "-o", str(Path(folder) / "video.mp4")])
        found = any('"begin"' in line for line in process.stderr or ())
        wall = time.perf_counter() - start
        process.kill()
        process.communicate()
        after = os.times()
    if not found:
        raise typer.BadParameter("The run ended before its first stage.")
    return after.children_user + after.children_system - before.children_user - before.children_system, wall


def slowest_imports(count: int) -> list[tuple[float, str]]:
    """Modules that a plan imports, with their own seconds, the slowest first."""
    lines = started([PROMPT, "--dry-run"], "-X", "importtime").communicate()[1].splitlines()
    found = [match for line in lines if (match := IMPORT_LINE.match(line))]
    return sorted(((int(match[1]) / 1e6, match[4]) for match in found), reverse=True)[:count]


if __name__ == "__main__":
    typer.run(main)
