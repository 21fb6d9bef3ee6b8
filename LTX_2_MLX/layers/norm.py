"""Normalisation without weights, and what adaptive layers do with its result."""

from collections.abc import Callable

import mlx.core as mx


def rms_norm(x: mx.array, eps: float = 1e-6) -> mx.array:
    """``x`` over the root mean square of its last axis; accumulates in float32, keeps the dtype."""
    return mx.fast.rms_norm(x, None, eps)


def layer_norm(x: mx.array, eps: float = 1e-6) -> mx.array:
    """``x`` with mean 0 and variance 1 along its last axis; accumulates in float32, keeps the dtype."""
    return mx.fast.layer_norm(x, None, None, eps)


def fused(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """One kernel instead of two or three. On the CPU MLX would start a C++ compiler first, so there it is none."""
    return mx.compile(function) if mx.default_device() == mx.Device(mx.gpu) else function


@fused
def modulate(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    """``x * (1 + scale) + shift``; scale and shift ``(B, 1 or N, D)``."""
    return x * (1 + scale) + shift


@fused
def gated_add(x: mx.array, update: mx.array, gate: mx.array) -> mx.array:
    """``x + update * gate``; gate ``(B, 1 or N, D)``."""
    return x + update * gate
