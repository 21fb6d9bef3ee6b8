"""LTX-2's transformer block in torch, to compare ours with: the plain form.

Weights come under our parameters' names, convolutions in torch's axis order; the video stream alone, of 2.0 and 2.3.
"""

from typing import Any

import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

Weights = dict[str, Any]


def torch_weights(network: nn.Module, device: str = "cpu") -> Weights:
    """The network's weights as torch's, by our parameters' names."""
    import torch

    def moved(value) -> Any:
        array = np.array(value)
        if array.ndim == 5:
            array = np.ascontiguousarray(array.transpose(0, 4, 1, 2, 3))
        return torch.from_numpy(array).to(device)

    return {name: moved(value) for name, value in tree_flatten(network.parameters())}


class TorchBlock:
    """One transformer block of the video stream."""

    def __init__(self, weights: Weights, heads: int, cos, sin):
        """Rotary tables are ``(N, heads, half a head)``."""
        self.weights = weights
        self.heads = heads
        self.cos = cos
        self.sin = sin

    def __call__(self, tokens, context, modulation, prompt_modulation=None):
        """Tokens ``(B, N, D)`` to tokens.

        ``modulation`` is ``(6, D)``, with text modulation ``(9, D)``, and ``prompt_modulation`` then ``(2, D)``.
        """
        import torch.nn.functional as functional

        rows = modulation + self.weights["video.scale_shift_table"]
        x = self.norm(tokens) * (1 + rows[1]) + rows[0]
        tokens = tokens + self.attention(x, x, "video.self_attention", rotary=True) * rows[2]
        x = self.norm(tokens)
        if prompt_modulation is None:
            tokens = tokens + self.attention(x, context, "video.text_attention", rotary=False)
        else:
            shift, scale = prompt_modulation + self.weights["video.prompt_scale_shift_table"]
            x = x * (1 + rows[7]) + rows[6]
            update = self.attention(x, context * (1 + scale) + shift, "video.text_attention", rotary=False)
            tokens = tokens + update * rows[8]
        x = self.norm(tokens) * (1 + rows[4]) + rows[3]
        hidden = functional.gelu(self.linear(x, "video.feed_forward.project_in"), approximate="tanh")
        return tokens + self.linear(hidden, "video.feed_forward.project_out") * rows[5]

    def attention(self, x, context, name: str, rotary: bool):
        """Attention of ``x`` to ``context``."""
        import torch.nn.functional as functional

        queries = self.norm(self.linear(x, f"{name}.to_q"), self.weights[f"{name}.q_norm.weight"])
        keys = self.norm(self.linear(context, f"{name}.to_k"), self.weights[f"{name}.k_norm.weight"])
        if rotary:
            queries = self.rotate(queries)
            keys = self.rotate(keys)
        values = self.split(self.linear(context, f"{name}.to_v"))
        result = functional.scaled_dot_product_attention(self.split(queries), self.split(keys), values)
        result = result.transpose(1, 2)
        if f"{name}.to_gate_logits.weight" in self.weights:
            result = result * (2 * self.linear(x, f"{name}.to_gate_logits").sigmoid())[..., None]
        return self.linear(result.flatten(-2), f"{name}.to_out")

    def linear(self, x, name: str):
        import torch.nn.functional as functional

        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, x, weight=None):
        import torch.nn.functional as functional

        return functional.rms_norm(x, x.shape[-1:], weight, 1e-6)

    def rotate(self, x):
        import torch

        first, second = x.unflatten(-1, (self.heads, -1)).chunk(2, dim=-1)
        rotated = [first * self.cos - second * self.sin, second * self.cos + first * self.sin]
        return torch.cat(rotated, dim=-1).flatten(-2)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
