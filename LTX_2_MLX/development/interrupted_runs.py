"""Runs that are killed and resumed, each in a process of its own."""

import hashlib
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.media.video import write_video
from LTX_2_MLX.pipelines.generate import generate_video
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.record import options_from, saved_record
from LTX_2_MLX.pipelines.generation.request import request_for
from LTX_2_MLX.runtime.job import REQUEST_FILE
from LTX_2_MLX.runtime.runner import StageRunner

PROMPT = "A blue ball bouncing on green grass"
FIRST_STATE = "text.safetensors"


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
            raise OutputError(f"A run ended with status {code} before it saved {wait.name}. The line above says why.")
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
        raise OutputError(f"An undisturbed run ended with status {os.waitstatus_to_exitcode(status)}.")


def begin(work: Path, states: Path, output: Path) -> int:
    """Start a run in a process of its own; its id."""
    if child := os.fork():
        return child
    code = 1
    try:
        options, automatic = asked_for(work / "demo", states)
        # Every run is interrupted in the stages of the prompt, too.
        options = replace(options, cache=False)
        video = generate_video(request_for(options), StageRunner(), options, automatic=automatic)
        write_video(video, output)
        code = 0
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(code)


def asked_for(demo: Path, states: Path) -> tuple[Options, list[str]]:
    """Options of the run, or of the one to resume, and those that the latter had settled by itself."""
    if not (states / REQUEST_FILE).exists():
        return first_options(demo, states), []
    record = saved_record(states)
    return options_from(record, {"resume": states}), list(record.automatic)


def first_options(demo: Path, states: Path) -> Options:
    """A small two-stage run that saves its states."""
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
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
