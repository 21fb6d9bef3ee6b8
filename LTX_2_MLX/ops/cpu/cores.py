"""Pieces of work in NumPy on all cores at once."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from LTX_2_MLX.ops.device import blas_threads, one_blas_thread

Item = TypeVar("Item")
# With fewer one thread is faster than two: it takes a millisecond for so many.
_FEW_EXPONENTIALS = 2**18


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
