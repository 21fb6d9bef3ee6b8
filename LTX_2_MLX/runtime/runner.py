"""Runs stages: load a model, work, evaluate, free. Reports seconds and peak memory of each stage.

Within a stage, independent pieces of work run on several CPU cores, and results are checked: a latent that is not
finite, constant or frozen cannot become a video. A result that is kept for later runs has a digest of what it follows
from, and a sum of its bytes.
"""

import dataclasses
import gc
import hashlib
import json
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import mlx.core as mx
import numpy as np

from LTX_2_MLX._version import __version__
from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.ops.device import device, on_cpu, one_blas_thread
from LTX_2_MLX.runtime.progress import Progress, SilentProgress
from LTX_2_MLX.runtime.this_machine import memory_limits, peak_process_bytes

Item = TypeVar("Item")
Model = TypeVar("Model")
Result = TypeVar("Result")

# Operations other than matrix products keep a single core busy each. More threads take more memory.
_THREADS = 2


@dataclass(frozen=True)
class StageReport:
    """Time and memory of one stage.

    Attributes:
        name: The stage.
        seconds: Wall-clock seconds of its own, without those of a stage that ran inside it or of the consumer of its
            stream.
        peak_bytes: Peak of MLX's active memory while the stage was open.
        process_bytes: Peak of the process's resident memory until the end of the stage.
    """

    name: str
    seconds: float
    peak_bytes: int
    process_bytes: int


@dataclass
class _OpenStage:
    name: str
    seconds: float = 0.0
    peak_bytes: int = 0


class StageRunner:
    """Runs stages one after another, so that each model is freed before the next one loads.

    Streams may be open while other stages run: frames are computed when the next stage asks for them.

    Attributes:
        progress: Receives the begin, steps and end of stages; silent by default.
        reports: One entry per finished stage, in the order in which they ended.
        facts: What the command tells of the run: its name, settings and plan.
    """

    def __init__(self, progress: Progress | None = None):
        self.progress = progress or SilentProgress()
        self.reports: list[StageReport] = []
        self.facts: dict[str, Any] = {}
        self._open: list[_OpenStage] = []
        self._turns: list[_OpenStage] = []

    def run(self, name: str, load: Callable[[], Model], work: Callable[[Model], Result]) -> Result:
        """``work(load())``, evaluated; the model is freed before this returns or raises.

        A lazy result would keep the whole model alive. Arrays in lists, tuples, dictionaries and dataclasses are
        evaluated.
        """
        with self._stage(name) as stage, self._turn(stage):
            model = load()
            try:
                result = work(model)
                mx.eval(arrays_in(result))
                return result
            finally:
                del model

    def stream(
        self, name: str, load: Callable[[], Model], work: Callable[[Model], Iterator[Result]]
    ) -> Generator[Result, None, None]:
        """The items of ``work(load())`` one by one, each evaluated.

        The model is freed when the items end, or when the consumer stops early and closes the iterator.
        """
        with self._stage(name) as stage:
            with self._turn(stage):
                items = iter(work(load()))
            try:
                while True:
                    with self._turn(stage):
                        item = next(items, _END)
                        mx.eval(arrays_in(item))
                    if item is _END:
                        return
                    yield item
                    # No reference stays in this generator.
                    del item
            finally:
                close = getattr(items, "close", None)
                if close is not None:
                    close()
                del items

    @contextmanager
    def _stage(self, name: str) -> Iterator[_OpenStage]:
        self._note_peak()
        stage = _OpenStage(name)
        self._open.append(stage)
        self.progress.begin(name)
        try:
            yield stage
        except BaseException as error:
            # It refers to finished frames, and the model is one of their local variables.
            cause: BaseException | None = error
            while cause is not None:
                traceback.clear_frames(cause.__traceback__)
                cause = cause.__cause__ or cause.__context__
            raise
        finally:
            # Reference cycles in a module would keep its weights until the collector happens to run.
            gc.collect()
            mx.clear_cache()
            self._note_peak()
            self._open.remove(stage)
            self.progress.end(name)
            self.reports.append(StageReport(name, stage.seconds, stage.peak_bytes, peak_process_bytes()))

    @contextmanager
    def _turn(self, stage: _OpenStage) -> Iterator[None]:
        """Charge the time to ``stage``, except while another stage has a turn inside it.

        The limit of MLX's cache is set here, so that it holds in notebooks as well. On a CPU, MLX's own limit is so low
        that every large array would be allocated by the system anew.
        """
        start = time.perf_counter()
        self._turns.append(stage)
        try:
            with memory_limits():
                yield
        finally:
            seconds = time.perf_counter() - start
            self._turns.pop()
            stage.seconds += seconds
            if self._turns:
                self._turns[-1].seconds -= seconds

    def _note_peak(self) -> None:
        """Credit MLX's peak since the last call to every open stage; MLX has one counter for all of them."""
        peak = mx.get_peak_memory()
        for stage in self._open:
            stage.peak_bytes = max(stage.peak_bytes, peak)
        mx.reset_peak_memory()


