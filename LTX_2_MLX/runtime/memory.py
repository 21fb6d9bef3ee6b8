"""How much memory this machine lends, and MLX's limits while a run lasts."""

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import mlx.core as mx

from LTX_2_MLX.errors import MemoryBudgetError
from LTX_2_MLX.ops.device import device

GIB = 2**30
# What the system and other programs need beside us: at least 4 GiB, on larger machines a sixth or so.
_MIN_RESERVE_BYTES, _RESERVE_SHARE = 4 * GIB, 0.15
_CACHE_LIMIT_BYTES = GIB
_SMALL_MAC_BYTES = 32 * GIB
# Options of glibc's mallopt, and the largest array that it can keep.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT_BYTES = 32 * 2**20
# What MLX, Metal and the C++ runtime say when memory has run out or the GPU was taken away.
_OUT_OF_MEMORY = (
    "attempting to allocate",
    "unable to allocate",
    "insufficient memory",
    "out of memory",
    "outofmemory",
    "bad_alloc",
    "maximum allowed buffer size",
    "cannot allocate memory",
)
_GOING_ON = "What --save-latents kept stays: --resume goes on from it."
_WATCHDOG = ("impacting interactivity", "caused gpu timeout", "gpu hang", "command buffer execution failed")


def total_bytes() -> int:
    """Memory of this machine: unified on a Mac, that of the device elsewhere."""
    if device().type == mx.gpu:
        return int(mx.device_info()["memory_size"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def budget_bytes(limit_gib: float | None = None) -> int:
    """What a run may use: a user's limit, or the machine's memory less a reserve for the system."""
    total = total_bytes()
    if limit_gib is not None:
        return int(limit_gib * GIB)
    budget = total - _reserve(total)
    if mx.metal.is_available():
        budget = min(budget, int(mx.device_info()["max_recommended_working_set_size"]))
    return max(budget, total // 4)


def mac_budget_bytes(total_gib: float) -> int:
    """What a run may use on a Mac with so much memory: less the reserve, and no more than the system lends the GPU.

    Unless ``iogpu.wired_limit_mb`` says otherwise that is two thirds of a small Mac's memory and three quarters of a
    larger one's (Metal's recommendedMaxWorkingSetSize).
    """
    total = int(total_gib * GIB)
    lent = total * 2 // 3 if total <= _SMALL_MAC_BYTES else total * 3 // 4
    return min(total - _reserve(total), lent)


def _reserve(total: int) -> int:
    return max(_MIN_RESERVE_BYTES, int(total * _RESERVE_SHARE))


def check_budget(stage: str, needed: int, cure: str, limit_gib: float | None = None) -> None:
    """Raise ``MemoryBudgetError`` if ``stage`` needs more than the budget; ``cure`` says what to pass instead."""
    budget = budget_bytes(limit_gib)
    if needed > budget:
        raise MemoryBudgetError(
            f"{stage} needs about {needed / GIB:.1f} GiB, the budget is {budget / GIB:.1f} GiB. {cure}"
        )


def peak_process_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def memory_limits(wired_bytes: int | None = None) -> Iterator[None]:
    """MLX's cache limited to 1 GiB, and on a Mac memory wired up to need; both as before afterwards.

    On the CPU, where MLX has no cache, the allocator's keeps as much from then on.

    Args:
        wired_bytes: What the largest stage needs; None wires nothing. It is capped to what the system allows.
    """
    cache = mx.set_cache_limit(_CACHE_LIMIT_BYTES)
    if device().type == mx.cpu:
        _keep_freed_arrays()
    wired = None
    if wired_bytes is not None and mx.metal.is_available():
        allowed = int(mx.device_info()["max_recommended_working_set_size"])
        wired = mx.set_wired_limit(min(wired_bytes, allowed))
    try:
        yield
    finally:
        mx.set_cache_limit(cache)
        if wired is not None:
            mx.set_wired_limit(wired)


@lru_cache(maxsize=1)
def _keep_freed_arrays() -> None:
    """Let the allocator of Linux keep what is freed for the next array, to the end of the process.

    On the CPU MLX has no cache of its own. Giving memory back and asking for it anew costs a page fault for every
    4 KiB: in post-processing that was a quarter of the time. Other systems and allocators are left as they are.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None:
        mallopt(_TRIM_THRESHOLD, _CACHE_LIMIT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)


def machine_trouble(error: BaseException) -> str | None:
    """What to do about an error that means the machine gave out; None for any other error."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        return (
            "The machine ran out of memory. Close other programs, or pass smaller sizes, fewer frames, "
            "a smaller --tile-size, --low-ram or --quantize 8 where the command has them. " + _GOING_ON
        )
    if any(sign in text for sign in _WATCHDOG):
        return (
            "The system took the GPU away because one step held it too long. "
            "Pass smaller sizes or tiles, and leave the screen alone while it works. " + _GOING_ON
        )
    return None
