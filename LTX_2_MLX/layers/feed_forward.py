"""Two linear layers with a GELU between them."""

import math

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.ops.device import fused

_SLOPE = math.sqrt(2 / math.pi)


@fused
def gelu(x: mx.array) -> mx.array:
    """GELU in its tanh form, computed in float32; keeps the dtype."""
    # In 16 bit, 1 + tanh near -1 would keep two or three bits.
    value = x.astype(mx.float32)
    # MLX's own takes a power, which costs a CPU half as much again.
    return (0.5 * value * (1 + mx.tanh(_SLOPE * value * (1 + 0.044715 * value * value)))).astype(x.dtype)


class FeedForward(nn.Module):
    """Widen four times, GELU (tanh form), narrow again.

    Shape:
        ``(..., width)`` -> ``(..., width)``.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/transformer/feed_forward.py at 400fd31.
    """

    def __init__(self, width: int, bias: bool = True):
        super().__init__()
        self.project_in = nn.Linear(width, 4 * width, bias=bias)
        self.project_out = nn.Linear(4 * width, width, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        return self.project_out(gelu(self.project_in(x)))
