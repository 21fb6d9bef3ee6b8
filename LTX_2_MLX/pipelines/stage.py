"""Stages of a pipeline: one network's turn each, with the estimate of its memory beside its work."""

from typing import Any, Protocol

from LTX_2_MLX.planning.plan import Estimate
from LTX_2_MLX.runtime.runner import StageRunner


class Stage(Protocol):
    """One step of a pipeline. A pipeline is a function from a request to a list of stages.

    Attributes:
        name: As in plans, progress and reports.
    """

    @property
    def name(self) -> str:
        """As in plans, progress and reports."""

    def estimate(self) -> Estimate:
        """Memory and time, from headers and shapes. Files are checked as loading will check them."""

    def run(self, runner: StageRunner, value: Any, /) -> Any:
        """Turn the result of the stage before into this one's; lazily where the value is a stream of frames."""
