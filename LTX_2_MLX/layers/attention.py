"""Multi-head attention with normed queries and keys, rotary positions and gated heads."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.layers.rope import RotaryTable, rotate
from LTX_2_MLX.ops.attention import attention
from LTX_2_MLX.ops.collective import TokenShare

KeysValues = tuple[mx.array, mx.array]


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
        keys, values = keys_values or self.keys_values(tokens if context is None else context)
        if bypass is not None and bypass.all():
            attended = values
        else:
            attended = self._attend(tokens, keys, values, mask, rotary, context_rotary, share)
            if bypass is not None and bypass.any():
                attended = mx.where(mx.array(bypass)[:, None, None], values, attended)
        if "to_gate_logits" in self:
            gates = 2 * mx.sigmoid(self.to_gate_logits(tokens))
            attended = (self._split(attended) * gates[..., None]).flatten(-2)
        return self.to_out(attended)

    def keys_values(self, context: mx.array) -> KeysValues:
        """Keys, normed, and values of a context, ``(B, L, heads * head_dim)`` each."""
        return self.k_norm(self.to_k(context)), self.to_v(context)

    def _attend(
        self,
        tokens: mx.array,
        keys: mx.array,
        values: mx.array,
        mask: mx.array | None,
        rotary: RotaryTable | None,
        context_rotary: RotaryTable | None,
        share: TokenShare | None,
    ) -> mx.array:
        queries = self._split(self.q_norm(self.to_q(tokens)))
        keys = self._split(keys)
        if rotary is not None:
            queries = rotate(queries, rotary)
            keys = rotate(keys, context_rotary or rotary)
        values = self._split(values)
        if share is not None:
            keys, values = mx.split(share.gather(mx.concatenate([keys, values], axis=-1)), 2, axis=-1)
        result = attention(
            queries.swapaxes(1, 2),
            keys.swapaxes(1, 2),
            values.swapaxes(1, 2),
            scale=queries.shape[-1] ** -0.5,
            mask=mask,
        )
        return result.swapaxes(1, 2).flatten(-2)

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:-1], self.heads, -1)
