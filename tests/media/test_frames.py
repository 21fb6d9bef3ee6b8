"""Number formats, times, and videos that are none."""

from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.media.frames import (
    FrameStream,
    observed,
    signed_to_levels,
    subdivide_times,
    to_levels,
    to_signed,
    to_unit,
    validated,
)


def stream_of(*chunks: np.ndarray) -> FrameStream:
    height, width = chunks[0].shape[1:3]
    return FrameStream(iter(chunks), height, width, Fraction(24), sum(map(len, chunks)))


def test_every_level_comes_back_from_both_ranges():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_levels(to_unit(levels)), levels)
    np.testing.assert_array_equal(signed_to_levels(to_signed(levels)), levels)
    deep = np.arange(0, 65536, 7, dtype=np.uint16)
    np.testing.assert_array_equal(to_levels(to_unit(deep), 10), deep)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_pixels_are_clipped_and_rounded_not_wrapped(dtype):
    pixels = mx.array([-0.2, 0.0, 0.4999 / 255, 254.9 / 255, 1.0, 300 / 255]).astype(dtype)
    assert to_levels(pixels).tolist() == [0, 0, 0, 255, 255, 255]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("convert", [to_levels, signed_to_levels])
def test_nan_and_infinity_are_no_pixels(bad, convert, bit_depth):
    with pytest.raises(OutputError, match="NaN"):
        convert(mx.array([[0.5, bad]]), bit_depth)


def test_new_times_lie_evenly_between_the_old_ones():
    times = (Fraction(0), Fraction(1, 10), Fraction(4, 10), Fraction(1, 2))
    doubled = subdivide_times(times, 2)
    assert len(doubled) == (3 - 1) * 2 + 1 + 1
    assert doubled[:-1:2] == times[:-1]
    assert doubled[1] == Fraction(1, 20) and doubled[3] == Fraction(1, 4)
    assert doubled[-1] == Fraction(4, 10) + Fraction(1, 20)
    assert subdivide_times(times, 1) == times
    assert subdivide_times((Fraction(0), Fraction(1)), 4) == (0, Fraction(1, 4))


def test_subdividing_steady_times_is_a_steady_higher_rate():
    times = tuple(Fraction(index, 24) for index in range(6))
    assert subdivide_times(times, 4) == tuple(Fraction(index, 96) for index in range(18))


def test_stream_tells_its_duration():
    stream = stream_of(np.zeros((3, 2, 2, 3), np.uint8))
    assert stream.duration_seconds == Fraction(1, 8)
    assert stream.replace(times=(Fraction(0), Fraction(1), Fraction(5, 2))).duration_seconds == Fraction(5, 2)
    assert stream.replace(num_frames=None).duration_seconds is None


def test_frames_come_one_by_one_across_chunks():
    chunks = [np.full((count, 2, 4, 3), count, np.uint8) for count in (3, 1, 2)]
    assert [int(frame[0, 0, 0]) for frame in stream_of(*chunks).frames()] == [3, 3, 3, 1, 2, 2]


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (7, 90, 31)])
def test_video_of_one_colour_is_an_error_after_its_last_frame(colour):
    chunk = np.broadcast_to(np.array(colour, np.uint8), (3, 4, 6, 3))
    passed = []
    with pytest.raises(OutputError, match="output is blank"):
        for frames in validated(stream_of(chunk, chunk)):
            passed.append(len(frames))
    assert passed == [3, 3]


def test_one_other_pixel_makes_it_a_film():
    black = np.zeros((3, 4, 6, 3), np.uint8)
    nearly = black.copy()
    nearly[2, 3, 5, 1] = 1
    assert len(validated(stream_of(black, nearly)).array()) == 6
    assert len(validated(stream_of(nearly, black)).array()) == 6


def test_two_plain_colours_in_turn_are_a_film():
    chunks = [np.full((2, 4, 6, 3), level, np.uint8) for level in (10, 20)]
    assert len(validated(stream_of(*chunks), moving=True).array()) == 4


def test_frozen_video_is_an_error_only_where_motion_is_expected():
    still = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 3)).astype(np.uint8).repeat(3, axis=0)
    assert len(validated(stream_of(still, still)).array()) == 6
    with pytest.raises(OutputError, match="all 6 frames are identical"):
        validated(stream_of(still, still), moving=True).array()
    assert len(validated(stream_of(still[:1]), moving=True).array()) == 1


def test_closing_a_checked_stream_early_closes_what_is_under_it():
    closed = []

    def chunks():
        try:
            while True:
                yield np.zeros((1, 2, 2, 3), np.uint8)
        finally:
            closed.append(True)

    stream = validated(FrameStream(chunks(), 2, 2, Fraction(24)))
    next(iter(stream))
    stream.close()
    assert closed == [True]


def test_blank_output_of_a_blank_source_passes_and_of_another_source_does_not():
    black = np.zeros((3, 4, 6, 3), np.uint8)
    grey = np.full((3, 4, 6, 3), 120, np.uint8)
    varied = black.copy()
    varied[2, 1, 1] = 200
    for source, result, passes in ((black, black, True), (grey, black, False), (varied, black, False)):
        read = observed(FrameStream(iter([source]), 4, 6, Fraction(24), 3))
        made = read.replace(chunks=(result[: len(chunk)] for chunk in read))
        if passes:
            assert len(validated(made).array()) == 3
        else:
            with pytest.raises(OutputError, match="blank"):
                validated(made).array()
