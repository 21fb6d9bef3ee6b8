"""This machine: MLX's library with OpenBLAS beside it, set before it is imported, and memory within limits.

Importing this module imports neither MLX nor NumPy: commands explain a missing library, and answer ``--help``, by it.
"""

import ctypes
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

GIB = 2**30
# Left to the system and other programs: at least 4 GiB, on larger machines 15 % (our own choice).
_MIN_RESERVE_BYTES = 4 * GIB
_RESERVE_SHARE = 0.15
_CACHE_LIMIT_BYTES = GIB
_SMALL_MAC_BYTES = 32 * GIB
# Options of glibc's mallopt (malloc.h), and the largest array that the allocator keeps for reuse.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_REUSED_BYTES = 32 * 2**20
# Parts of the messages of MLX, Metal and the C++ runtime.
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
_WATCHDOG = ("impacting interactivity", "caused gpu timeout", "gpu hang", "command buffer execution failed")
_RESUME_HINT = "Stages saved by --save-latents are kept: continue with --resume."
_EXTRAS = 'pip install "LTX-2-MLX[cpu]", or "LTX-2-MLX[cuda13]" in a fresh environment on a machine with an NVIDIA GPU'
_OPENBLAS = "libopenblas.so.0"
# Winograd convolutions in 16 bit multiply a decoder's error by four; TF32 cuts float32 products to about ten bits.
# MLX reads both variables itself (mlx/backend/metal/conv.cpp and mlx/utils.h at 0.32.4).
_WINOGRAD = "MLX_CONV_WINOGRAD"
_TILE_BATCH = "MLX_CONV_WINOGRAD_TILE_BATCH"
_TF32 = "MLX_ENABLE_TF32"
_DEFAULTS = {_WINOGRAD: "0", _TF32: "0"}
# Those of the variables that the user has not set.
_ours: set[str] = set()


def set_mlx_defaults() -> None:
    """Turn off Winograd convolutions and TF32 where the user has not set the variable."""
    for name, value in _DEFAULTS.items():
        if name not in os.environ:
            os.environ[name] = value
            _ours.add(name)


