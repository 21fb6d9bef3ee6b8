"""Layout of detail-fidelity rendering: properties that hold for every length."""

import numpy as np
import pytest

from LTX_2_MLX.diffusion.dfr_layout import (
    Canvas,
    conditioning_rate,
    even_slots,
    next_keyframes,
    round_tiles,
    spatial_tiles,
)


@pytest.mark.parametrize("num_frames", [9, 25, 41, 57, 97, 121, 161, 481])
def test_rounds_cover_every_latent_frame_once(num_frames):
    canvas = Canvas.for_frames(num_frames)
    assert canvas.num_frames >= num_frames
    frames, keyframes = canvas.num_frames, list(canvas.positions)
    for number in (1, 2):
        frames = 2 * frames - 1
        seams = [2 * frame for frame in keyframes]
        tiles = round_tiles(seams, 2**number)
        kept = [i for tile in tiles for i in range(tile.first_latent + tile.dropped_latents, tile.stop_latent)]
        assert kept == list(range((frames - 1) // 8 + 1))
        keyframes = next_keyframes(seams, tiles)
        assert np.diff([0, *keyframes]).min() >= 8
        assert keyframes[-1] == frames - 1


@pytest.mark.parametrize(
    ("num_frames", "height", "width", "num_tiles", "seams"),
    [(13, 5, 9, 2, [6, 12]), (7, 1, 3, 2, [6]), (25, 15, 31, 4, [6, 12, 18, 24]), (5, 2, 2, 1, [4]), (19, 4, 4, 3, [])],
)
def test_weights_of_the_spatial_stage_sum_to_one(num_frames, height, width, num_tiles, seams):
    total = np.zeros((num_frames, height, width))
    for tile in spatial_tiles(num_frames, height, width, num_tiles, seams):
        box = tuple(slice(span.start, span.stop) for span in (tile.time, tile.height, tile.width))
        total[box] += tile.weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_coordinates_stop_at_sixty_frames_a_second():
    assert [conditioning_rate(rate) for rate in (24, 30, 48, 96)] == [24, 30, 60, 60]
    assert [conditioning_rate(rate, snap=False) for rate in (24, 48, 96)] == [24, 48, 60]


def test_evenly_spread_slots_lie_inside_the_clip():
    assert even_slots(3, 121) == [30, 60, 90]
    assert all(0 < frame < 32 for frame in even_slots(5, 33))
