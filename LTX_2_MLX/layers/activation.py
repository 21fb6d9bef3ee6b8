"""Activations that are computed in float32 and rounded once, as PyTorch computes them in 16 bit."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.ops.device import fused

Activation = Callable[[mx.array], mx.array]


def rounded_once(activation: Activation) -> Activation:
    """The activation in float32, rounded to the dtype of its argument.

    MLX's own round after every operation inside: in 16 bit the error of SiLU is a third larger.
    """

    @fused
    def in_float32(x: mx.array) -> mx.array:
        return activation(x.astype(mx.float32)).astype(x.dtype)

    def call(x: mx.array) -> mx.array:
        return activation(x) if x.dtype == mx.float32 else in_float32(x)

    return call


silu = rounded_once(nn.silu)
gelu_tanh = rounded_once(nn.gelu_approx)
