"""Activations with NumPy's exponential, in pieces on all cores.

MLX takes an exponential or a tangent value by value and keeps one core busy; NumPy uses the processor's vectors.
"""

import math
from collections.abc import Callable
from functools import partial

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.cpu.gradient import with_plain_gradient
from LTX_2_MLX.ops.cpu.threads import on_all_cores

# Values of one piece: they stay in a core's cache.
_PIECE = 2**16
# With fewer values MLX's own forms are taken; the two are even at twice as many.
_FEW_VALUES = 2**12
_SLOPE = math.sqrt(2 / math.pi)


def is_faster(x: mx.array) -> bool:
    """Whether these forms are the faster ones: for all but short arrays."""
    return x.size >= _FEW_VALUES


def silu(x: mx.array) -> mx.array:
    """``x * sigmoid(x)`` of a float32 array of any shape, evaluated; gradients pass through."""

    def exponent(values: np.ndarray, out: np.ndarray) -> None:
        np.negative(values, out=out)

    return with_plain_gradient(partial(_over_exponential, exponent=exponent), lambda x: x * mx.sigmoid(x), x)


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU in its tanh form of a float32 array of any shape, evaluated; gradients pass through."""

    def exponent(values: np.ndarray, out: np.ndarray) -> None:
        # (1 + tanh(u)) / 2 is sigmoid(2 u).
        np.multiply(values, values, out=out)
        out *= -2 * _SLOPE * 0.044715
        out -= 2 * _SLOPE
        out *= values

    def plain(x: mx.array) -> mx.array:
        return 0.5 * x * (1 + mx.tanh(_SLOPE * x * (1 + 0.044715 * x * x)))

    return with_plain_gradient(partial(_over_exponential, exponent=exponent), plain, x)


def _over_exponential(x: mx.array, *, exponent: Callable[[np.ndarray, np.ndarray], None]) -> mx.array:
    """``x / (1 + exp(exponent(x)))``."""
    x = mx.contiguous(x)
    result = mx.zeros_like(x)
    mx.eval(x, result)
    values = np.array(x, copy=False).reshape(-1)
    # The array's own memory.
    out = np.array(result, copy=False).reshape(-1)

    def compute(start: int) -> None:
        piece = out[start : start + _PIECE]
        source = values[start : start + _PIECE]
        # Beyond float32's range the quotient is 0, as it has to be.
        with np.errstate(over="ignore"):
            exponent(source, piece)
            np.exp(piece, out=piece)
        piece += 1
        np.divide(source, piece, out=piece)

    on_all_cores(compute, range(0, x.size, _PIECE))
    return result
