"""Independent pieces of work on several CPU cores at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import mlx.core as mx

from LTX_2_MLX.ops.device import device, on_cpu, one_blas_thread

Item = TypeVar("Item")
Result = TypeVar("Result")

# Operations other than matrix products keep a single core busy each. More threads take more memory.
_THREADS = 2


def num_workers() -> int:
    """Pieces of work that ``map_on_cores`` computes at once; on a GPU one."""
    return _THREADS if on_cpu() else 1


def map_on_cores(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """``function`` of every item, in order, ``num_workers`` of them at once.

    MLX's streams belong to the thread that made them. So the arrays that ``function`` uses have to be evaluated before,
    and it has to evaluate those that it returns.
    """
    if num_workers() == 1 or len(items) < 2:
        return [function(item) for item in items]
    with one_blas_thread():
        return list(_pool().map(function, items))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    # The threads stay, because MLX compiles functions once for each thread.
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="map_on_cores", initializer=_use_own_stream)


def _use_own_stream() -> None:
    mx.set_default_stream(mx.new_stream(device()))
