"""Loads OpenBLAS for MLX's CPU backend on Linux."""

import ctypes
import sys

_LIBRARY = "libopenblas.so.0"


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
