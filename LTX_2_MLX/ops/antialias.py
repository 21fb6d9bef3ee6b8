"""Doubling and halving of a signal's sampling rate by a low-pass filter of twelve taps.

Every channel is filtered by itself. The doubling is in polyphase form: one filter of six taps for the even output
samples and one for the odd ones.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/audio_vae/vocoder.py at 400fd31 (``UpSample1d`` and
``DownSample1d``).
"""

import mlx.core as mx

from LTX_2_MLX.ops.conv import pad_edge

_TAPS = 12


def upsample_2x(x: mx.array, taps: mx.array) -> mx.array:
    """``(B, S, C)`` to ``(B, 2 * S, C)`` by a filter ``(12,)``; edge samples are repeated."""
    length = x.shape[1]
    padded = pad_edge(x, 1, before=3, after=3)
    even = mx.zeros((), dtype=x.dtype)
    odd = mx.zeros((), dtype=x.dtype)
    for tap in range(_TAPS // 2):
        even = even + taps[2 * tap + 1] * padded[:, 5 - tap : 5 - tap + length]
        odd = odd + taps[2 * tap] * padded[:, 6 - tap : 6 - tap + length]
    # Every second sample of the input of the low-pass is zero, so its gain is two.
    return 2 * mx.stack([even, odd], axis=2).reshape(x.shape[0], 2 * length, -1)


def downsample_2x(x: mx.array, taps: mx.array) -> mx.array:
    """``(B, 2 * S, C)`` to ``(B, S, C)`` by a filter ``(12,)``; edge samples are repeated."""
    padded = pad_edge(x, 1, before=5, after=6)
    total = mx.zeros((), dtype=x.dtype)
    for tap in range(_TAPS):
        total = total + taps[tap] * padded[:, tap : tap + x.shape[1] : 2]
    return total
