"""Activations by the fastest form that the backend has; computed in float32, rounded once."""

import math
from functools import partial

import mlx.core as mx

from LTX_2_MLX.ops.cpu import numpy_forms as cpu
from LTX_2_MLX.ops.device import fused, on_cpu, with_plain_gradient

_SLOPE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def silu(x: mx.array) -> mx.array:
    """``x * sigmoid(x)``; keeps shape and dtype."""
    if on_cpu() and x.size >= cpu.FEW_VALUES:
        form = partial(cpu.times_sigmoid, linear=1.0, cubic=0.0)
        return with_plain_gradient(form, _silu, x.astype(mx.float32)).astype(x.dtype)
    return _fused_silu(x)


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU in its tanh form; keeps shape and dtype."""
    if on_cpu() and x.size >= cpu.FEW_VALUES:
        # (1 + tanh(u)) / 2 is sigmoid(2 u).
        form = partial(cpu.times_sigmoid, linear=2 * _SLOPE, cubic=2 * _SLOPE * _CUBIC)
        return with_plain_gradient(form, _gelu_tanh, x.astype(mx.float32)).astype(x.dtype)
    return _fused_gelu_tanh(x)


def _silu(x: mx.array) -> mx.array:
    # MLX's own rounds twice: in 16 bit its error is a third larger.
    value = x.astype(mx.float32)
    return (value * mx.sigmoid(value)).astype(x.dtype)


def _gelu_tanh(x: mx.array) -> mx.array:
    # In 16 bit, 1 + tanh near -1 would keep two or three bits.
    value = x.astype(mx.float32)
    # MLX's own takes a power, which costs a CPU half as much again.
    return (0.5 * value * (1 + mx.tanh(_SLOPE * value * (1 + _CUBIC * value * value)))).astype(x.dtype)


_fused_silu = fused(_silu)
_fused_gelu_tanh = fused(_gelu_tanh)
