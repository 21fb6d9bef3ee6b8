"""Weights of the next stage read from disk while the last step of a stage runs."""

from collections.abc import Mapping
from typing import Any

from LTX_2_MLX.checkpoints.read_ahead import Reading
from LTX_2_MLX.planning.plan import Estimate
from LTX_2_MLX.runtime.progress import Progress


class ReadsAhead:
    """A reporter that hands everything on, and reads the next stage's weights during the last step of a stage.

    Loading takes the bytes from the system's file cache then. A stage that begins ends the reading: it reads what is
    missing itself.
    """

    def __init__(self, progress: Progress, following: Mapping[str, Estimate]):
        """``following`` has the stage after a stage, by its name, as ``Plan.ahead`` says."""
        self._progress = progress
        self._following = dict(following)
        self._reading: Reading | None = None
        self.end, self.note = progress.end, progress.note

    def __getattr__(self, name: str) -> Any:
        """What only some reporters have, such as ``preview``."""
        return getattr(self._progress, name)

    def begin(self, stage: str) -> None:
        """A stage begins: its own weights are read from now on."""
        if self._reading is not None:
            self._reading.stop()
            self._reading = None
        self._progress.begin(stage)

    def advance(self, stage: str, done: int, total: int | None) -> None:
        """Begin to read where one step is left."""
        if total is not None and done >= total - 1 and (following := self._following.pop(stage, None)):
            self._reading = Reading(span for network in following.stored for span in network.spans())
        self._progress.advance(stage, done, total)
