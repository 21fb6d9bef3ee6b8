"""One model's turn: load, work, evaluate, free. Reports seconds and peak memory of each stage."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import mlx.core as mx

from LTX_2_MLX.runtime.progress import Progress, SilentProgress

Model = TypeVar("Model")
Result = TypeVar("Result")


@dataclass(frozen=True)
class StageReport:
    """What one stage took: wall-clock seconds and the peak of MLX's active memory in it."""

    name: str
    seconds: float
    peak_bytes: int


class StageRunner:
    """Runs stages one after another, so that each model is gone before the next one comes.

    Attributes:
        progress: Hears of stages and steps; silent unless given.
        reports: One entry per finished stage, in order.
    """

    def __init__(self, progress: Progress | None = None):
        self.progress = progress or SilentProgress()
        self.reports: list[StageReport] = []

    def run(self, name: str, load: Callable[[], Model], work: Callable[[Model], Result]) -> Result:
        """``work(load())``, evaluated; the model is freed before this returns.

        A lazy result would keep the whole model alive, hence the evaluation.
        """
        with self._stage(name):
            model = load()
            try:
                result = work(model)
                mx.eval(result)
                return result
            finally:
                del model

    def stream(
        self, name: str, load: Callable[[], Model], work: Callable[[Model], Iterator[Result]]
    ) -> Iterator[Result]:
        """The items of ``work(load())`` one by one, each evaluated.

        The model is freed when the items end, or when the consumer stops early and closes the iterator.
        """
        with self._stage(name):
            model = load()
            items = work(model)
            del model
            try:
                for item in items:
                    mx.eval(item)
                    yield item
            finally:
                if hasattr(items, "close"):
                    items.close()
                del items

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        mx.reset_peak_memory()
        start = time.perf_counter()
        self.progress.begin(name)
        try:
            yield
        finally:
            # Reference cycles in a module would keep its weights until the collector happens to run.
            gc.collect()
            mx.clear_cache()
            self.progress.end(name)
        self.reports.append(StageReport(name, time.perf_counter() - start, mx.get_peak_memory()))
