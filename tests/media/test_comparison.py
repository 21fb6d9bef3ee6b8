"""Videos shown together, contact sheets, and the measures of their frames."""

import math
from fractions import Fraction

import numpy as np
import pytest

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.comparison import differences, frames_at, panels_for, side_by_side, wipe
from LTX_2_MLX.media.contact_sheet import Layout, contact_sheet, spread
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.panels import label_band, peaks_of, waveform_strip
from LTX_2_MLX.media.quality import psnr, ssim


def clip(num_frames: int, rate: int, size: tuple[int, int] = (32, 48), step: int = 10, **fields) -> FrameStream:
    """Frame i has the level ``step * i``."""
    levels = (step * np.arange(num_frames)).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (num_frames, *size, 3))
    return FrameStream([frames], *size, frame_rate=Fraction(rate), num_frames=num_frames, **fields)


def levels(frames) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames]


def test_each_video_shows_the_frame_of_the_moment():
    slow = clip(3, 5)
    times = [Fraction(index, 10) for index in range(8)]
    assert levels(frames_at(slow, times)) == [0, 0, 10, 10, 20, 20, 20, 20]


def test_a_variable_rate_is_followed():
    uneven = clip(3, 5, times=(Fraction(0), Fraction(1, 10), Fraction(4, 10), Fraction(5, 10)))
    assert levels(frames_at(uneven, [Fraction(index, 10) for index in range(5)])) == [0, 10, 10, 10, 20]


def test_smaller_and_slower_videos_take_the_size_and_rate_of_the_other():
    panels = panels_for([clip(3, 5, (32, 48)), clip(6, 10, (64, 96))])
    assert (panels.height, panels.widths, panels.frame_rate, panels.num_frames) == (64, (96, 96), 10, 6)


def test_sides_are_next_to_each_other_below_their_labels():
    streams = [clip(4, 8), clip(4, 8, step=20)]
    panels = panels_for(streams)
    frames = side_by_side(streams, ["a", "b"], panels).array()
    assert frames.shape == (4, 18 + 32, 96, 3)
    assert levels(frames[:, 18:, :48]) == [0, 10, 20, 30]
    assert levels(frames[:, 18:, 48:]) == [0, 20, 40, 60]


def test_the_line_of_a_wipe_moves_to_both_sides():
    streams = [clip(8, 8, step=0), clip(8, 8, step=30)]
    frames = wipe(streams, ["a", "b"], panels_for(streams)).array()
    first = [(frame[20, :, 0] == 0).mean() for frame in frames[1:]]
    assert max(first) > 0.9 and min(first) < 0.1


def test_a_wipe_of_two_shapes_is_refused():
    streams = [clip(2, 8, (32, 48)), clip(2, 8, (32, 32))]
    with pytest.raises(RequestError, match="one shape"):
        wipe(streams, ["a", "b"], panels_for(streams))


def test_different_lengths_are_told():
    assert differences([clip(10, 10), clip(5, 10)], ["a", "b"]) == [
        "The lengths differ: a 1.00 s, b 0.50 s. The last frame of a shorter video stays."
    ]
    assert differences([clip(9, 10), clip(17, 20)], ["a", "b"]) == []


def test_a_sheet_begins_and_ends_with_the_video():
    assert spread(97, 5) == [0, 24, 48, 72, 96]
    assert spread(3, 12) == [0, 1, 2]
    sheet = contact_sheet(clip(11, 5, step=20), Layout(columns=3, rows=2, width=32))
    pixels = sheet[:, :, 0]
    assert sheet.shape[1] == 3 * 36 + 4
    assert pixels[8, 8] == 0 and pixels[-30, -8] == 200


def test_a_strip_follows_the_loudness():
    samples = np.zeros((9600, 2), np.float32)
    samples[4800:] = np.sin(np.arange(4800) / 5)[:, None]
    strip = waveform_strip(peaks_of(samples, 480), 40, 60)
    drawn = (strip != strip[0, 0]).any(axis=2).sum(axis=0)
    assert drawn[:29].max() <= 1 and drawn[31:].min() > 30


def test_a_long_label_is_cut():
    short, long = label_band("a", 20, 100), label_band("a" * 500, 20, 100)
    assert short.shape == long.shape == (20, 100, 3)
    assert (long[:, 95:] == long[0, 0]).all()


def test_psnr_and_ssim_of_known_frames():
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    assert psnr(noise, noise) == math.inf and ssim(noise, noise) == pytest.approx(1)
    assert psnr(np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), 116, np.uint8)) == pytest.approx(
        24.0485, abs=1e-3
    )
    # Constant windows have no structure: (2ab + c) / (a² + b² + c).
    a, b = 0.4, 0.8
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    frames = [np.full((20, 20, 3), round(255 * level), np.uint8) for level in (a, b)]
    assert ssim(*frames) == pytest.approx(expected, abs=1e-4)
    assert ssim(noise, 255 - noise) < 0
