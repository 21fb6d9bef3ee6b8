"""Properties of conditioning; golden cases hold its values."""

from dataclasses import replace
from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.diffusion import conditioning
from LTX_2_MLX.diffusion.state import VideoGrid, add_noise, patchify_video, start_state
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.shapes import Compression, LatentShape

GRID = VideoGrid(LatentShape(3, 2, 5), Compression(8, 32, 32), 24)
BATCH, CHANNELS = 2, 7


def fresh():
    return start_state(mx.random.normal((BATCH, GRID.shape.num_tokens, CHANNELS)), GRID.positions())


def image():
    return mx.random.normal((BATCH, 1, 2, 5, CHANNELS))


def test_fixed_frame_starts_clean_and_leaves_the_other_frames_alone():
    state = fresh()
    latent = image()
    noise = mx.random.normal(state.latent.shape)
    held = add_noise(conditioning.fix_latent_frames(state, latent, GRID, latent_frame=1), noise)
    free = add_noise(state, noise)
    assert mx.array_equal(held.latent[:, 10:20], patchify_video(latent))
    assert mx.array_equal(held.latent[:, :10], free.latent[:, :10])
    assert mx.array_equal(held.latent[:, 20:], free.latent[:, 20:])


def test_conditioning_does_not_change_the_state_it_is_given():
    state = fresh()
    clean, mask = mx.array(state.clean_latent), mx.array(state.denoise_mask)
    conditioning.fix_latent_frames(state, image(), GRID)
    assert mx.array_equal(state.clean_latent, clean) and mx.array_equal(state.denoise_mask, mask)


@pytest.mark.parametrize("latent_frame", [-1, 3])
def test_fixed_frame_outside_the_video_is_refused(latent_frame):
    with pytest.raises(RequestError, match="do not fit"):
        conditioning.fix_latent_frames(fresh(), image(), GRID, latent_frame=latent_frame)


def test_image_of_another_size_is_refused():
    with pytest.raises(RequestError, match="5x2"):
        conditioning.fix_latent_frames(fresh(), image().swapaxes(2, 3), GRID)


def test_keyframe_stands_at_its_own_frame_and_spans_one():
    state = conditioning.append_keyframe(fresh(), image(), GRID, frame=12)
    seconds = state.positions[0, 0, GRID.shape.num_tokens :]
    assert mx.allclose(seconds, mx.broadcast_to(mx.array([12 / 24, 13 / 24]), seconds.shape))
    assert state.num_tokens == GRID.shape.num_tokens + 10


def test_no_row_of_an_attention_mask_is_empty_even_at_weight_zero():
    before = fresh()
    after = conditioning.append_keyframe(before, image(), GRID, frame=3)
    mask = conditioning.weigh_attention(before, after, GRID, 0.0).attention_mask
    assert mx.all(mx.max(mask, axis=-1) > 0)


def test_groups_of_appended_tokens_do_not_see_one_another():
    first = conditioning.append_keyframe(fresh(), image(), GRID, frame=3)
    first = conditioning.weigh_attention(fresh(), first, GRID, 0.5)
    mask = conditioning.append_keyframe(first, image(), GRID, frame=7).attention_mask
    assert mx.all(mask[:, 30:40, 40:] == 0) and mx.all(mask[:, 40:, 30:40] == 0)
    assert mx.all(mask[:, :30, 40:] == 1) and mx.all(mask[:, :30, 30:40] == 0.5)


def test_generated_keyframes_are_denoised_and_marked():
    grid = VideoGrid(LatentShape(3, 2, 3), Compression(8, 32, 32), Fraction(24))
    state = replace(start_state(mx.zeros((1, 18, 4)), grid.positions()), keyframe_mask=mx.zeros((1, 18, 1)))
    seeds = mx.random.normal((1, 2, 2, 3, 4), key=mx.random.key(1))
    after = conditioning.append_slots(state, grid, [5, 11], seeds)
    assert after.num_tokens == 30
    assert after.keyframe_mask[0, 18:].min() == 1
    assert after.denoise_mask[0, 18:].min() == 1
    np.testing.assert_array_equal(np.array(after.latent[0, 18:]), np.array(seeds.reshape(12, 4)))
    # Each spans one frame in time.
    times = np.array(after.positions[0, 0, 18:]) * 24
    np.testing.assert_allclose(times, [[5, 6]] * 6 + [[11, 12]] * 6, rtol=1e-6)


def test_generated_keyframes_need_their_embedding_and_lie_in_the_video():
    grid = VideoGrid(LatentShape(3, 2, 3), Compression(8, 32, 32), Fraction(24))
    state = start_state(mx.zeros((1, 18, 4)), grid.positions())
    with pytest.raises(RequestError, match="--keyframes"):
        conditioning.append_slots(state, grid, [5])
    with pytest.raises(RequestError, match="17 frames"):
        conditioning.append_slots(replace(state, keyframe_mask=mx.zeros((1, 18, 1))), grid, [17])
