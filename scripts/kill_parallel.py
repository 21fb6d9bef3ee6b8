"""Kill one of two processes of a small run many times, and resume it by one process."""

import os
import random
import re
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
PROMPT = "A blue ball bouncing on green grass"
SIZE = ("--frames", "9", "--steps-stage1", "4", "--steps-stage2", "2", "--cfg", "5", "--quiet")
LONGEST_SECONDS = 10


def main(
    kills: Annotated[int, typer.Option(help="Number of runs that are killed.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the moments.")] = 0,
) -> None:
    """Kill KILLS runs in guidance mode at random moments; exit code 1 if one does not end or resumes differently."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(generate(work / "whole"), work)
        start = time.monotonic()
        launched(work / "shared", moments).communicate()
        seconds = time.monotonic() - start
        expected = frames(work / "whole")
        failures = 0
        for number in range(kills):
            states = work / f"states-{number}"
            process = launched(states, moments)
            # Most of a small run's time is its start, so every other kill waits until the work has begun.
            line = killed(process, states, moments, seconds / 2, wait=bool(number % 2))
            if (states / "request.json").exists():
                run([*script(), "--resume", str(states), "--quiet", "-o", str(work / "resumed.mp4")], work)
                line += ", resumed the same" if frames(states) == expected else ", RESUMED DIFFERENTLY"
            failures += "DIFFERENTLY" in line or "TOO LATE" in line or "NOTHING" in line
            typer.echo(f"{number + 1}: {line}")
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


def killed(process: subprocess.Popen, states: Path, moments: random.Random, seconds: float, *, wait: bool) -> str:
    """Kill one of the run's processes after a random time, and say how the other ended."""
    while wait and process.poll() is None and not (states / "request.json").exists():
        time.sleep(0.01)
    time.sleep(moments.uniform(0, seconds))
    listed = subprocess.run(["ps", "-axwwo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    own = [line.split() for line in listed.splitlines() if str(states) in line and "launch import" not in line]
    if len(own) < 2:
        process.communicate()
        return "had ended, or had not begun"
    pid = int(moments.choice(own)[0])
    os.kill(pid, signal.SIGKILL)
    start = time.monotonic()
    _, errors = process.communicate()
    took = time.monotonic() - start
    codes = re.findall(r"exited with code (-?\d+)", errors)
    said = re.search(r"Terminated|Another machine ended|Ended by SIGTERM", errors)
    verdict = "TOO LATE" if took > LONGEST_SECONDS else "ended"
    spoken = said[0] if said else "NOTHING"
    if "-15" in codes:
        spoken = "nothing yet: it was still being imported"
    elif codes == ["-9"]:
        spoken = "nothing: it had finished"
    return f"the other {verdict} after {took:.1f} s, codes {' '.join(sorted(codes))}, said {spoken}"


def frames(states: Path) -> bytes:
    """The saved frames of a finished run."""
    return b"".join(load_file(path)["frames"].tobytes() for path in sorted(states.glob("frames_*.safetensors")))


if __name__ == "__main__":
    typer.run(main)
