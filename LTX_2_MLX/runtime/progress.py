"""Who hears how far a run is: nobody, a terminal, or a program reading JSON lines."""

from typing import Protocol


class Progress(Protocol):
    """What pipelines tell while they work. Implementations must be cheap: steps may be short."""

    def begin(self, stage: str) -> None:
        """A stage begins; its model is about to load."""

    def advance(self, stage: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` steps, tiles or frames of the stage are finished (total None: unknown)."""

    def end(self, stage: str) -> None:
        """The stage is over, well or not."""

    def note(self, text: str) -> None:
        """One line for the user: a warning, a choice that was made for them."""


class SilentProgress:
    """Hears everything and says nothing."""

    def begin(self, stage: str) -> None: ...

    def advance(self, stage: str, done: int, total: int | None) -> None: ...

    def end(self, stage: str) -> None: ...

    def note(self, text: str) -> None: ...
