"""Pieces of one operation on all cores."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from LTX_2_MLX.ops.device import blas_threads, one_blas_thread

Item = TypeVar("Item")


def on_all_cores(function: Callable[[Item], None], items: Iterable[Item]) -> None:
    """``function`` of every item, as many at once as BLAS has threads.

    It computes with NumPy, which lets the other threads run meanwhile. MLX's streams belong to the thread that made
    them, and arrays evaluated by another thread would lose their gradients.
    """
    threads = blas_threads()
    if threads == 1:
        for item in items:
            function(item)
        return
    with one_blas_thread():
        for _ in _pool(threads).map(function, items):
            pass


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="on_all_cores")
