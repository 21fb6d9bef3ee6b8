"""Axis order of golden cases: the references keep channels on axis 1, this library at the end."""

from typing import Any

import mlx.core as mx
import numpy as np


def channels_last(array: np.ndarray) -> mx.array:
    """``(B, C, ...)`` as stored to ``(B, ..., C)``, float32."""
    return mx.array(np.moveaxis(array, 1, -1).astype(np.float32))


def channels_first(array: mx.array) -> np.ndarray:
    """``(B, ..., C)`` to the references' ``(B, C, ...)``, float32."""
    return np.moveaxis(np.array(array.astype(mx.float32)), -1, 1)


def readable(value: Any) -> np.ndarray:
    """An output as NumPy reads it: arrays of MLX in bfloat16 become float32, which NumPy has."""
    if isinstance(value, mx.array) and value.dtype == mx.bfloat16:
        value = value.astype(mx.float32)
    return np.array(value)


def signed_frames(levels: np.ndarray) -> mx.array:
    """uint8 ``(B, 3, T, H, W)`` as stored to pixels in [-1, 1], channels last."""
    return channels_last(levels) / 127.5 - 1
