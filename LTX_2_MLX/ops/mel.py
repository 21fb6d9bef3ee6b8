"""Waveform to log-mel spectrogram: windowed-sinc resampling, short-time Fourier transform, slaney mel filters.

In NumPy and float64, because the logarithm magnifies rounding where the sound is quiet.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/audio_vae/ops.py at 400fd31, which uses torchaudio's
``resample`` and ``MelSpectrogram`` (golden cases ``ltx2/audio_frontend``).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from LTX_2_MLX.errors import RequestError

# Half width of the sinc in zero crossings, and its cutoff over the lower Nyquist frequency.
_SINC_WIDTH = 6
_ROLLOFF = 0.99
# The slaney scale is linear up to 1 kHz, then logarithmic.
_LINEAR_HZ_PER_MEL = 200 / 3
_LINEAR_END_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27
_FLOOR = 1e-5
# Spectra, and windows of a resampler, that are computed at once: seconds of sound, whatever its length.
_BLOCK_FRAMES = 500
_BLOCK_WINDOWS = 2000


@dataclass(frozen=True)
class MelSettings:
    """Sizes of a mel spectrogram. The defaults are those of the published audio VAE."""

    sample_rate: int = 16000
    fft_length: int = 1024
    hop_length: int = 160
    num_bins: int = 64
    min_hz: float = 0.0
    max_hz: float = 8000.0


def log_mel(waveform: np.ndarray, sample_rate: int, settings: MelSettings) -> np.ndarray:
    """Log-mel spectrogram of a waveform.

    Args:
        waveform: ``(B, S, C)`` in [-1, 1].
        sample_rate: Samples per second; other rates than the settings' are resampled first.
        settings: Sizes of the spectrogram.

    Returns:
        ``(B, 1 + S // hop_length, num_bins, C)`` float32, natural logarithm.

    Raises:
        RequestError: If the sound is shorter than half a Fourier window.
    """
    samples = np.moveaxis(resample(waveform, sample_rate, settings.sample_rate), 1, -1)
    half = settings.fft_length // 2
    if samples.shape[-1] <= half:
        raise RequestError(
            f"The sound has {samples.shape[-1]} samples at {settings.sample_rate} Hz; expected more than {half}."
        )
    padded = np.pad(samples, [(0, 0), (0, 0), (half, half)], mode="reflect")
    frames = sliding_window_view(padded, settings.fft_length, axis=-1)[:, :, :: settings.hop_length]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(settings.fft_length) / settings.fft_length)
    blocks = []
    for start in range(0, frames.shape[2], _BLOCK_FRAMES):
        magnitude = np.abs(np.fft.rfft(frames[:, :, start : start + _BLOCK_FRAMES] * window))
        blocks.append(np.log(np.maximum(magnitude @ mel_filters(settings), _FLOOR)).astype(np.float32))
    return np.ascontiguousarray(np.moveaxis(np.concatenate(blocks, axis=2), 1, -1))


def resample(waveform: np.ndarray, sample_rate: int, target_rate: int) -> np.ndarray:
    """Resample ``(B, S, C)`` along axis 1 by a windowed sinc, to ``ceil(S * target_rate / sample_rate)`` samples."""
    if sample_rate == target_rate:
        return waveform
    divisor = math.gcd(sample_rate, target_rate)
    stride = sample_rate // divisor
    phases = target_rate // divisor
    kernels = _sinc_kernels(stride, phases)
    width = (kernels.shape[1] - stride) // 2
    padded = np.pad(waveform.astype(np.float64), [(0, 0), (width, width + stride), (0, 0)])
    # (B, frames, C, taps) by the kernel of each phase; phases are consecutive samples of the output.
    windows = sliding_window_view(padded, kernels.shape[1], axis=1)[:, ::stride]
    batch, _, channels = waveform.shape
    blocks = []
    for start in range(0, windows.shape[1], _BLOCK_WINDOWS):
        interleaved = np.moveaxis(windows[:, start : start + _BLOCK_WINDOWS] @ kernels.T, -1, 2)
        blocks.append(interleaved.reshape(batch, -1, channels).astype(np.float32))
    length = math.ceil(waveform.shape[1] * phases / stride)
    return np.concatenate(blocks, axis=1)[:, :length]


@lru_cache(maxsize=8)
def _sinc_kernels(stride: int, phases: int) -> np.ndarray:
    """Kernels ``(phases, taps)`` of a resampler by ``phases / stride``."""
    cutoff = min(stride, phases) * _ROLLOFF
    width = math.ceil(_SINC_WIDTH * stride / cutoff)
    taps = np.arange(-width, width + stride) / stride
    offsets = np.arange(phases) / phases
    t = np.clip((taps[None] - offsets[:, None]) * cutoff, -_SINC_WIDTH, _SINC_WIDTH)
    window = np.cos(np.pi * t / (2 * _SINC_WIDTH)) ** 2
    return np.asarray(np.sinc(t) * window * (cutoff / stride))


@lru_cache(maxsize=8)
def mel_filters(settings: MelSettings) -> np.ndarray:
    """Triangular filters ``(fft_length // 2 + 1, num_bins)`` on the slaney scale, each normalised to unit area."""
    edges = np.linspace(_hz_to_mel(settings.min_hz), _hz_to_mel(settings.max_hz), settings.num_bins + 2)
    edges_hz = _mel_to_hz(edges)
    frequencies = np.linspace(0, settings.sample_rate / 2, settings.fft_length // 2 + 1)
    distance = edges_hz[None] - frequencies[:, None]
    width = np.diff(edges_hz)
    falling = distance[:, 2:] / width[1:]
    rising = -distance[:, :-2] / width[:-1]
    triangles = np.maximum(np.minimum(rising, falling), 0)
    return np.asarray(triangles * (2 / (edges_hz[2:] - edges_hz[:-2])))


def _hz_to_mel(hz: float) -> float:
    if hz < _LINEAR_END_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return _LINEAR_END_HZ / _LINEAR_HZ_PER_MEL + math.log(hz / _LINEAR_END_HZ) / _LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    linear_end = _LINEAR_END_HZ / _LINEAR_HZ_PER_MEL
    logarithmic = _LINEAR_END_HZ * np.exp(_LOG_STEP * (mel - linear_end))
    return np.where(mel < linear_end, mel * _LINEAR_HZ_PER_MEL, logarithmic)
