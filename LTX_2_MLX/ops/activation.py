"""Activations by the fastest form that the backend has; computed in float32, rounded once."""

import math

import mlx.core as mx

from LTX_2_MLX.ops.cpu import numpy_forms as cpu
from LTX_2_MLX.ops.device import fused, on_cpu

_SLOPE = math.sqrt(2 / math.pi)


def silu(x: mx.array) -> mx.array:
    """``x * sigmoid(x)``; keeps shape and dtype."""
    if on_cpu() and x.size >= cpu.FEW_VALUES:
        return cpu.silu(x.astype(mx.float32)).astype(x.dtype)
    return _silu(x)


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU in its tanh form; keeps shape and dtype."""
    if on_cpu() and x.size >= cpu.FEW_VALUES:
        return cpu.gelu_tanh(x.astype(mx.float32)).astype(x.dtype)
    return _gelu_tanh(x)


@fused
def _silu(x: mx.array) -> mx.array:
    # MLX's own rounds twice: in 16 bit its error is a third larger.
    value = x.astype(mx.float32)
    return (value * mx.sigmoid(value)).astype(x.dtype)


@fused
def _gelu_tanh(x: mx.array) -> mx.array:
    # In 16 bit, 1 + tanh near -1 would keep two or three bits.
    value = x.astype(mx.float32)
    # MLX's own takes a power, which costs a CPU half as much again.
    return (0.5 * value * (1 + mx.tanh(_SLOPE * value * (1 + 0.044715 * value * value)))).astype(x.dtype)
