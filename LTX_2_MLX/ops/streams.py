"""Independent work on several CPU cores at once."""

import ctypes
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import TypeVar

import mlx.core as mx
from mlx.utils import tree_flatten

from LTX_2_MLX.ops.device import device, on_cpu
from LTX_2_MLX.ops.settle import settled

_WORKERS = 2
Part, Result = TypeVar("Part"), TypeVar("Result")
# What can be computed so far, arrays or lists of them, again and again, and the result in the end.
Steps = Generator[mx.array | list, None, Result]


def parts_at_once() -> int:
    """How many parts go ``side_by_side``."""
    return _WORKERS if on_cpu() else 1


def in_groups(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """As many parts at a time as go ``side_by_side``."""
    parts, size = iter(parts), parts_at_once()
    while group := list(islice(parts, size)):
        yield group


def side_by_side(work: Callable[[Part], Steps[Result]], parts: Iterable[Part]) -> list[Result]:
    """``work`` of every part, on the CPU as many at a time as there are workers; elsewhere one after another.

    The framework takes in about a hundred operations before it waits for some of them: of two long pieces of work
    the second would begin when the first is nearly done. So they go on in turns, from one step to the next.
    """
    done = []
    for group in in_groups(parts):
        if len(group) == 1:
            done.append(finished(work(group[0])))
            continue
        with _products_on_one_core():
            done += _in_turns([work(part) for part in group])
            mx.eval(done)
    return done


def finished(work: Steps[Result]) -> Result:
    """What all steps end with, computed here; large ones of them at once (``settled``)."""
    while True:
        try:
            step = next(work)
        except StopIteration as end:
            return end.value
        for _, array in tree_flatten(step):
            settled(array)


def _in_turns(works: list[Steps[Result]]) -> list[Result]:
    results, workers = {}, _workers()
    while len(results) < len(works):
        for i in range(len(works)):
            if i in results:
                continue
            with mx.stream(workers[i]):
                try:
                    mx.async_eval(next(works[i]))
                except StopIteration as end:
                    results[i] = end.value
    return [results[i] for i in range(len(works))]


@lru_cache(maxsize=1)
def _workers() -> list[mx.Stream]:
    """Two queues of work: operations other than products keep a single core busy each. More cost more memory."""
    return [mx.new_stream(device()) for _ in range(_WORKERS)]


@contextmanager
def _products_on_one_core() -> Iterator[None]:
    """OpenBLAS, where it is in the process, with one thread: two products at once would wait for its threads."""
    get, put = (_openblas(f"openblas_{verb}_num_threads") for verb in ("get", "set"))
    threads = get() if get and put else 1
    if threads == 1:
        yield
        return
    put(1)
    try:
        yield
    finally:
        put(threads)


@lru_cache(maxsize=2)
def _openblas(function: str) -> Callable | None:
    return getattr(ctypes.CDLL(None), function, None)
