"""Kill one of two processes of a small run many times, and resume it by one process."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from LTX_2_MLX.development.killed_runs import Kill, answer, codes_of, line_of, phase_of, processes_of  # noqa: E402

PROMPT = "A blue ball bouncing on green grass"
SIZE = ("--frames", "9", "--steps-stage1", "4", "--steps-stage2", "2", "--cfg", "5", "--quiet")


def main(
    kills: Annotated[int, typer.Option(help="Number of runs that are killed.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the moments.")] = 0,
) -> None:
    """Kill KILLS runs in guidance mode at random moments; exit code 1 if one does not end or resumes differently.

    Prints a row of a table for each. Before Python has begun with the program a process can print no line, so that all
    kills wait for that; most of a small run's time is its start, and every other kill waits until the work has begun.
    """
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(generate(work / "whole"), work)
        start = time.monotonic()
        launched(work / "shared", moments).communicate()
        seconds = time.monotonic() - start
        expected = frames(work / "whole")
        typer.echo(f"A run that is not killed takes {seconds:.1f} s.")
        typer.echo("| kill | killed | while | the other ended after | codes | it said | resumed on one |")
        typer.echo("|---|---|---|---|---|---|---|")
        failures = done = 0
        while done < kills:
            states = work / f"states-{done}"
            kill = killed(launched(states, moments), states, moments, seconds / 2, wait=bool(done % 2))
            if kill is None:
                continue
            done += 1
            row = [str(done), *kill.row(), resumed(states, work, expected)]
            failures += not kill.is_good() or row[-1] == "DIFFERENT"
            typer.echo(f"| {' | '.join(row)} |")
    raise typer.Exit(1 if failures else 0)


def script() -> list[str]:
    """The command without its arguments."""
    return [sys.executable, str(ROOT / "scripts" / "generate.py")]


def generate(states: Path) -> list[str]:
    """A small run that saves its states."""
    return [*script(), PROMPT, *SIZE, "--save-latents", str(states), "-o", str(states.with_suffix(".mp4"))]


def run(command: list[str], work: Path) -> None:
    """Run a command to its end."""
    subprocess.run(command, cwd=work, check=True, env=environment(), capture_output=True)


def environment() -> dict[str, str]:
    """One BLAS thread for each process."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}


def launched(states: Path, moments: random.Random) -> subprocess.Popen:
    """The run by two processes."""
    launch = [sys.executable, "-c", "from mlx._distributed_utils.launch import main; main()"]
    launch += ["-n", "2", "-p", str(moments.randrange(20_000, 30_000)), "--"]
    command = [*launch, *generate(states), "--parallel", "guidance"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment(), text=True, **pipes)


def killed(
    process: subprocess.Popen, states: Path, moments: random.Random, seconds: float, *, wait: bool
) -> Kill | None:
    """Kill one of the run's processes after a random time; None if they were not there yet, or no more."""
    own = processes_of(states)
    while process.poll() is None and not (len(own) == 2 and answer(own)):
        time.sleep(0.01)
        own = processes_of(states)
    while wait and process.poll() is None and not (states / "request.json").exists():
        time.sleep(0.01)
    time.sleep(moments.uniform(0, seconds))
    if process.poll() is not None or len(own) != 2 or processes_of(states) != own:
        process.communicate()
        shutil.rmtree(states, ignore_errors=True)
        return None
    phase = phase_of(states)
    rank = moments.randrange(2)
    os.kill(own[rank], signal.SIGKILL)
    start = time.monotonic()
    _, errors = process.communicate()
    took = time.monotonic() - start
    said = line_of(errors)
    if not said:
        typer.echo(f"Not recognised: {errors}", err=True)
    return Kill(rank, phase, took, codes_of(errors), said, states.with_suffix(".mp4").exists())


def resumed(states: Path, work: Path, expected: bytes) -> str:
    """Whether the run, resumed by one process, gives the frames of a run that was not killed."""
    if not (states / "request.json").exists():
        return "nothing saved yet"
    run([*script(), "--resume", str(states), "--quiet", "-o", str(work / "resumed.mp4")], work)
    return "bit-equal" if frames(states) == expected else "DIFFERENT"


def frames(states: Path) -> bytes:
    """The saved frames of a finished run."""
    return b"".join(load_file(path)["frames"].tobytes() for path in sorted(states.glob("frames_*.safetensors")))


if __name__ == "__main__":
    typer.run(main)