def load_openblas() -> bool:
    """Load OpenBLAS before ``mlx.core`` is imported; returns whether it was found in time.

    MLX's Linux wheel is linked to an unoptimised reference BLAS. The first library that exports ``cblas_sgemm``
    globally is used, and with OpenBLAS float32 matmul and convolution are 30 to 40 times faster. On macOS, where MLX
    uses Accelerate, nothing is done.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return False
    try:
        ctypes.CDLL(_OPENBLAS, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def require_mlx() -> None:
    """Raise ``ImportError`` in one line where ``mlx.core`` cannot be imported; nothing is imported here.

    On Linux the package ``mlx`` brings no library: ``mlx[cpu]`` and ``mlx[cuda13]`` do.
    """
    if "mlx.core" in sys.modules:
        return
    spec = find_spec("mlx")
    if spec is None:
        raise ImportError(f"MLX is not installed. Install this program with its extra: {_EXTRAS}.")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if sys.platform == "linux" and not any((folder / "lib" / "libmlx.so").exists() for folder in folders):
        raise ImportError(f"MLX has no library for this machine. Install it: {_EXTRAS}.")


def idle_gpu_warning() -> str | None:
    """A line for users whose NVIDIA GPU MLX does not use; None elsewhere."""
    import mlx.core as mx

    if mx.is_available(mx.gpu) or shutil.which("nvidia-smi") is None:
        return None
    return (
        "This machine has an NVIDIA GPU, but MLX computes on the CPU. In a fresh environment, install "
        '"LTX-2-MLX[cuda13]" instead of the extra cpu.'
    )


def winograd_is_exact() -> bool:
    """Whether float32 convolutions may go by Winograd: products keep their bits, and the user has not decided."""
    return _WINOGRAD in _ours and os.environ.get(_TF32) == "0"


@contextmanager
def winograd_convolutions(wanted: bool) -> Iterator[None]:
    """Let Metal compute wide convolutions by Winograd, a fifth of the products, while inside.

    In float32 that costs 5e-6 of a layer's result. Frames are transformed one at a time, to hold little at once. MLX
    reads both variables at every convolution.
    """
    if not wanted or not winograd_is_exact():
        yield
        return
    inside = {_WINOGRAD: "1", _TILE_BATCH: os.environ.get(_TILE_BATCH, "1")}
    before = {name: os.environ.get(name) for name in inside}
    os.environ.update(inside)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def total_bytes() -> int:
    """Memory that arrays can take: the unified memory of a Mac, the card's on CUDA, the machine's on a CPU."""
    import mlx.core as mx

    from LTX_2_MLX.ops.device import device

    if device().type == mx.gpu:
        info = mx.device_info(mx.gpu)
        # Metal calls it memory_size, CUDA total_memory.
        return int(info.get("memory_size", info.get("total_memory", 0)))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def budget_bytes(limit_gib: float | None = None) -> int:
    """Memory that a run may use: the user's limit, or the machine's memory without a reserve for the system.

    On a GPU it is no more than what Metal recommends, or what other processes leave free on a CUDA card.
    """
    if limit_gib is not None:
        return int(limit_gib * GIB)
    import mlx.core as mx

    from LTX_2_MLX.ops.device import device

    total = total_bytes()
    budget = max(total - _reserve(total), total // 4)
    if device().type == mx.gpu:
        info = mx.device_info(mx.gpu)
        available = info.get("max_recommended_working_set_size", info.get("free_memory", budget))
        budget = min(budget, int(available))
    return budget


def mac_budget_bytes(total_gib: float) -> int:
    """Memory that a run may use on a Mac of this size, as ``budget_bytes`` finds it there.

    Unless ``iogpu.wired_limit_mb`` is set, Metal's recommendedMaxWorkingSetSize is two thirds of a small Mac's memory
    and three quarters of a larger one's.
    """
    total = int(total_gib * GIB)
    working_set = total * 2 // 3 if total <= _SMALL_MAC_BYTES else total * 3 // 4
    return min(total - _reserve(total), working_set)


def _reserve(total: int) -> int:
    return max(_MIN_RESERVE_BYTES, int(total * _RESERVE_SHARE))


def peak_process_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def memory_limits(wired_bytes: int | None = None) -> Iterator[None]:
    """Limit MLX's cache to 1 GiB and, on a Mac's GPU, wire memory; both are restored afterwards.

    On the CPU, where MLX has no cache, the allocator keeps as much from then on.

    Args:
        wired_bytes: Need of the largest stage, capped to the recommended working set; None wires nothing.
    """
    import mlx.core as mx

    from LTX_2_MLX.ops.device import device

    is_gpu = device().type == mx.gpu
    if not is_gpu:
        _reuse_freed_memory()
    old_cache_limit = mx.set_cache_limit(_CACHE_LIMIT_BYTES)
    old_wired_limit = None
    if wired_bytes is not None and is_gpu and mx.metal.is_available():
        working_set = int(mx.device_info(mx.gpu)["max_recommended_working_set_size"])
        old_wired_limit = mx.set_wired_limit(min(wired_bytes, working_set))
    try:
        yield
    finally:
        mx.set_cache_limit(old_cache_limit)
        if old_wired_limit is not None:
            mx.set_wired_limit(old_wired_limit)


@lru_cache(maxsize=1)
def _reuse_freed_memory() -> None:
    """Let glibc keep freed arrays for the next ones, until the process ends.

    MLX has no cache on the CPU. Returning memory to the system and asking for it again costs a page fault for every
    4 KiB: a quarter of the time of post-processing. Other systems and allocators are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _CACHE_LIMIT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_REUSED_BYTES)


def resource_advice(error: BaseException) -> str | None:
    """What to do about an error of exhausted memory or of the GPU watchdog; None for any other error."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(phrase in text for phrase in _OUT_OF_MEMORY):
        return (
            "The machine ran out of memory. Close other programs, or pass smaller sizes, fewer frames, "
            f"a smaller --tile-size, --low-ram or --quantize 8 where the command has them. {_RESUME_HINT}"
        )
    if any(phrase in text for phrase in _WATCHDOG):
        return (
            "macOS aborted the GPU command buffer (watchdog timeout). Pass smaller sizes or tiles, and leave the "
            f"display idle meanwhile. {_RESUME_HINT}"
        )
    return None
