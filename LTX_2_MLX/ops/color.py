"""Give frames the colours of other frames of the same size."""

import mlx.core as mx

# Levels of the wavelet decomposition; the blur of the last reaches 2 ** 5 - 1 pixels each way.
_LEVELS = 5


def wavelet_transfer(frames: mx.array, reference: mx.array) -> mx.array:
    """``frames`` with the coarse colours of ``reference``: its fine detail on the other's low band.

    Args:
        frames: ``(B, T, H, W, C)``, any range.
        reference: The same size and range.

    Returns:
        ``(B, T, H, W, C)``, float32, not clipped.

    Source: Hakaze/wan2gp-flashvsr, src/pipelines/flashvsr_tiny.py at 4f0afc1 (``TorchColorCorrectorWavelet``).
    """
    frames, reference = frames.astype(mx.float32), reference.astype(mx.float32)
    # The blur is linear, so high bands of one plus low band of the other is one blur of the difference.
    return frames + _low_band(reference - frames)


def _low_band(x: mx.array) -> mx.array:
    for level in range(_LEVELS):
        for axis in (2, 3):
            x = _blurred(x, axis, 2**level)
            # One blur's copies at a time.
            mx.eval(x)
    return x


def _blurred(x: mx.array, axis: int, reach: int) -> mx.array:
    """The kernel 1 2 1 over neighbours ``reach`` pixels away, edges repeated."""
    size = x.shape[axis]
    index = mx.arange(size)
    before = mx.take(x, mx.maximum(index - reach, 0), axis=axis)
    after = mx.take(x, mx.minimum(index + reach, size - 1), axis=axis)
    return (before + after) / 4 + x / 2


def adain_transfer(frames: mx.array, reference: mx.array) -> mx.array:
    """``frames`` with the mean and spread of ``reference``, for each frame and channel.

    Args:
        frames: ``(B, T, H, W, C)``, any range.
        reference: The same size and range.

    Returns:
        ``(B, T, H, W, C)``, float32, not clipped.

    Source: as ``wavelet_transfer``.
    """
    mean, spread = _statistics(frames)
    wanted_mean, wanted_spread = _statistics(reference)
    return (frames.astype(mx.float32) - mean) / spread * wanted_spread + wanted_mean


def _statistics(frames: mx.array) -> tuple[mx.array, mx.array]:
    """Mean and standard deviation over each frame's pixels, ``(B, T, 1, 1, C)``."""
    batch, time, height, width, channels = frames.shape
    # Reductions over an inner axis, and variances in one pass, lose digits on large frames.
    pixels = mx.contiguous(frames.astype(mx.float32).reshape(batch, time, height * width, channels).swapaxes(2, 3))
    mean = pixels.mean(axis=-1, keepdims=True)
    spread = mx.sqrt(((pixels - mean) ** 2).mean(axis=-1, keepdims=True) + 1e-5)
    shape = (batch, time, 1, 1, channels)
    return mean.reshape(shape), spread.reshape(shape)
