"""Generated sound in video files: in step with the frames, as long as they are, and checked before they are written."""

from fractions import Fraction

import av
import numpy as np
import pytest

from LTX_2_MLX.errors import MediaError, OutputError
from LTX_2_MLX.media.audio import Waveform, read_waveform
from LTX_2_MLX.media.frames import FrameStream, validated
from LTX_2_MLX.media.samples import planar
from LTX_2_MLX.media.sound import check_sound, write_wav

FRAME_RATES = [Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30), Fraction(50)]
LENGTHS = (9, 33, 97, 241)
# Samples of a codec's frame, and rate of the written track.
CODECS = {".mp4": ("aac", 1024, None), ".mov": ("aac", 1024, None), ".mkv": ("aac", 1024, None)}
CODECS |= {".webm": ("opus", 960, 48_000)}


def noise_burst(num_samples: int, rate: int) -> np.ndarray:
    """Silence with a tenth of a second of noise in its middle."""
    samples = np.zeros((num_samples, 2), np.float32)
    burst = samples[num_samples // 2 : num_samples // 2 + rate // 10]
    burst[:] = np.random.default_rng(0).normal(0, 0.3, burst.shape).clip(-0.9, 0.9)
    return samples


def decoded(path) -> tuple[np.ndarray, int, float, float, str]:
    """First channel, its rate, seconds from the first frame to the first sample, seconds of the frames, codec."""
    with av.open(str(path)) as container:
        frames = [frame.pts * frame.time_base for frame in container.decode(video=0)]
        step = float(1 / container.streams.video[0].average_rate)
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        blocks = list(container.decode(track))
        lead = float(blocks[0].pts * blocks[0].time_base - frames[0])
        samples = np.concatenate([planar(block)[0] for block in blocks])
        seconds = float(frames[-1] - frames[0]) + step
        return samples, track.rate, lead, seconds, track.codec_context.codec.canonical_name


def offset_seconds(samples: np.ndarray, expected: np.ndarray, rate: int, expected_rate: int) -> float:
    """Delay at which two waveforms agree best."""
    times = np.arange(len(expected) * rate // expected_rate) / rate
    wanted = np.interp(times, np.arange(len(expected)) / expected_rate, expected)
    size = 2 ** (len(samples) + len(wanted)).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(samples, size) * np.conj(np.fft.rfft(wanted, size)), size)
    delay = int(correlation.argmax())
    return (delay - size if delay > size // 2 else delay) / rate


@pytest.mark.parametrize("rate", FRAME_RATES, ids=float)
@pytest.mark.parametrize("suffix", CODECS)
def test_sound_is_in_step_and_as_long_as_the_frames(tmp_path, suffix, rate):
    codec, codec_frame, written_rate = CODECS[suffix]
    for number, num_frames in enumerate(LENGTHS):
        sample_rate = (48_000, 24_000)[number % 2]
        samples = noise_burst(round(num_frames / rate * sample_rate), sample_rate)
        chunks = [np.full((num_frames, 16, 16, 3), 128, np.uint8)]
        path = tmp_path / f"{num_frames}{suffix}"
        FrameStream(chunks, 16, 16, rate, num_frames, Waveform(samples, sample_rate)).save(path)
        found, found_rate, lead, seconds, name = decoded(path)
        assert (name, found_rate) == (codec, written_rate or sample_rate)
        assert abs(seconds - num_frames / rate) < 2e-3
        assert abs(len(found) / found_rate + lead - seconds) <= codec_frame / found_rate + 2e-3
        assert abs(lead + offset_seconds(found, samples[:, 0], found_rate, sample_rate)) < 1e-3


def test_sound_of_avi_is_pcm_from_the_first_frame(tmp_path):
    samples = noise_burst(48_000, 48_000)
    chunks = [np.full((24, 16, 16, 3), 128, np.uint8)]
    FrameStream(chunks, 16, 16, Fraction(24), 24, Waveform(samples, 48_000)).save(tmp_path / "a.avi")
    found = read_waveform(tmp_path / "a.avi")
    assert found.samples.shape == samples.shape and np.abs(found.samples - samples).max() < 1e-4


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full((4800, 2), np.nan, np.float32), "NaN"),
        (np.full((4800, 2), 5e-4, np.float32), "-66 dBFS"),
        (np.zeros((4800, 2), np.float32), "almost silent"),
        (np.sign(np.sin(np.arange(9600, dtype=np.float32))).reshape(-1, 2), "100.0% of its samples"),
    ],
)
def test_bad_sound_is_an_error_before_the_frames(samples, message):
    asked = []
    chunks = (asked.append(1) for _ in range(3))
    stream = FrameStream(chunks, 16, 16, Fraction(24), 3, Waveform(samples, 48_000))
    with pytest.raises(OutputError, match=message):
        validated(stream)
    assert asked == []


def test_ordinary_sound_passes():
    samples = noise_burst(48_000, 48_000)
    samples[:100] = 1
    check_sound(Waveform(samples, 48_000))


def test_wav_is_written_and_written_again_but_replaces_nothing_else(tmp_path):
    waveform = Waveform(noise_burst(24_000, 24_000), 24_000)
    write_wav(waveform, tmp_path / "a.wav")
    write_wav(waveform, tmp_path / "a.wav")
    found = read_waveform(tmp_path / "a.wav")
    assert found.sample_rate == 24_000 and np.abs(found.samples - waveform.samples).max() < 1e-4
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    for name in ("b.wav", "c.flac", "missing/d.wav"):
        with pytest.raises(MediaError):
            write_wav(waveform, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav"]
