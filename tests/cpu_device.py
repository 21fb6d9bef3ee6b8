"""Plugin for pytest (``-p cpu_device``): compute on MLX's CPU device, on a machine with a GPU too."""

import LTX_2_MLX  # noqa: F401 - it loads a fast BLAS, which has to be there before MLX is

import mlx.core as mx  # isort: skip

mx.set_default_device(mx.cpu)
