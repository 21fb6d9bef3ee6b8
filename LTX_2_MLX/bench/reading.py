"""The last step of a stage and the weights of the next one, read after it or while it runs, timed in turns."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from LTX_2_MLX.bench.workloads import Widths, workloads
from LTX_2_MLX.checkpoints.read_ahead import StoredNetwork, drop_from_cache
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.generation.read_ahead import ReadsAhead
from LTX_2_MLX.planning.plan import Estimate, plan
from LTX_2_MLX.runtime.runner import StageRunner, run_stages
from LTX_2_MLX.shapes import VideoShape

WAYS = ("the step alone", "reading alone", "one after the other", "at once")
_TENSOR_VALUES = 2**22


@dataclass(frozen=True)
class _Working:
    """A stage of one step."""

    step: Callable[[], object]
    name = "stage_1"

    def estimate(self) -> Estimate:
        return Estimate(self.name, "", Path(), weights_bytes=0)

    def run(self, runner: StageRunner, value: Any, /) -> None:
        def work(network: None) -> None:
            runner.progress.advance(self.name, 0, 1)
            self.step()

        runner.run(self.name, lambda: None, work)


@dataclass(frozen=True)
class _Loading:
    """A stage that loads its weights, and does no more."""

    checkpoint: Checkpoint
    name = "stage_2"

    def estimate(self) -> Estimate:
        stored = StoredNetwork(self.checkpoint)
        return Estimate(self.name, "", self.checkpoint.path, weights_bytes=stored.num_bytes, stored=(stored,))

    def run(self, runner: StageRunner, value: Any, /) -> None:
        names = self.checkpoint.header.tensors
        runner.run(self.name, lambda: mx.eval(self.checkpoint.arrays(names)), lambda network: None)


def reading_seconds(shape: VideoShape, widths: Widths, mebibytes: int, turns: int) -> dict[str, float]:
    """Medians of the wall's seconds by the name of the way, the file's bytes on disk alone at the start of each.

    Raises:
        RequestError: If this system does not forget a file that it has cached.
    """
    workload = workloads(shape, 256, widths, mx.float32)["transformer"]
    network = workload.build()
    mx.eval(network.parameters())
    with tempfile.TemporaryDirectory() as folder:
        path = _written(Path(folder) / "weights.safetensors", mebibytes)
        working = _Working(lambda: workload.call(network))
        loading = _Loading(Checkpoint(path))

        def run(stages: list[Any], budget: int | None) -> float:
            if not drop_from_cache(path):
                raise RequestError("This system keeps what it has read of a file, so that nothing can be measured.")
            runner = StageRunner()
            start = time.perf_counter()
            if budget is not None:
                runner.progress = ReadsAhead(runner.progress, plan(stages, budget_bytes=budget).ahead)
            run_stages(stages, runner)
            return time.perf_counter() - start

        ways: dict[str, Callable[[], float]] = {
            "the step alone": lambda: run([working], None),
            "reading alone": lambda: run([loading], None),
            "one after the other": lambda: run([working, loading], 0),
            "at once": lambda: run([working, loading], 2 * path.stat().st_size),
        }
        taken: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(turns + 1):
            for name, work in ways.items():
                taken[name].append(work())
    # The first turn compiles and fills caches.
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def _written(path: Path, mebibytes: int) -> Path:
    """A file of random weights."""
    count = mebibytes * 2**20 // (4 * _TENSOR_VALUES)
    weights = {f"weights.{number}": mx.random.normal((_TENSOR_VALUES,)) for number in range(count)}
    mx.save_safetensors(str(path), weights)
    return path
