"""MLX's library on this machine: found or explained, with OpenBLAS beside it, and set before it is imported."""

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

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
