"""Settings of MLX that have to be made before it is imported."""

import os

# Winograd convolutions in 16 bit multiply a decoder's error by four; TF32 cuts float32 products to about ten bits.
# MLX reads both variables itself (mlx/backend/metal/conv.cpp and mlx/utils.h at 0.32.4).
_DEFAULTS = {"MLX_CONV_WINOGRAD": "0", "MLX_ENABLE_TF32": "0"}


def set_mlx_defaults() -> None:
    """Turn off Winograd convolutions and TF32 where the user has not set the variable."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
