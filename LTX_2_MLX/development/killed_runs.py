"""The end of a run on several machines when one of its processes was killed."""

from dataclasses import dataclass
from pathlib import Path

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
