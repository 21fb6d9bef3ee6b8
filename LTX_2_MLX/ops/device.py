"""The backend that arrays are computed on, or that a run is planned for; its large arrays and its BLAS."""

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, wraps
from glob import glob
from typing import Any, Literal, ParamSpec, TypeVar

import mlx.core as mx
import numpy as np

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Item = TypeVar("Item")
Backend = Literal["cpu", "gpu"]
# From here on the cost of an evaluation, a fraction of a millisecond on a GPU and 25 microseconds on a CPU, is small
# beside the work.
_LARGE_BYTES = 64 * 2**20
LARGE_BYTES_ON_CPU = 2**18
# Work on a longer array may take a GPU a second.
_QUEUED_BYTES = 32 * 2**20
# ml-explore/mlx#3248: wrong results from 2^31 elements on, open.
_MOST_ELEMENTS = 2**31 - 1
# Tokens that a CPU takes through layers at once: what lies between the layers is there for one run at a time. A matrix
# product of fewer rows is slower by more than a percent, as it lays the weights out each time.
RUN_BYTES = 2**22
FEWEST_ROWS = 512
# Where BLAS does not tell.
_THREADS = 2
# With fewer one thread is faster than two: it takes a millisecond for so many.
_FEW_EXPONENTIALS = 2**18
_assumed_backend: Backend | None = None


def on_cpu() -> bool:
    """Whether operations take the forms of the CPU backend, and estimates its memory.

    The CPU backend unfolds the input of a convolution and stores the scores of attention.
    """
    if _assumed_backend is not None:
        return _assumed_backend == "cpu"
    return device().type == mx.cpu


def backend() -> Backend:
    """The backend whose forms operations take: this machine's, or the one that ``as_backend`` names."""
    return "cpu" if on_cpu() else "gpu"


@contextmanager
def as_backend(name: Backend) -> Iterator[None]:
    """Let ``on_cpu`` answer for another backend: to plan for another machine, or to test its forms on this one.

    It holds for all threads of the process. The arrays are still computed on this machine's device.
    """
    global _assumed_backend
    if name not in ("cpu", "gpu"):
        raise ValueError(f"Unknown backend {name!r}. Use 'cpu' or 'gpu'.")
    previous = _assumed_backend
    _assumed_backend = name
    try:
        yield
    finally:
        _assumed_backend = previous


def device() -> mx.Device:
    """The device that arrays are computed on, whatever ``as_backend`` says."""
    return mx.default_device()


def device_name() -> str:
    """The name that the maker gives the device, such as "Apple M1 Max"; empty if MLX does not know it."""
    return str(mx.device_info(device()).get("device_name", ""))


def largest_array_bytes(item_bytes: int | None = None) -> int | None:
    """Bytes that one array may have on this machine's device; None where nothing but its memory limits it.

    Metal refuses a larger buffer, however much memory is free. With ``item_bytes`` no more elements than Metal's
    kernels have been seen to count right.
    """
    if device().type != mx.gpu:
        return None
    limit = mx.device_info(mx.gpu).get("max_buffer_length")
    if limit is None:
        return None
    return int(limit) if item_bytes is None else min(int(limit), _MOST_ELEMENTS * item_bytes)


def eval_if_large(x: mx.array, *, on_gpu: bool = True) -> mx.array:
    """``x``, evaluated now if it is large; without ``on_gpu`` on a CPU alone.

    Of a chain of lazy operations several are in flight at once, and each holds its working memory: for a chain of
    convolutions eight times that of one. Small arrays stay lazy, so that a GPU's queue stays full.
    """
    is_cpu = on_cpu()
    limit = LARGE_BYTES_ON_CPU if is_cpu else _LARGE_BYTES
    if (is_cpu or on_gpu) and x.nbytes >= limit:
        mx.eval(x)
    return x


def queued_if_large(x: mx.array) -> mx.array:
    """``x``, its computation started now if it is large and on a GPU: what follows is a command buffer of its own.

    macOS ends a command buffer that holds the GPU for about five seconds.
    """
    if not on_cpu() and x.nbytes >= _QUEUED_BYTES:
        mx.async_eval(x)
    return x


def evaluated(x: mx.array) -> mx.array:
    """``x``, evaluated now: between two pieces of work, so that what it was made from can be freed."""
    mx.eval(x)
    return x


