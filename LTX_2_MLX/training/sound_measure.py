"""Content of a sound, read off its samples by plain signal processing: times of its knocks, height of its hum.

Knows the world's table of sounds and nothing of the networks, so it judges their sounds as it judges the world's own.
"""

from dataclasses import dataclass

import numpy as np

# Only knocks reach up here; the smallest thing hums below.
_KNOCK_BAND = (2200.0, 5000.0)
_HUM_BAND = (150.0, 2200.0)
_WINDOW_SECONDS, _HOP_SECONDS = 0.02, 0.005
# A knock is this loud, in dB of full scale, and this far above the sound around it.
_LEAST_DBFS, _LEAST_RISE = -50.0, 10.0
# It begins where its level has come this near to its highest, and no other begins while it lasts.
_BEGIN_DB = 6.0
_APART_SECONDS = 0.1
# The hum begins and ends at once, which splatters over all frequencies.
_EDGE_SECONDS = 0.08


@dataclass(frozen=True)
class Sounds:
    """Content of one sound.

    Attributes:
        knocks: Seconds at which a knock begins.
        hum_hz: Mean frequency of the hum in consecutive windows of 20 ms, every 5 ms; 0 where there is none.
    """

    knocks: tuple[float, ...]
    hum_hz: np.ndarray


def listen(samples: np.ndarray, sample_rate: int) -> Sounds:
    """Judge a sound ``(S, channels)`` in [-1, 1]."""
    power, frequencies = _spectra(samples.mean(1), sample_rate)
    edge = round(_EDGE_SECONDS / _HOP_SECONDS)
    high = _in_band(power, frequencies, _KNOCK_BAND)
    high[:edge] = high[-edge:] = 0
    return Sounds(_knocks(high), _hum(power, frequencies))


def _spectra(samples: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Power of each window and frequency ``(windows, F)``, its sum the mean square of the window; and frequencies."""
    length, hop = round(_WINDOW_SECONDS * sample_rate), round(_HOP_SECONDS * sample_rate)
    padded = np.pad(samples, length // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    shape = np.hanning(length)
    power = 2 * np.abs(np.fft.rfft(windows * shape)) ** 2 / (length * (shape**2).sum())
    return power, np.fft.rfftfreq(length, 1 / sample_rate)


def _in_band(power: np.ndarray, frequencies: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    inside = (frequencies >= band[0]) & (frequencies <= band[1])
    return np.asarray(power[:, inside].sum(1))


def _knocks(power: np.ndarray) -> tuple[float, ...]:
    level = 10 * np.log10(np.maximum(power, 1e-12))
    apart = round(_APART_SECONDS / _HOP_SECONDS)
    least = max(_LEAST_DBFS, float(np.median(level)) + _LEAST_RISE)
    found: list[float] = []
    free = 0
    for peak in range(len(level)):
        near = level[max(peak - apart, 0) : peak + apart + 1]
        if peak < free or level[peak] < least or level[peak] < near.max():
            continue
        begin = peak
        while begin > 0 and level[begin - 1] > level[peak] - _BEGIN_DB:
            begin -= 1
        found.append(begin * _HOP_SECONDS)
        free = peak + apart
    return tuple(found)


def _hum(power: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    inside = (frequencies >= _HUM_BAND[0]) & (frequencies <= _HUM_BAND[1])
    band = power[:, inside]
    total = band.sum(1)
    return np.where(total > 1e-7, (band * frequencies[inside]).sum(1) / np.maximum(total, 1e-12), 0)


def share_in_time(bounces: list[float | None], knocks: list[tuple[float, ...]], within: float) -> float:
    """Share of bounces (None: not seen, which counts as missed) with a knock within so many seconds."""
    pairs = zip(bounces, knocks, strict=True)
    hits = [bounce is not None and any(abs(knock - bounce) <= within for knock in times) for bounce, times in pairs]
    return float(np.mean(hits))
