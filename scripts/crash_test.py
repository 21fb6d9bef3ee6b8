"""Kill a small two-stage run many times, resume it, and compare its video with that of an undisturbed run."""

import hashlib
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import cli, write_video
from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.pipelines.generate import Options, generate_video, request_for
from LTX_2_MLX.pipelines.generation.record import options_from, saved_record
from LTX_2_MLX.runtime.job import REQUEST_FILE
from LTX_2_MLX.runtime.runner import StageRunner

DEMO = Path(__file__).parents[1] / "weights" / "demo"
PROMPT = "A blue ball bouncing on green grass"
FIRST_STATE = "text.safetensors"


def main(
    kills: Annotated[int, typer.Option("--kills", help="Number of runs that are killed.", min=1)] = 100,
    seed: cli.option(Options, "seed") = 0,
) -> None:
    """Kill KILLS runs at random moments; exit code 1 if a video differs or an incomplete file has a final name."""
    with cli.exit_codes(), tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copytree(DEMO, work / "demo")
        # Nothing is computed in this process: its copies, each a run, start from a clean one.
        start = time.time()
        finish(work, work / "peace", work / "peace.mp4")
        seconds, late = time.time() - start, time.time() - (work / "peace" / FIRST_STATE).stat().st_mtime
        wanted, dice, found = digest(work / "peace.mp4"), random.Random(seed), []
        for number in range(kills):
            states, output = work / f"states-{number}", work / f"video-{number}.mp4"
            # Most of a small run's time is its start, so every other kill waits until something was kept.
            wait = states / FIRST_STATE if number % 2 else None
            found.append(killed(work, states, output, wait=wait, after=dice.uniform(0, late if wait else seconds)))
            if output.exists() and digest(output) != wanted:
                raise OutputError(f"Kill {number} left an incomplete file under the final name.")
            finish(work, states, output)
            if digest(output) != wanted:
                raise OutputError(f"The video resumed after kill {number} differs from that of an undisturbed run.")
            shutil.rmtree(states)
            output.unlink()
    print(f"{kills} kills, every video the same, bit for bit. An undisturbed run takes {seconds:.1f} s.")
    for stage in sorted(set(found)):
        print(f"killed with {stage} as the last complete state: {found.count(stage)}")


def killed(work: Path, states: Path, output: Path, *, wait: Path | None, after: float) -> str:
    """Begin a run and kill it some seconds after its start, or after a file has appeared; the last state it leaves.

    Raises:
        OutputError: If the run ends by itself before the file has appeared.
    """
    child = begin(work, states, output)
    while wait is not None and not wait.exists():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            raise OutputError(f"A run ended with status {code} before it kept {wait.name}. The line above says why.")
        time.sleep(0.005)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left = sorted(states.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns) if states.exists() else []
    return left[-1].stem if left else "nothing"


def finish(work: Path, states: Path, output: Path) -> None:
    """Run to the end, from what there is."""
    _, status = os.waitpid(begin(work, states, output), 0)
    if status:
        raise OutputError(f"A run that was left in peace ended with status {os.waitstatus_to_exitcode(status)}.")


def begin(work: Path, states: Path, output: Path) -> int:
    """Start a run in a process of its own; its id."""
    if child := os.fork():
        return child
    code = 1
    try:
        options = asked_for(work / "demo", states)
        runner = StageRunner()
        write_video(generate_video(request_for(options), runner, options), output)
        code = 0
    except Exception as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
    finally:
        os._exit(code)


def asked_for(demo: Path, states: Path) -> Options:
    """The request, or that of the run that is to go on."""
    if (states / REQUEST_FILE).exists():
        return options_from(saved_record(states), {"resume": states})
    return Options(
        PROMPT,
        height=64,
        width=64,
        frames=9,
        steps_stage1=3,
        steps_stage2=2,
        weights=str(demo / "ltx-2-demo-dev.safetensors"),
        distilled_lora=str(demo / "ltx-2-demo-distilled-lora.safetensors"),
        spatial_upscaler_weights=str(demo / "ltx-2-demo-spatial-upscaler-x2.safetensors"),
        gemma=str(demo / "gemma"),
        save_latents=states,
    )


def digest(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    cli.run(main)
