"""Whether MLX has a library on this machine, and uses the GPU that is there."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

_EXTRAS = 'pip install "LTX-2-MLX[cpu]", or "LTX-2-MLX[cuda13]" in a fresh environment on a machine with an NVIDIA GPU'


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
