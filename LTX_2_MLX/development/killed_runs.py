"""The end of a run on several machines when one of its processes was killed."""

import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# What a process of several says when it ends because of another.
_LINES = "Terminated|Another machine ended or was lost|Ended (?:by SIGTERM|while MLX connected)"
_LONGEST_SECONDS = 10


@dataclass(frozen=True)
class Kill:
    """One run whose process was killed.

    Attributes:
        rank: Of the process.
        phase: What the run did then.
        seconds: Until the other process had ended too, and mlx.launch with it.
        codes: Exit codes as mlx.launch prints them.
        said: Last line of the other process.
        had_finished: Whether the video was complete.
    """

    rank: int
    phase: str
    seconds: float
    codes: list[int]
    said: str
    had_finished: bool

    def is_good(self) -> bool:
        """Whether the other process ended in time, with a line and an exit code that is not 0, or had done its work."""
        ended = self.had_finished or (bool(self.said) and len(self.codes) == 2)
        return self.seconds <= _LONGEST_SECONDS and ended

    def row(self) -> list[str]:
        """Cells of the table."""
        codes = " ".join(map(str, self.codes))
        said = self.said or ("nothing, it had finished" if self.had_finished else "NOTHING")
        return [f"process {self.rank}", self.phase, f"{self.seconds:.1f} s", codes, said]


def phase_of(states: Path) -> str:
    """What a run does, by the results that it has saved."""
    if not (states / "request.json").exists():
        return "start"
    done = {"frames_0": "writing", "stage_2": "decoding", "stage_1": "stage 2", "text": "stage 1"}
    return next((phase for name, phase in done.items() if (states / f"{name}.safetensors").exists()), "text")


def processes_of(states: Path) -> list[int]:
    """Numbers of the processes that mlx.launch has started with a folder of states, in the order of their ranks."""
    listed = subprocess.run(["ps", "-axwwo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    own = [line.split() for line in listed.splitlines() if str(states) in line and "launch import" not in line]
    # mlx.launch starts them in this order.
    return sorted(int(words[0]) for words in own)


def answer(processes: Sequence[int]) -> bool:
    """Whether all processes have a handler of SIGTERM, so that Python has begun with the program."""
    numbers = ",".join(map(str, processes))
    found = subprocess.run(["ps", "-o", "caught=", "-p", numbers], capture_output=True, text=True, check=False)
    masks = [int(word, 16) for word in found.stdout.split()]
    return len(masks) == len(processes) and all(mask >> signal.SIGTERM - 1 & 1 for mask in masks)


def line_of(errors: str) -> str:
    """What the process said that was not killed; empty if nothing is known of its lines."""
    said: list[str] = re.findall(_LINES, errors)
    return said[-1] if said else ""


def codes_of(errors: str) -> list[int]:
    """Exit codes of the processes, as mlx.launch prints them."""
    return sorted(map(int, re.findall(r"exited with code (-?\d+)", errors)))
