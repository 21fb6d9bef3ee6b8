"""How long denoising takes on machines whose rates were published; None on all others.

Counted are the products of matrices, which are nearly all of the work: on every Mac the transformer is bound by them
and not by reading its weights.
"""

from LTX_2_MLX.models.ltx.transformer import TransformerConfig
from LTX_2_MLX.ops.device import device_name

# Floating-point operations per second of whole passes of LTX-2's transformer in 16 bit, by the name of the chip.
# M1 Max: dmlsrc/LTX-2-MLX, docs/PERFORMANCE.md, 45.5 s at 8784 tokens and 313.5 s at 35136; M5 Max:
# xocialize/ltx-2-mlx-swift, SPEED-PLAN, the median of a machine that is warm.
RATES = {"Apple M1 Max": 6.4e12, "Apple M5 Max": 18.2e12}
_FEED_FORWARD = 4


def denoising_seconds(operations: float, calls: int, device: str | None = None) -> float | None:
    """Seconds of ``calls`` passes of so many operations, where the chip's rate is known."""
    rate = RATES.get(device_name() if device is None else device)
    return None if rate is None else calls * operations / rate


def transformer_operations(config: TransformerConfig, *, tokens: int, audio_tokens: int, text_tokens: int) -> float:
    """Floating-point operations of one pass."""
    video, audio = config.video, config.audio
    block = _stream_operations(video.width, tokens, text_tokens)
    if audio is not None:
        block += _stream_operations(audio.width, audio_tokens, text_tokens)
        # Attention between the two has the width of the audio stream: projections on either side, and the scores.
        block += 2 * (4 * tokens * video.width * audio.width + 4 * audio_tokens * audio.width**2)
        block += 2 * 4 * tokens * audio_tokens * audio.width
    return config.num_layers * float(block)


def _stream_operations(width: int, tokens: int, text_tokens: int) -> float:
    """Of one stream in one block: attention to itself and to the text, feed-forward."""
    projections = 8 * tokens * width**2 + 4 * tokens * width**2 + 4 * text_tokens * width**2
    attention = 4 * tokens**2 * width + 4 * tokens * text_tokens * width
    return projections + attention + 4 * _FEED_FORWARD * tokens * width**2
