"""The sound of a user's file: as stereo samples for a network, and as a track that ends with the video."""

from fractions import Fraction

import av
import numpy as np
import pytest

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.audio import Waveform, read_waveform
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.given_sound import open_sound, sound_of_clip
from LTX_2_MLX.media.samples import audio_frame
from LTX_2_MLX.media.video import read_video

RATE = 16_000


def noise(channels: int, seconds: float = 1.0) -> np.ndarray:
    """``(S, channels)`` float32 that 16 bits hold exactly."""
    random = np.random.default_rng(0)
    return random.integers(-8000, 8000, (round(seconds * RATE), channels)).astype(np.float32) / 32768


def write_wav(path, samples: np.ndarray, layout: str):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=RATE)
        stream.codec_context.layout = layout
        frame = audio_frame(samples.T, layout, RATE, 0)
        for each in av.AudioResampler(format="s16", layout=layout, rate=RATE).resample(frame):
            output.mux(stream.encode(each))
        output.mux(stream.encode(None))
    return path


def test_one_channel_stands_twice_and_more_than_two_are_mixed_down(tmp_path):
    one = noise(1)
    found = open_sound(write_wav(tmp_path / "mono.wav", one, "mono")).samples(Fraction(1))
    assert np.array_equal(found, np.repeat(one, 2, axis=1))
    six = noise(6)
    found = open_sound(write_wav(tmp_path / "six.wav", six, "5.1")).samples(Fraction(1))
    assert found.shape == (RATE, 2)
    # Left, right and centre are heard, each on its own side.
    for channel, sides in ((0, [True, False]), (1, [False, True]), (2, [True, True])):
        correlation = [abs(np.corrcoef(six[:, channel], found[:, side])[0, 1]) > 0.2 for side in (0, 1)]
        assert correlation == sides


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
def test_written_track_ends_with_the_video(tmp_path, suffix):
    sound = open_sound(write_wav(tmp_path / "song.wav", noise(2, 2.0), "stereo"))
    assert (sound.rate, sound.seconds) == (RATE, 2)
    chunks = [np.full((24, 16, 16, 3), 128, np.uint8)]
    path = FrameStream(chunks, 16, 16, Fraction(24), 24, sound.until(Fraction(1))).save(tmp_path / f"video{suffix}")
    written = read_waveform(path)
    # A packet of PCM that is copied may end a quarter of a second later.
    assert 0.99 <= len(written.samples) / written.sample_rate < 1.26


def test_sound_of_a_clip_counts_from_its_first_frame_and_silence_follows(tmp_path):
    samples = noise(2)
    chunks = [np.random.default_rng(1).integers(0, 255, (24, 16, 16, 3)).astype(np.uint8)]
    clip = read_video(
        FrameStream(chunks, 16, 16, Fraction(24), 24, Waveform(samples, RATE)).save(tmp_path / "clip.avi")
    )
    found = sound_of_clip(clip.audio, Fraction(1)).samples(Fraction(3, 2))
    assert found.shape == (24_000, 2) and np.abs(found[:RATE] - samples).max() < 1e-4 and not found[RATE:].any()


def test_file_without_sound_is_refused(tmp_path):
    chunks = [np.full((9, 16, 16, 3), 128, np.uint8)]
    silent = FrameStream(chunks, 16, 16, Fraction(24), 9).save(tmp_path / "silent.mp4")
    with pytest.raises(MediaError, match=r"silent\.mp4 has no sound"):
        open_sound(silent)
