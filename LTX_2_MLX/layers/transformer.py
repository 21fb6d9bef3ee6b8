"""Layers of LTX-2's transformers: modulation, feed-forward, timestep and rotary embeddings, attention.

Angles of the rotary embedding reach 15,708, so the rounding of float32 is part of the function: every product is formed
in float32 in the reference's order, cosines and sines are taken by NumPy, and only the result is cast.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.ops.activation import gelu_tanh, silu
from LTX_2_MLX.ops.attention import attention
from LTX_2_MLX.ops.collective import TokenShare
from LTX_2_MLX.ops.device import eval_if_large, fused, in_token_runs

SINUSOID_WIDTH = 256
_MAX_PERIOD = 10000
Pairing = Literal["split", "interleaved"]
Precision = Literal["float32", "float64"]
PAIRINGS: tuple[Pairing, ...] = ("split", "interleaved")
PRECISIONS: tuple[Precision, ...] = ("float64", "float32")
# One table for each stage of a two-stage run. A table takes the memory of a few activations.
_CACHED_TABLES = 2
KeysValues = tuple[mx.array, mx.array]


@fused
def modulate(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    """``x * (1 + scale) + shift``, rounded once; scale and shift ``(B, 1 or N, D)``."""
    modulated = x.astype(mx.float32) * (1 + scale.astype(mx.float32)) + shift.astype(mx.float32)
    return modulated.astype(x.dtype)


@fused
def gated_add(x: mx.array, update: mx.array, gate: mx.array) -> mx.array:
    """``x + update * gate``, rounded once; gate ``(B, 1 or N, D)``."""
    added = x.astype(mx.float32) + update.astype(mx.float32) * gate.astype(mx.float32)
    return added.astype(x.dtype)


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
        return in_token_runs([self.project_in, gelu_tanh, self.project_out], x)


def sinusoid(timesteps: mx.array, width: int = SINUSOID_WIDTH) -> mx.array:
    """Cosines, then sines, of ``(K,)`` timesteps at ``width / 2`` frequencies: ``(K, width)``, float32."""
    # Products are formed in float32 in this order: a timestep of 1000 makes the rounding visible.
    exponents = np.float32(-math.log(_MAX_PERIOD)) * np.arange(width // 2, dtype=np.float32) / np.float32(width // 2)
    angles = timesteps.astype(mx.float32)[:, None] * mx.array(np.exp(exponents))[None]
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


@dataclass(frozen=True)
class ModulationRows:
    """Shifts, scales and gates of the distinct timesteps, and the index of each token's timestep.

    A text-to-video call has one timestep for all tokens, image-to-video two or three. Rows and an index give the
    same numbers as rows for every token, without the ``(B, N, rows * D)`` array.

    Attributes:
        values: ``(K, rows, D)`` for K distinct timesteps.
        index: ``(B, N)`` into the K timesteps, or ``(B, 1)`` where all tokens of a sample share one.
    """

    values: mx.array
    index: mx.array

    def rows(self, *numbers: int, table: mx.array | None = None) -> list[mx.array]:
        """Rows by their numbers, each for every token: ``(B, N or 1, D)``.

        A block's ``table`` ``(rows, D)`` is added, in the rows' dtype.
        """
        values = self.values if table is None else self.values + table.astype(self.values.dtype)
        rows = []
        for number in numbers:
            rows.append(values[:, number][self.index])
        return rows


class TimestepModulation(nn.Module):
    """Timesteps to modulation rows. The reference's ``AdaLayerNormSingle``.

    Shape:
        timesteps ``(K,)`` float32 -> rows ``(K, rows, width)`` and the timestep embedding ``(K, width)``.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/transformer/{adaln,timestep_embedding}.py
    at 400fd31.
    """

    def __init__(self, width: int, rows: int):
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_WIDTH, width)
        self.linear_2 = nn.Linear(width, width)
        self.linear = nn.Linear(width, rows * width)

    def __call__(self, timesteps: mx.array) -> tuple[mx.array, mx.array]:
        dtype = self.linear_1.weight.dtype
        embedded = self.linear_2(silu(self.linear_1(sinusoid(timesteps).astype(dtype))))
        rows = self.linear(silu(embedded))
        return rows.reshape(len(timesteps), -1, embedded.shape[-1]), embedded


def distinct_timesteps(timesteps: mx.array) -> tuple[mx.array, mx.array]:
    """The distinct values of timesteps ``(B, N, 1)``, and the index of each token's value.

    Returns:
        values ``(K,)`` float32 and index ``(B, N)``, or ``(B, 1)`` if every sample has a single timestep.
    """
    host = np.asarray(timesteps.astype(mx.float32)).reshape(timesteps.shape[:2])
    values, index = np.unique(host, return_inverse=True)
    index = index.reshape(host.shape)
    if (index == index[:, :1]).all():
        index = index[:, :1]
    return mx.array(values), mx.array(index.astype(np.int32))


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines for every token and head.

    Attributes:
        cos, sin: ``(B, N, heads, head_dim / 2)``, B = 1 where all samples have the same positions. Each head
            has its own slice of the frequencies: the first heads rotate slowly, the last ones fast.
        pairing: Elements of a head that rotate together: i and i + head_dim / 2 (``split``), or 2i and 2i + 1
            (``interleaved``).
    """

    cos: mx.array
    sin: mx.array
    pairing: Pairing


