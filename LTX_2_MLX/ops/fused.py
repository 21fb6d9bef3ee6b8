"""Functions of arrays that a GPU computes in one kernel."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import mlx.core as mx

from LTX_2_MLX.ops.device import on_cpu

Parameters = ParamSpec("Parameters")


def fused(function: Callable[Parameters, mx.array]) -> Callable[Parameters, mx.array]:
    """Compute ``function`` in one GPU kernel instead of two or three.

    On the CPU it is not compiled, because MLX would start a C++ compiler first.
    """
    compiled = mx.compile(function)

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> mx.array:
        chosen = function if on_cpu() else compiled
        return chosen(*args, **kwargs)

    return call
