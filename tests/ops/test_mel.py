"""Properties of the mel front end; golden cases hold its values."""

import numpy as np
import pytest

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.ops.mel import MelSettings, log_mel, mel_filters, resample


def tone(frequency: float, sample_rate: int, seconds: float = 0.25) -> np.ndarray:
    """A stereo sine, right half as loud as left, ``(1, S, 2)``."""
    time = np.arange(round(sample_rate * seconds)) / sample_rate
    wave = np.sin(2 * np.pi * frequency * time)
    return np.stack([wave, 0.5 * wave], axis=-1)[None].astype(np.float32)


@pytest.mark.parametrize(
    ("sample_rate", "target_rate"), [(24000, 16000), (44100, 16000), (48000, 16000), (8000, 16000)]
)
def test_resampled_tone_is_the_tone_at_the_other_rate(sample_rate, target_rate):
    resampled = resample(tone(440, sample_rate), sample_rate, target_rate)
    expected = tone(440, target_rate)
    assert resampled.shape == expected.shape
    inside = slice(200, -200)
    assert np.abs(resampled - expected)[:, inside].max() < 2e-3


def test_resampling_removes_what_the_lower_rate_cannot_hold():
    assert np.abs(resample(tone(11000, 48000), 48000, 16000))[:, 200:-200].max() < 0.05


def test_length_of_a_resampled_waveform_is_rounded_up():
    assert resample(np.zeros((2, 7001, 2), np.float32), 24000, 16000).shape == (2, 4668, 2)


def test_tone_is_loudest_in_the_bin_around_its_frequency():
    settings = MelSettings()
    mel = log_mel(tone(1000, 16000), 16000, settings)
    assert mel.shape == (1, 1 + 4000 // 160, 64, 2) and mel.dtype == np.float32
    expected = mel_filters(settings)[1000 * 1024 // 16000].argmax()
    assert (mel[0, 5:-5, :, 0].argmax(axis=-1) == expected).all()
    # The right channel is half as loud.
    assert np.allclose((mel[..., 0] - mel[..., 1])[0, 5:-5, expected], np.log(2), atol=1e-3)


def test_silence_lies_at_the_floor():
    mel = log_mel(np.zeros((1, 2000, 2), np.float32), 16000, MelSettings())
    assert np.allclose(mel, np.log(1e-5))


def test_sound_shorter_than_half_a_window_is_refused():
    with pytest.raises(RequestError, match="512 samples at 16000 Hz; expected more than 512"):
        log_mel(np.zeros((1, 512, 2), np.float32), 16000, MelSettings())
