"""Detail-fidelity rendering: joined tiles, carried keyframes and shares of appended tokens."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.diffusion.dfr import StageTokens, TemporalRound, carried_keyframes, doubled
from LTX_2_MLX.diffusion.dfr_layout import spatial_tiles
from LTX_2_MLX.diffusion.dfr_spatial import denoise_in_tiles, token_tiles
from LTX_2_MLX.diffusion.state import VideoGrid
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.shapes import Compression, LatentShape

COMPRESSION = Compression(8, 32, 32)


def normal(*shape, seed=0):
    return mx.random.normal(shape, key=mx.random.key(seed))


def spatial_tokens(frames=(24, 48)):
    """A video of 7 × 5 × 4 cells with two keyframes and a reference at half the size, and its tiles."""
    shape = LatentShape(7, 5, 4)
    keyframes = carried_keyframes(normal(1, len(frames), 5, 4, 3, seed=1), frames)
    tokens = StageTokens(
        VideoGrid(shape, COMPRESSION, 24.0),
        normal(1, 7, 5, 4, 3),
        keyframes=keyframes,
        reference=normal(1, 7, 3, 2, 3, seed=2),
    )
    tiles = spatial_tiles(shape.num_frames, shape.height, shape.width, 2, [3, 6])
    return tokens, tiles


def test_tiles_share_every_token_out_and_a_pointwise_estimate_comes_back_whole():
    tokens, tiles = spatial_tokens()
    video = replace(tokens.state(), latent=normal(1, 7 * 20 + 2 * 20 + 7 * 6, 3, seed=3))
    parts = token_tiles(video, tokens.grid.shape, tiles)
    shares = np.zeros(video.num_tokens)
    for part in parts:
        np.add.at(shares, part.indices, part.weights)
    np.testing.assert_allclose(shares, 1, atol=1e-6)
    whole = denoise_in_tiles(lambda state, sigma, step: {"video": 2 * state["video"].latent}, parts)
    assert mx.allclose(whole({"video": video}, 0.5, 0)["video"], 2 * video.latent, atol=1e-5)


def test_a_keyframe_behind_the_end_of_the_video_is_refused():
    tokens, tiles = spatial_tokens(frames=(24, 56))
    with pytest.raises(RequestError, match="20 tokens"):
        token_tiles(tokens.state(), tokens.grid.shape, tiles)


def test_a_round_joins_its_tiles_and_keeps_carried_keyframes_and_those_of_the_earlier_tile():
    # 48 frames more at twice the rate: seams at 48 and 96, two tiles, the second with a lead-in from frame 0 on.
    keyframes = doubled(carried_keyframes(normal(1, 2, 2, 3, 4, seed=4), (24, 48)))
    grid = VideoGrid(LatentShape(13, 2, 3), COMPRESSION, 48.0)
    given = TemporalRound(1, grid, keyframes)
    calls = []

    def denoise(state, sigma, step):
        if step == 0:
            calls.append(len(calls) + 1)
        return {"video": mx.full(state["video"].latent.shape, calls[-1])}

    def noise(purpose, shape):
        return mx.zeros(shape)

    video, carried = given.run(denoise, mx.zeros((1, 13, 2, 3, 4)), noise, on_tile=lambda *tile: None)
    assert [int(frame) for frame in video[0, :, 0, 0, 0]] == [1] * 7 + [2] * 6
    assert [keyframe.frame for keyframe in carried] == [24, 48, 72, 96]
    assert mx.all(carried[0].latent == 1) and mx.all(carried[2].latent == 2)
    assert mx.array_equal(carried[1].latent, keyframes[0].latent)