def in_token_runs(layers: Sequence[Callable[[mx.array], mx.array]], tokens: mx.array) -> mx.array:
    """``tokens`` through layers that treat each by itself: on a CPU in runs, on a GPU all at once.

    Args:
        layers: In order, each ``(..., D)`` to ``(..., D')``.
        tokens: ``(..., D)``.

    Returns:
        ``(..., D')`` of the last layer.
    """
    rows = tokens.reshape(-1, tokens.shape[-1])
    size = max(FEWEST_ROWS, RUN_BYTES // (tokens.shape[-1] * tokens.dtype.size))
    count = -(-len(rows) // size) if on_cpu() else 1
    runs = []
    for number in range(count):
        run = rows[len(rows) * number // count : len(rows) * (number + 1) // count] if count > 1 else tokens
        for layer in layers:
            run = layer(run)
        if count > 1:
            mx.eval(run)
        runs.append(run)
    return runs[0] if count == 1 else mx.concatenate(runs).reshape(*tokens.shape[:-1], -1)


def fused(function: Callable[Parameters, mx.array]) -> Callable[Parameters, mx.array]:
    """Compute ``function`` in one GPU kernel instead of two or three.

    On the CPU it is not compiled, because MLX would start a C++ compiler first; a large result is evaluated, so that
    what lies between the operations is freed.
    """
    compiled = mx.compile(function)

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> mx.array:
        if on_cpu():
            return eval_if_large(function(*args, **kwargs))
        return compiled(*args, **kwargs)

    return call


def with_plain_gradient(form: Callable[..., mx.array], plain: Callable[..., mx.array], *arrays: mx.array) -> mx.array:
    """``form`` of the arrays, whose gradient is that of ``plain``, the same function in MLX's operations."""

    evaluate: Any = mx.custom_function(form)

    @evaluate.vjp
    def gradients(primals: Any, cotangent: mx.array, output: mx.array) -> Any:
        # MLX passes a single argument by itself.
        several = isinstance(primals, (tuple, list))
        _, results = mx.vjp(plain, list(primals) if several else [primals], [cotangent])
        return tuple(results) if several else results[0]

    result: mx.array = evaluate(*arrays)
    return result


def traced(function: Callable[Parameters, Result], **options: Any) -> Callable[Parameters, Result]:
    """``mx.compile`` of a whole network: its operations take their plain forms, as those of the CPU need values."""
    compiled = mx.compile(function, **options)

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with as_backend("gpu"):
            return compiled(*args, **kwargs)

    return call


def blas_threads() -> int:
    """Threads that a matrix product may use now: the cores of the machine, or what OPENBLAS_NUM_THREADS says."""
    for get_threads, _ in _openblas_threads():
        return get_threads()
    return _THREADS


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let OpenBLAS, MLX's and NumPy's, compute with one thread: two products at once would wait for each other's."""
    previous = []
    for get_threads, set_threads in _openblas_threads():
        previous.append((set_threads, get_threads()))
        set_threads(1)
    try:
        yield
    finally:
        for set_threads, threads in previous:
            set_threads(threads)


def on_all_cores(function: Callable[[Item], None], items: Iterable[Item], *, exponentials: int | None = None) -> None:
    """``function`` of every item, as many at once as BLAS has threads.

    It computes with NumPy, which lets the other threads run meanwhile. MLX's streams belong to the thread that made
    them, and arrays evaluated by another thread would lose their gradients.

    Args:
        function: Computes an item.
        items: What is computed, in any order.
        exponentials: How many all items take together, where they are most of the work. Few are taken by this thread
            alone: handing them over would cost more than the other core saves.
    """
    threads = blas_threads()
    with one_blas_thread():
        if threads == 1 or (exponentials is not None and exponentials < _FEW_EXPONENTIALS):
            for item in items:
                function(item)
            return
        for _ in _pool(threads).map(function, items):
            pass


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="on_all_cores")


@lru_cache(maxsize=1)
def _openblas_threads() -> list[tuple[Callable[[], int], Callable[[int], None]]]:
    """For each OpenBLAS in this process what tells and what sets its threads: first MLX's, then NumPy's own."""
    libraries = [(ctypes.CDLL(None), "openblas_{}_num_threads")]
    for path in glob(f"{np.__path__[0]}.libs/*openblas*"):
        libraries.append((ctypes.CDLL(path), "scipy_openblas_{}_num_threads64_"))
    functions = []
    for library, name in libraries:
        get_threads = getattr(library, name.format("get"), None)
        set_threads = getattr(library, name.format("set"), None)
        if get_threads is not None and set_threads is not None:
            functions.append((get_threads, set_threads))
    return functions