def rotate(x: mx.array, table: RotaryTable) -> mx.array:
    """Rotate ``(B, N, heads, head_dim)`` by the table's angles."""
    if table.pairing == "interleaved":
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        first = pairs[..., 0]
        second = pairs[..., 1]
    else:
        first, second = mx.split(x, 2, axis=-1)
    # In 16 bit the second product and the sum are rounded once, as the reference does.
    rotated = [
        gated_add(first * table.cos, second, -table.sin),
        gated_add(second * table.cos, first, table.sin),
    ]
    if table.pairing == "interleaved":
        return mx.stack(rotated, axis=-1).reshape(x.shape)
    return mx.concatenate(rotated, axis=-1)


@lru_cache(maxsize=16)
def frequency_ladder(width: int, axes: int, theta: float = 10000.0, precision: Precision = "float64") -> np.ndarray:
    """``width // (2 * axes)`` frequencies from pi / 2 to theta * pi / 2, evenly spaced in logarithm; float32.

    Args:
        width: Features of all heads together.
        axes: Number of coordinates of a position.
        theta: Ratio of the last frequency to the first.
        precision: float64 rounds once at the end, float32 at every step.
    """
    count = width // (2 * axes)
    if precision == "float64":
        return (np.power(theta, np.linspace(0.0, 1.0, count)) * np.pi / 2).astype(np.float32)
    # As torch.linspace does: from both ends in float32, the far half with one rounding for each value.
    step = np.float32(1) / np.float32(max(count - 1, 1))
    order = np.arange(count)
    near = order.astype(np.float32) * step
    far = (1 - (count - 1 - order) * np.float64(step)).astype(np.float32)
    exponents = np.where(order < max(count // 2, 1), near, far).astype(np.float64)
    frequencies = np.power(float(theta), exponents).astype(np.float32)
    return np.asarray(frequencies * np.float32(np.pi) / np.float32(2))


@dataclass(kw_only=True)
class RotaryEmbedding:
    """Rotary tables of one attention. The last two are cached: positions stay the same from step to step.

    Attributes:
        width: Features of all heads together.
        heads: Number of heads.
        max_positions: Positions are divided by these, one entry for each axis.
        theta: Ratio of the last frequency to the first.
        precision: Of the frequencies, see ``frequency_ladder``.
        pairing: Pairing of the tables.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/transformer/rope.py at 400fd31.
    """

    width: int
    heads: int
    max_positions: Sequence[float]
    theta: float = 10000.0
    precision: Precision = "float64"
    pairing: Pairing = "split"
    _tables: OrderedDict[tuple[bytes, tuple[int, ...], mx.Dtype], RotaryTable] = field(default_factory=OrderedDict)

    def __call__(self, positions: mx.array | np.ndarray, dtype: mx.Dtype) -> RotaryTable:
        """The table of these positions, see ``table``."""
        host = np.ascontiguousarray(np.asarray(positions, dtype=np.float32))
        if (host == host[:1]).all():
            host = host[:1]
        key = (hashlib.sha256(host.tobytes()).digest(), host.shape, dtype)
        if key not in self._tables:
            self._tables[key] = self.table(host, dtype)
        self._tables.move_to_end(key)
        while len(self._tables) > _CACHED_TABLES:
            self._tables.popitem(last=False)
        return self._tables[key]

    def table(self, positions: mx.array | np.ndarray, dtype: mx.Dtype = mx.float32) -> RotaryTable:
        """Cosines and sines of a set of positions.

        Args:
            positions: ``(B, axes, N, 2)`` float32 bounds ``[start, end)``, whose middle counts, or ``(B, axes, N)``.
            dtype: Dtype of the table.
        """
        middle = np.asarray(positions, dtype=np.float32)
        if middle.ndim == 4:
            middle = (middle[..., 0] + middle[..., 1]) / np.float32(2)
        batch, axes, tokens = middle.shape
        ladder = frequency_ladder(self.width, axes, self.theta, self.precision)
        # Elements that the axes do not fill come first and are not rotated.
        fill = mx.zeros((batch, tokens, self.width // 2 - axes * len(ladder)), dtype)
        cosines, sines = [], []
        for axis in range(axes):
            # A video's tokens share few coordinates along one axis, so each distinct one is computed once and gathered.
            values, inverse = np.unique(middle[:, axis], return_inverse=True)
            index = mx.array(inverse.reshape(batch, tokens).astype(np.int32))
            fractions = values / np.float32(self.max_positions[axis]) * 2 - 1
            angles = (ladder * fractions[:, None]).astype(np.float64)
            cosines.append(mx.array(np.cos(angles).astype(np.float32)).astype(dtype)[index])
            sines.append(mx.array(np.sin(angles).astype(np.float32)).astype(dtype)[index])
        tables = []
        for unrotated, columns in ((fill + 1, cosines), (fill, sines)):
            interleaved = mx.stack(columns, axis=-1).flatten(-2)
            tables.append(mx.concatenate([unrotated, interleaved], axis=-1).reshape(batch, tokens, self.heads, -1))
        return RotaryTable(cos=tables[0], sin=tables[1], pairing=self.pairing)


class Attention(nn.Module):
    """Tokens attend to a context, or to themselves.

    Queries and keys are normed over all heads together before they are split. With ``gated``, each head's
    result is multiplied by ``2 * sigmoid(logit)`` of the query token.

    Shape:
        tokens ``(B, N, query_width)``, context ``(B, L, context_width)`` -> ``(B, N, query_width)``.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/transformer/{attention,ops}.py at 400fd31.
    """

    def __init__(
        self,
        query_width: int,
        *,
        heads: int,
        head_dim: int,
        context_width: int | None = None,
        norm_eps: float = 1e-6,
        gated: bool = False,
    ):
        super().__init__()
        context_width = context_width or query_width
        width = heads * head_dim
        self.heads = heads
        self.to_q = nn.Linear(query_width, width)
        self.to_k = nn.Linear(context_width, width)
        self.to_v = nn.Linear(context_width, width)
        self.q_norm = nn.RMSNorm(width, eps=norm_eps)
        self.k_norm = nn.RMSNorm(width, eps=norm_eps)
        if gated:
            self.to_gate_logits = nn.Linear(query_width, heads)
        self.to_out = nn.Linear(width, query_width)

    def __call__(
        self,
        tokens: mx.array,
        context: mx.array | None = None,
        *,
        mask: mx.array | None = None,
        rotary: RotaryTable | None = None,
        context_rotary: RotaryTable | None = None,
        bypass: np.ndarray | None = None,
        keys_values: KeysValues | None = None,
        share: TokenShare | None = None,
    ) -> mx.array:
        """Attend.

        Args:
            tokens: ``(B, N, query_width)``.
            context: ``(B, L, context_width)``; None means the tokens themselves.
            mask: ``(B, 1, N or 1, L)``, boolean (True attends) or added to the logits.
            rotary: Rotary table of the tokens; None leaves queries and keys as they are.
            context_rotary: Rotary table of the context; the tokens' own unless given.
            bypass: ``(B,)`` boolean; these samples get their values in place of the attention's result
                (self-attention only). Gate and output projection still apply.
            keys_values: Those of the context, where it was attended to before.
            share: The context is a share of the tokens that are attended to; other processes have the rest.
        """
        keys, own_values = keys_values or self.keys_values(tokens if context is None else context)
        if bypass is not None and bypass.all():
            attended = own_values
        else:
            keys = self._heads(keys, context_rotary or rotary)
            queries = self._heads(eval_if_large(self.q_norm(self.to_q(tokens)), on_gpu=False), rotary)
            values = self._heads(own_values)
            if share is not None:
                keys, values = mx.split(share.gather(mx.concatenate([keys, values], axis=-1)), 2, axis=-1)
            by_head = [queries.swapaxes(1, 2), keys.swapaxes(1, 2), values.swapaxes(1, 2)]
            attended = attention(*by_head, scale=queries.shape[-1] ** -0.5, mask=mask).swapaxes(1, 2).flatten(-2)
            if bypass is not None and bypass.any():
                attended = mx.where(mx.array(bypass)[:, None, None], own_values, attended)
        if "to_gate_logits" in self:
            gates = 2 * mx.sigmoid(self.to_gate_logits(tokens))
            attended = eval_if_large((self._heads(attended) * gates[..., None]).flatten(-2), on_gpu=False)
        return eval_if_large(self.to_out(attended), on_gpu=False)

    def keys_values(self, context: mx.array) -> KeysValues:
        """Keys, normed, and values of a context, ``(B, L, heads * head_dim)`` each."""
        keys = eval_if_large(self.k_norm(self.to_k(context)), on_gpu=False)
        return keys, eval_if_large(self.to_v(context), on_gpu=False)

    def _heads(self, x: mx.array, rotary: RotaryTable | None = None) -> mx.array:
        """``x`` by heads, ``(B, N, heads, head_dim)``; queries and keys are rotated to their positions."""
        heads = x.reshape(*x.shape[:-1], self.heads, -1)
        return heads if rotary is None else eval_if_large(rotate(heads, rotary), on_gpu=False)
