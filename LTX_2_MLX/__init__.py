"""Generate video with LTX-2 on a Mac and finish it, all in MLX."""

from LTX_2_MLX.runtime.blas import load_openblas

OPENBLAS_LOADED = load_openblas()

from LTX_2_MLX._version import __version__

__all__ = ["OPENBLAS_LOADED", "__version__"]
