"""Normalisation without weights, and the modulation that adaptive layers apply to its result."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import mlx.core as mx

from LTX_2_MLX.ops.device import on_cpu

Parameters = ParamSpec("Parameters")


def rms_norm(x: mx.array, eps: float = 1e-6) -> mx.array:
    """``x`` over the root mean square of its last axis; accumulates in float32, keeps the dtype."""
    return mx.fast.rms_norm(x, None, eps)


def layer_norm(x: mx.array, eps: float = 1e-6) -> mx.array:
    """``x`` with mean 0 and variance 1 along its last axis; accumulates in float32, keeps the dtype."""
    return mx.fast.layer_norm(x, None, None, eps)


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


@fused
def modulate(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    """``x * (1 + scale) + shift``; scale and shift ``(B, 1 or N, D)``."""
    return x * (1 + scale) + shift


@fused
def gated_add(x: mx.array, update: mx.array, gate: mx.array) -> mx.array:
    """``x + update * gate``; gate ``(B, 1 or N, D)``."""
    return x + update * gate
