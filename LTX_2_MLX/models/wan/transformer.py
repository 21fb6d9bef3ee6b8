"""The Wan video transformer: tokens and context to tokens.

The way self-attention looks at the tokens is the caller's: it comes in as a function. Everything else acts on each
token alone, so tokens may stand in any order as long as the caller's function knows it.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.ops.activation import gelu_tanh, silu

# Width of an attention head in every published model of the family; the tensors do not tell it.
_HEAD_DIM = 128
_ROTARY_BASE = 10000.0
# Fields of published configs that sizes do not tell, with the one value that this network computes, or None for those
# that say nothing of it.
_KNOWN = {
    "_class_name": None,
    "_diffusers_version": None,
    "model_type": "t2v",
    "has_image_input": False,
    "qk_norm": True,
    "cross_attn_norm": True,
    "window_size": [-1, -1],
    "text_len": None,
}

# Normed queries, keys and values ``(N, dim)`` to attended values ``(N, dim)``.
Attend = Callable[[mx.array, mx.array, mx.array], mx.array]
KeysValues = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class WanTransformerConfig:
    """Sizes of the transformer, by their published names."""

    dim: int
    in_dim: int
    ffn_dim: int
    out_dim: int
    text_dim: int
    freq_dim: int
    num_heads: int
    num_layers: int
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.dim // self.num_heads

    @classmethod
    def from_header(cls, header: Header) -> "WanTransformerConfig | None":
        """Sizes from the shapes; number of heads and norm epsilon from the metadata where it has them."""
        shapes = {name: info.shape for name, info in header.tensors.items()}
        patch, head = shapes.get("patch_embedding.weight", ()), shapes.get("head.head.weight", ())
        ffn, text = shapes.get("blocks.0.ffn.0.weight", ()), shapes.get("text_embedding.0.weight", ())
        time = shapes.get("time_embedding.0.weight", ())
        if len(patch) != 5 or any(len(shape) != 2 for shape in (head, ffn, text, time)):
            return None
        if not all((*patch, *head)):
            raise CheckpointError("A tensor of this Wan transformer has no values. The file is damaged.")
        sizes: dict[str, Any] = {
            "dim": patch[0],
            "in_dim": patch[1],
            "ffn_dim": ffn[0],
            "out_dim": head[0] // math.prod(patch[2:]),
            "text_dim": text[1],
            "freq_dim": time[1],
            "num_layers": sum(bool(re.fullmatch(r"blocks\.\d+\.modulation", name)) for name in shapes),
            "patch_size": tuple(patch[2:]),
        }
        said = dict(header.config)
        heads, eps = said.pop("num_heads", patch[0] // _HEAD_DIM), said.pop("eps", cls.eps)
        expected = sizes | {"patch_size": list(patch[2:])} | _KNOWN
        for name, value in said.items():
            if (found := expected.get(name, "nothing")) not in (None, value):
                raise CheckpointError(
                    f"The config of this Wan transformer says {name} = {value!r}, expected {found!r}. "
                    f"The file is of another network or damaged."
                )
        if type(heads) is not int or heads < 1 or patch[0] % heads:
            raise CheckpointError(f"A Wan transformer of width {patch[0]} cannot have {heads!r} heads of equal width.")
        if type(eps) not in (int, float) or not 0 <= eps < 1:
            raise CheckpointError(f"The config of this Wan transformer says eps = {eps!r}, expected a small number.")
        return cls(**sizes, num_heads=heads, eps=eps)


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int, activation: Callable[[mx.array], mx.array]):
        super().__init__()
        self.linear_in = nn.Linear(dim, hidden_dim)
        self.linear_out = nn.Linear(hidden_dim, out_dim)
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_out(self.activation(self.linear_in(x)))


class Attention(nn.Module):
    """Projections around an attention; queries and keys are normed over all heads together."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps)
        self.norm_k = nn.RMSNorm(dim, eps)

    def queries(self, x: mx.array) -> mx.array:
        return self.norm_q(self.q(x))

    def keys_values(self, x: mx.array) -> KeysValues:
        return self.norm_k(self.k(x)), self.v(x)


class WanBlock(nn.Module):
    """Self-attention, cross-attention to the context, feed-forward; tokens ``(N, dim)`` to the same.

    ``timestep_modulation`` is ``(6, dim)``: shift, scale and gate of the self-attention, then of the feed-forward.
    """

    def __init__(self, config: WanTransformerConfig):
        super().__init__()
        self.config = config
        self.modulation = mx.zeros((1, 6, config.dim))
        self.self_attn = Attention(config.dim, config.eps)
        self.norm3 = nn.LayerNorm(config.dim, config.eps)
        self.cross_attn = Attention(config.dim, config.eps)
        self.ffn = Mlp(config.dim, config.ffn_dim, config.dim, gelu_tanh)

    def __call__(self, x: mx.array, timestep_modulation: mx.array, context: KeysValues, attend: Attend) -> mx.array:
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self.modulation[0] + timestep_modulation
        y = _modulated(x, shift, scale, self.config.eps)
        y = attend(self.self_attn.queries(y), *self.self_attn.keys_values(y))
        x = x + gate * self.self_attn.o(y)
        x = x + self._look_at(context, self.norm3(x))
        return x + ffn_gate * self.ffn(_modulated(x, ffn_shift, ffn_scale, self.config.eps))

    def _look_at(self, context: KeysValues, x: mx.array) -> mx.array:
        heads = self.config.num_heads
        queries, keys, values = (split_heads(part, heads) for part in (self.cross_attn.queries(x), *context))
        scale = self.config.head_dim**-0.5
        return self.cross_attn.o(
            join_heads(mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale)[0])
        )


