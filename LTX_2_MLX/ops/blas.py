"""Threads of OpenBLAS, where it is in the process."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let OpenBLAS compute with one thread: two products at once would wait for each other's threads."""
    get_threads = _openblas("openblas_get_num_threads")
    set_threads = _openblas("openblas_set_num_threads")
    threads = get_threads() if get_threads and set_threads else 1
    if set_threads is None or threads == 1:
        yield
        return
    set_threads(1)
    try:
        yield
    finally:
        set_threads(threads)


@lru_cache(maxsize=2)
def _openblas(function: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), function, None)
