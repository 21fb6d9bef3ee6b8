"""A runner that keeps models for the next run of the same stage, as batches of videos need."""

import gc
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, TypeVar

import mlx.core as mx

from LTX_2_MLX.runtime.runner import StageRunner

Model = TypeVar("Model")
Result = TypeVar("Result")


class HoldingRunner(StageRunner):
    """Runs the same stages for several videos in turn, each stage for all of them before the next.

    A stage's model stays until another stage runs. Those of streams stay until ``release``: streams of several stages
    are open at the same time.
    """

    def __init__(self, runner: StageRunner):
        """Report where ``runner`` reports."""
        super().__init__(runner.progress)
        self.reports = runner.reports
        self.facts = runner.facts
        self._held: dict[str, Any] = {}

    def run(self, name: str, load: Callable[[], Model], work: Callable[[Model], Result]) -> Result:
        """As ``StageRunner.run``, but the model stays for the next run of the stage."""
        if name not in self._held:
            self.release()
        return super().run(name, partial(self._model, name, load), work)

    def stream(
        self, name: str, load: Callable[[], Model], work: Callable[[Model], Iterator[Result]]
    ) -> Generator[Result, None, None]:
        """As ``StageRunner.stream``, but the model stays until ``release``."""
        return super().stream(name, partial(self._model, name, load), work)

    def release(self) -> None:
        """Free all models."""
        self._held.clear()
        gc.collect()
        mx.clear_cache()

    def _model(self, name: str, load: Callable[[], Model]) -> Model:
        if name not in self._held:
            self._held[name] = load()
        model: Model = self._held[name]
        return model
