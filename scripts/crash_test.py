"""Kill a small two-stage run many times, resume it, and compare its video with that of an undisturbed run."""

import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import cli
from LTX_2_MLX.development.interrupted_runs import FIRST_STATE, digest, finish, killed
from LTX_2_MLX.errors import OutputError

DEMO = Path(__file__).parents[1] / "weights" / "demo"


def main(
    kills: Annotated[int, typer.Option("--kills", help="Number of runs that are killed.", min=1)] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the moments.")] = 0,
) -> None:
    """Kill KILLS runs at random moments; exit code 1 if a video differs or an incomplete file has a final name."""
    with cli.exit_codes(), tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copytree(DEMO, work / "demo")
        # Nothing is computed in this process: its copies, each a run, start from a clean one.
        start = time.time()
        finish(work, work / "undisturbed", work / "undisturbed.mp4")
        seconds = time.time() - start
        after_first_state = time.time() - (work / "undisturbed" / FIRST_STATE).stat().st_mtime
        expected = digest(work / "undisturbed.mp4")
        random_moments = random.Random(seed)
        last_states = []
        for number in range(kills):
            states = work / f"states-{number}"
            # Most of a small run's time is its start, so every other kill waits until something was saved.
            wait = states / FIRST_STATE if number % 2 else None
            after = random_moments.uniform(0, after_first_state if wait else seconds)
            last_states.append(killed_and_resumed(work, states, expected, wait=wait, after=after))
    print(f"{kills} kills, every video the same, bit for bit. An undisturbed run takes {seconds:.1f} s.")
    for stage in sorted(set(last_states)):
        print(f"killed with {stage} as the last complete state: {last_states.count(stage)}")


def killed_and_resumed(work: Path, states: Path, expected: str, *, wait: Path | None, after: float) -> str:
    """Kill a run, resume it and compare its video; returns the last state that the killed run left.

    Raises:
        OutputError: If the video differs, or an incomplete file has the final name.
    """
    output = work / "resumed.mp4"
    last_state = killed(work, states, output, wait=wait, after=after)
    if output.exists() and digest(output) != expected:
        raise OutputError(f"A killed run left an incomplete file under the final name, after {last_state}.")
    finish(work, states, output)
    if digest(output) != expected:
        raise OutputError(f"The video resumed after {last_state} differs from that of an undisturbed run.")
    shutil.rmtree(states)
    output.unlink()
    return last_state


if __name__ == "__main__":
    cli.run(main)
