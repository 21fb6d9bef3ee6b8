"""Tokens come back as the latent they were made of, positions tile time and space, and each purpose has its noise."""

from fractions import Fraction
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.diffusion.state import (
    AudioClock,
    VideoGrid,
    patchify_audio,
    patchify_video,
    seeded_noise,
    unpatchify_audio,
    unpatchify_video,
)
from LTX_2_MLX.shapes import Compression, LatentShape

GRID = VideoGrid(LatentShape(3, 2, 5), Compression(8, 32, 16), Fraction(24000, 1001))
SHAPE = (2, 50, 7)


def test_video_tokens_come_back_as_the_latent_and_appended_ones_are_cut():
    latent = mx.random.normal((2, 3, 2, 5, 7))
    tokens = mx.concatenate([patchify_video(latent), mx.ones((2, 4, 7))], axis=1)
    assert mx.array_equal(unpatchify_video(tokens, GRID.shape), latent)


def test_audio_tokens_lay_mel_bins_fastest_and_come_back():
    latent = mx.random.normal((2, 5, 4, 3))
    tokens = patchify_audio(latent)
    assert tokens[1, 2, 4 * 1 + 3] == latent[1, 2, 3, 1]
    assert mx.array_equal(unpatchify_audio(tokens, 3), latent)


def test_video_cells_tile_the_clip_without_gaps():
    bounds = GRID.pixel_bounds().reshape(3, 3, 2, 5, 2)
    assert bounds[0, :, 0, 0].tolist() == [[0, 1], [1, 9], [9, 17]]
    assert bounds[1, 0, :, 0].tolist() == [[0, 32], [32, 64]]
    assert bounds[2, 0, 0, :].tolist() == [[0, 16], [16, 32], [32, 48], [48, 64], [64, 80]]


def test_positions_are_seconds_on_the_time_axis():
    positions = np.array(GRID.positions())
    assert positions.shape == (1, 3, 30, 2)
    assert positions[0, 0, -1, 1] == pytest.approx(17 * 1001 / 24000)


def test_audio_latents_follow_one_another_in_time():
    seconds = np.array(AudioClock().positions(6))[0, 0]
    assert seconds[0].tolist() == pytest.approx([0, 0.01])
    assert (seconds[1:, 0] == seconds[:-1, 1]).all()
    assert seconds[-1, 1] == pytest.approx(0.21)


@pytest.mark.parametrize(("num_frames", "frame_rate", "length"), [(97, 24, 101), (9, 50, 4), (11, 50, 6), (1, 25, 1)])
def test_audio_length_rounds_halves_to_even(num_frames, frame_rate, length):
    assert AudioClock().num_latents(num_frames, frame_rate) == length


def test_same_seed_and_purpose_give_the_same_noise_whatever_was_drawn_between():
    noise = partial(seeded_noise, 5)
    first = noise("stage_1.video", SHAPE)
    noise("stage_1.audio", SHAPE)
    mx.random.normal((3,))
    assert mx.array_equal(noise("stage_1.video", SHAPE), first)


def test_other_seed_or_purpose_gives_other_noise():
    first = seeded_noise(5, "stage_1.video", SHAPE)
    for other in (seeded_noise(6, "stage_1.video", SHAPE), seeded_noise(5, "stage_2.video", SHAPE)):
        assert mx.abs(mx.mean(first * other)).item() < 0.2


def test_seeds_that_differ_beyond_32_bits_give_other_noise():
    first = seeded_noise(5, "stage_1.video", SHAPE)
    other = seeded_noise(5 + 2**63, "stage_1.video", SHAPE)
    assert mx.abs(mx.mean(first * other)).item() < 0.2


def test_drawing_leaves_the_global_random_state_alone():
    mx.random.seed(3)
    expected = mx.random.normal((4,))
    mx.random.seed(3)
    seeded_noise(1, "stage_1.video", SHAPE)
    assert mx.array_equal(mx.random.normal((4,)), expected)
