"""Two linear layers with a GELU between them."""

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.ops.activation import gelu_tanh


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
        return self.project_out(gelu_tanh(self.project_in(x)))
