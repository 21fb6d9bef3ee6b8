"""Independent work on several CPU cores at once."""

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import mlx.core as mx

Part = TypeVar("Part")
# Below this many pixels what a band costs by itself is more than a second core gains.
_FEW_PIXELS = 1024


def side_by_side(work: Callable[[Part], mx.array | list[mx.array]], parts: Iterable[Part]) -> list:
    """``work`` of every part, on the CPU evaluated, as many at a time as there are workers; elsewhere left lazy."""
    done, parts = [], list(parts)
    if mx.default_device() != mx.cpu:
        return [work(part) for part in parts]
    workers = _workers()
    with _products_on_one_core():
        for start in range(0, len(parts), len(workers)):
            for part, worker in zip(parts[start:], workers):  # noqa: B905
                with mx.stream(worker):
                    done.append(work(part))
            mx.eval(done)
    return done


def in_bands(layer: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    """What ``layer`` makes of pictures ``(B, H, W, C)``, on the CPU the upper and the lower rows side by side.

    An output pixel may depend on the one input pixel around it, beyond the border on zeros.
    """
    height, width = x.shape[1:3]
    if mx.default_device() != mx.cpu or height * width < _FEW_PIXELS:
        return layer(x)
    middle = height // 2
    bands = [(x[:, : middle + 1], slice(None, -1)), (x[:, middle - 1 :], slice(1, None))]
    return mx.concatenate(side_by_side(lambda band: layer(band[0])[:, band[1]], bands), axis=1)


@lru_cache(maxsize=1)
def _workers() -> list[mx.Stream]:
    """Two queues of work: operations other than products keep a single core busy each. More cost more memory."""
    return [mx.new_stream(mx.cpu) for _ in range(2)]


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