def _modulated(x: mx.array, shift: mx.array, scale: mx.array, eps: float) -> mx.array:
    return mx.fast.layer_norm(x, None, None, eps) * (1 + scale) + shift


def split_heads(x: mx.array, heads: int) -> mx.array:
    """``(N, heads * d)`` to ``(1, heads, N, d)``."""
    return x.reshape(1, x.shape[0], heads, -1).swapaxes(1, 2)


def join_heads(x: mx.array) -> mx.array:
    """``(heads, N, d)`` to ``(N, heads * d)``."""
    return x.swapaxes(0, 1).flatten(1)


class Head(nn.Module):
    """Tokens to patches of the latent."""

    def __init__(self, config: WanTransformerConfig):
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, config.out_dim * math.prod(config.patch_size))
        self.modulation = mx.zeros((1, 2, config.dim))

    def __call__(self, x: mx.array, time: mx.array) -> mx.array:
        shift, scale = self.modulation[0] + time
        return self.head(_modulated(x, shift, scale, self.eps))


class WanTransformer(nn.Module):
    """The Wan 2.1 text-to-video transformer in parts, for the caller to string together.

    Source: Hakaze/wan2gp-flashvsr, src/models/wan_video_dit.py at 4f0afc1.
    """

    Config = WanTransformerConfig

    def __init__(self, config: WanTransformerConfig):
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv3d(config.in_dim, config.dim, config.patch_size, stride=config.patch_size)
        self.text_embedding = Mlp(config.text_dim, config.dim, config.dim, gelu_tanh)
        self.time_embedding = Mlp(config.freq_dim, config.dim, config.dim, silu)
        self.time_projection = nn.Linear(config.dim, 6 * config.dim)
        self.blocks = [WanBlock(config) for _ in range(config.num_layers)]
        self.head = Head(config)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter of a published name."""
        name = re.sub(r"\b(text_embedding|time_embedding|ffn)\.0\.", r"\1.linear_in.", published)
        name = re.sub(r"\b(text_embedding|time_embedding|ffn)\.2\.", r"\1.linear_out.", name)
        return re.sub(r"\btime_projection\.1\.", "time_projection.", name)

    @property
    def dtype(self) -> mx.Dtype:
        """Dtype of the weights, in which tokens travel."""
        return self.patch_embedding.weight.dtype

    def embed_time(self, timestep: float) -> tuple[mx.array, mx.array]:
        """The head's modulation ``(1, dim)`` and the blocks' ``(6, dim)`` at a timestep (1000 is pure noise)."""
        half = self.config.freq_dim // 2
        angles = timestep * np.power(_ROTARY_BASE, -np.arange(half) / half)
        waves = mx.array(np.concatenate([np.cos(angles), np.sin(angles)])[None].astype(np.float32))
        time = self.time_embedding(waves.astype(self.dtype))
        return time, self.time_projection(silu(time)).reshape(6, self.config.dim)

    def embed_context(self, prompt: mx.array) -> list[KeysValues]:
        """Every block's keys and values of a prompt ``(L, text_dim)``; all its tokens count, padding too."""
        context = self.text_embedding(prompt.astype(self.dtype))
        return [block.cross_attn.keys_values(context) for block in self.blocks]

    def embed_latent(self, latent: mx.array) -> mx.array:
        """``(1, T, H, W, C)`` to tokens ``(T, H / 2, W / 2, dim)``."""
        return self.patch_embedding(latent.astype(self.dtype))[0]

    def unembed(self, tokens: mx.array, time: mx.array) -> mx.array:
        """Tokens ``(T, h, w, dim)`` to ``(1, T, H, W, C)``; ``time`` is the head's modulation."""
        frames, rows, columns = tokens.shape[:3]
        t, h, w = self.config.patch_size
        x = self.head(tokens, time).reshape(frames, rows, columns, t, h, w, -1).transpose(0, 3, 1, 4, 2, 5, 6)
        return x.reshape(1, frames * t, rows * h, columns * w, -1)


def rotary_tables(head_dim: int, positions: np.ndarray) -> tuple[mx.array, mx.array]:
    """Cosines and sines ``(N, head_dim / 2)``, float32, of positions ``(N, 3)`` (frame, row, column).

    A third of the head for rows, a third for columns, the rest for frames, each with its own exponent base.

    Raises:
        CheckpointError: If the head cannot be shared out in pairs.
    """
    third = head_dim // 3
    parts = (head_dim - 2 * third, third, third)
    if any(part % 2 for part in parts):
        raise CheckpointError(f"A head of {head_dim} features cannot be dealt to frames, rows and columns in pairs.")
    # float64 as in the reference: float32 angles of late frames are off by more than the tolerance.
    angles = [
        positions[:, axis, None] * np.power(_ROTARY_BASE, -np.arange(0, part, 2, dtype=np.float64) / part)
        for axis, part in enumerate(parts)
    ]
    angle = np.concatenate(angles, axis=1)
    return mx.array(np.cos(angle).astype(np.float32)), mx.array(np.sin(angle).astype(np.float32))


def rotate(x: mx.array, tables: tuple[mx.array, mx.array]) -> mx.array:
    """Turn neighbouring pairs of features ``(..., N, head_dim)`` by the tables' angles, in float32."""
    cos, sin = tables
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = mx.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
