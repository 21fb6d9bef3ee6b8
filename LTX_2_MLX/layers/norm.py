"""Normalisation without weights, and the modulation that adaptive layers apply to its result."""

import mlx.core as mx

from LTX_2_MLX.ops.device import fused


def rms_norm(x: mx.array, eps: float = 1e-6) -> mx.array:
    """``x`` over the root mean square of its last axis; accumulates in float32, keeps the dtype."""
    return mx.fast.rms_norm(x, None, eps)


def layer_norm(x: mx.array, eps: float = 1e-6) -> mx.array:
    """``x`` with mean 0 and variance 1 along its last axis; accumulates in float32, keeps the dtype."""
    return mx.fast.layer_norm(x, None, None, eps)


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
