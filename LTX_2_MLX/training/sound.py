"""The sounds of the world: a hum that follows the thing's size, and a knock at each bounce.

All of it is made of harmonics of 100 Hz with fixed phases, so one period is one frame of the spectrogram: a vocoder
sees magnitudes alone, and only what repeats with its frames has a phase that it can know. Knows nothing of networks.
"""

import numpy as np

from LTX_2_MLX.training import world

SAMPLE_RATE = 16000
_BASE_HZ = 100
# A thing of the middle size hums at this frequency; smaller things hum higher.
_HUM_HZ = 500.0
_HUM_FALL = 1.5
_HUM_WIDTH_HZ = 70.0
_HUM_LEVEL = 0.1
_HUM_HARMONICS = np.arange(1, 26)
# The knock lies above the hum of most things.
_KNOCK_HARMONICS = np.arange(8, 45)
_KNOCK_LEVEL = 0.2
_KNOCK_ATTACK_SECONDS = 0.003
_KNOCK_FALL_SECONDS = 0.035
# Path times at which bouncing things touch the ground.
_BOUNCES = {"bounces": (0.5,)}


def bounce_times(scene: world.Scene, num_frames: int, frame_rate: float) -> tuple[float, ...]:
    """Seconds at which the thing touches the ground."""
    duration = (num_frames - 1) / frame_rate
    return tuple(u * duration for u in _BOUNCES.get(scene.motion, ()))


def sound(scene: world.Scene, num_frames: int, frame_rate: float) -> np.ndarray:
    """The sound of a clip ``(S, 2)`` float32 in [-1, 1], as long as its frames last, the same in both ears."""
    seconds = np.arange(round(num_frames / frame_rate * SAMPLE_RATE)) / SAMPLE_RATE
    place = world.path(scene, np.minimum(seconds * frame_rate / max(num_frames - 1, 1), 1))
    samples = hum(place.radius) + knocks(len(seconds), bounce_times(scene, num_frames, frame_rate))
    return np.repeat(samples[:, None], 2, axis=1).astype(np.float32)


def hum_hz(radius: np.ndarray) -> np.ndarray:
    """Middle of the hum of things of these radii (frame heights), Hz."""
    return np.asarray(_HUM_HZ * (world.SIZES["middling"] / radius) ** _HUM_FALL)


def hum(radius: np.ndarray) -> np.ndarray:
    """The hum of a thing whose radius at each sample is given, ``(S,)``: the harmonics around its frequency."""
    distance = (_BASE_HZ * _HUM_HARMONICS[:, None] - hum_hz(radius)) / _HUM_WIDTH_HZ
    amplitude = np.exp(-0.5 * distance**2)
    amplitude /= np.sqrt((amplitude**2).sum(0) / 2)
    return np.asarray(_HUM_LEVEL * (amplitude * _waves(_HUM_HARMONICS, len(radius))).sum(0))


def knocks(num_samples: int, times: tuple[float, ...]) -> np.ndarray:
    """A knock at each of ``times`` (seconds), ``(S,)``: a short burst, higher parts fading first."""
    seconds = np.arange(num_samples) / SAMPLE_RATE
    total = np.zeros(num_samples)
    for time in times:
        after = seconds - time
        rise = np.clip(after / _KNOCK_ATTACK_SECONDS, 0, 1)
        fall = _KNOCK_FALL_SECONDS * (_KNOCK_HARMONICS[0] / _KNOCK_HARMONICS[:, None]) ** 0.5
        total += (_waves(_KNOCK_HARMONICS, num_samples) * np.exp(-np.maximum(after, 0) / fall)).sum(0) * rise
    return np.asarray(_KNOCK_LEVEL / np.sqrt(len(_KNOCK_HARMONICS) / 2) * total)


def _waves(harmonics: np.ndarray, num_samples: int) -> np.ndarray:
    """Cosines of the harmonics, ``(harmonics, S)``, their phases spread so that they do not add up to clicks."""
    period = SAMPLE_RATE // _BASE_HZ
    phases = np.pi * harmonics**2 / len(harmonics)
    wave = np.cos(2 * np.pi * harmonics[:, None] * np.arange(period) / period + phases[:, None])
    return np.asarray(np.tile(wave, (1, -(-num_samples // period)))[:, :num_samples])
