"""A fast BLAS for MLX's CPU backend on Linux."""

import ctypes
import sys

_LIBRARY = "libopenblas.so.0"


def load_openblas() -> bool:
    """Put OpenBLAS into the process before ``mlx.core`` is imported; True when it is there and in time.

    MLX's Linux wheel is linked against a plain reference BLAS. The first library that offers
    ``cblas_sgemm`` globally wins, so OpenBLAS loaded first makes float32 matmul and convolution
    30 to 40 times faster. On macOS Accelerate is used and nothing is done.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return False
    try:
        ctypes.CDLL(_LIBRARY, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
