"""Decodes 8-bit floats."""

import mlx.core as mx
import numpy as np


def _e4m3_values() -> np.ndarray:
    """All 256 values of E4M3 without infinities: sign, 4 bits of exponent (bias 7), 3 of mantissa; S1111111 is NaN."""
    code = np.arange(256)
    exponent = code >> 3 & 15
    mantissa = code & 7
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    magnitude[code & 127 == 127] = np.nan
    return np.where(code < 128, magnitude, -magnitude).astype(np.float32)


_E4M3 = _e4m3_values()


def decode_e4m3(codes: mx.array, scale: mx.array | None = None) -> mx.array:
    """Float32 values of ``codes``, uint8 of any shape, times ``scale`` (one number).

    Source: the format is FN of Micikevicius et al., "FP8 Formats for Deep Learning", as PyTorch's float8_e4m3fn.
    """
    values = mx.array(_E4M3)[codes]
    return values if scale is None else values * scale.astype(mx.float32).reshape(())
