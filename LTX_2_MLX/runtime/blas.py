"""Loads OpenBLAS for MLX's CPU backend on Linux, and has all threads share one heap."""

import ctypes
import sys

_LIBRARY = "libopenblas.so.0"
# An option of glibc's mallopt (malloc.h).
_M_ARENA_MAX = -8


def share_one_heap() -> None:
    """Let all threads allocate from one heap, before any of them has a heap of its own; on Linux alone.

    What x264 makes of the same frames depended on the heap that its thread allocates from: with a heap for each thread
    up to one file in ten differed from the others. Arrays are few and large, so threads do not wait for each other.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, 1)


def load_openblas() -> bool:
    """Load OpenBLAS before ``mlx.core`` is imported; returns whether it was found in time.

    MLX's Linux wheel is linked to an unoptimised reference BLAS. The first library that exports ``cblas_sgemm``
    globally is used, and with OpenBLAS float32 matmul and convolution are 30 to 40 times faster. On macOS, where MLX
    uses Accelerate, nothing is done.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return False
    try:
        ctypes.CDLL(_LIBRARY, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