class Runnable(Protocol):
    """What a runner needs of a stage."""

    def run(self, runner: StageRunner, value: Any, /) -> Any:
        """Turn the result of the stage before into this one's."""


def run_stages(stages: Sequence[Runnable], runner: StageRunner, value: Any = None) -> Any:
    """The result of the last stage, each stage run on the result of the one before it."""
    for stage in stages:
        value = stage.run(runner, value)
    return value


_END: Any = object()


def arrays_in(value: Any) -> list[mx.array]:
    """All arrays in nested lists, tuples, dictionaries and dataclasses."""
    if isinstance(value, mx.array):
        return [value]
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [getattr(value, field.name) for field in dataclasses.fields(value)]
    arrays: list[mx.array] = []
    for item in items:
        arrays += arrays_in(item)
    return arrays


def num_workers() -> int:
    """Pieces of work that ``map_on_cores`` computes at once; on a GPU one."""
    return _THREADS if on_cpu() else 1


def map_on_cores(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """``function`` of every item, in order, ``num_workers`` of them at once.

    MLX's streams belong to the thread that made them. So the arrays that ``function`` uses have to be evaluated before,
    and it has to evaluate those that it returns.
    """
    if num_workers() == 1 or len(items) < 2:
        return list(map(function, items))
    with one_blas_thread():
        return list(_pool().map(function, items))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    # The threads stay, because MLX compiles functions once for each thread.
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="map_on_cores", initializer=_use_own_stream)


def _use_own_stream() -> None:
    mx.set_default_stream(mx.new_stream(device()))


def check_result(stage: str, arrays: Mapping[str, mx.array]) -> None:
    """Check the floating-point arrays of a stage.

    Raises:
        OutputError: If one is not finite, or holds a single value.
    """
    for name, array in arrays.items():
        if not mx.issubdtype(array.dtype, mx.floating):
            continue
        if not mx.isfinite(array).all().item():
            raise OutputError(
                f"The result of {stage} ({name}) holds NaN or infinity. Try another precision (--bf16 or --fp32) or a "
                f"lower --cfg. Results saved before this stage are kept."
            )
        if array.size > 1 and (array == array.reshape(-1)[0]).all().item():
            raise OutputError(
                f"The result of {stage} ({name}) is a single value, which decodes to a blank video. Check the "
                f"weights. Results saved before this stage are kept."
            )


def check_moving(stage: str, latent: mx.array) -> None:
    """Check that the frames of a video latent ``(B, T, H, W, C)`` differ.

    Raises:
        OutputError: If all of them are equal.
    """
    if latent.shape[1] > 1 and (latent == latent[:, :1]).all().item():
        raise OutputError(
            f"All {latent.shape[1]} frames of the latent of {stage} are identical. Check the weights, or try another "
            f"--seed. Results saved before this stage are kept."
        )


def digest_of(facts: Mapping[str, Any]) -> str:
    """A digest of facts, and of what computes: this library, MLX and its device."""
    mlx_version = mx.__version__  # type: ignore[attr-defined]
    machine = {"library": __version__, "mlx": mlx_version, "device": str(device())}
    return hashlib.sha256(json.dumps([machine, dict(facts)], sort_keys=True, default=str).encode()).hexdigest()


def sum_of(arrays: Mapping[str, mx.array]) -> str:
    """A digest of arrays with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)).tobytes())
    return digest.hexdigest()


def load_whole(path: Path) -> tuple[dict[str, mx.array], dict[str, str]] | None:
    """Arrays and metadata of a safetensors file whose ``sum`` is ``sum_of`` them, evaluated; None if it is damaged."""
    try:
        # Read at once: MLX would read a lazy array's bytes after the sum was taken.
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
        arrays: dict[str, mx.array]
        facts: dict[str, str]
        arrays, facts = loaded
        mx.eval(arrays)
        return (arrays, facts) if facts.get("sum") == sum_of(arrays) else None
    except Exception:
        # Whatever a damaged file makes the reader raise, the answer is the same.
        return None
