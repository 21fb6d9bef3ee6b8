import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from LTX_2_MLX.ops.resize import resize

PIXELS = mx.array(np.random.default_rng(0).random((2, 6, 12, 3), dtype=np.float32))


@pytest.mark.parametrize("factor", [2, 3, 4, 8, 0.5, 1 / 3])
@pytest.mark.parametrize(("kernel", "mode", "error"), [("linear", "linear", 2e-6), ("cubic", "cubic", 2e-5)])
def test_resize_matches_upsample_of_the_framework(factor, kernel, mode, error):
    wanted = nn.Upsample(scale_factor=factor, mode=mode, align_corners=False)(PIXELS)
    got = resize(PIXELS, *wanted.shape[1:3], kernel)
    np.testing.assert_allclose(np.array(got), np.array(wanted), atol=error)


@pytest.mark.parametrize("kernel", ["linear", "cubic", "lanczos4"])
@pytest.mark.parametrize("size", [(6, 9), (13, 4), (12, 18), (5, 31), (1, 1)])
def test_a_plain_picture_stays_plain_at_any_size(kernel, size):
    got = resize(mx.full((1, 6, 9, 2), 0.75), *size, kernel)
    assert got.shape == (1, *size, 2)
    np.testing.assert_allclose(np.array(got), 0.75, atol=1e-6)


def test_the_same_size_is_the_same_picture():
    assert resize(PIXELS, 6, 12, "cubic") is PIXELS


def test_halving_takes_the_mean_of_the_middle_and_eighths_skip_the_rest():
    eighth = resize(mx.repeat(PIXELS, 1, axis=0)[:, :, :8], 6, 1)
    np.testing.assert_allclose(np.array(eighth[:, :, 0]), np.array((PIXELS[:, :, 3] + PIXELS[:, :, 4]) / 2), atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_ramp_enlarged_is_a_ramp_between_the_outermost_centres(factor):
    ramp = mx.broadcast_to(mx.arange(5, dtype=mx.float32)[None, :, None, None], (1, 5, 3, 1))
    got = np.array(resize(ramp, 5 * factor, 3))[0, :, 1, 0]
    places = (np.arange(5 * factor) + 0.5) / factor - 0.5
    np.testing.assert_allclose(got, np.clip(places, 0, 4), atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_single_channel_is_enlarged_like_one_of_several(factor):
    several = mx.array(np.random.default_rng(1).random((2, 3, 48, 2), dtype=np.float32))
    wanted = resize(several, 3 * factor, 48 * factor)[..., 1:]
    got = resize(several[..., 1:], 3 * factor, 48 * factor)
    np.testing.assert_allclose(np.array(got), np.array(wanted), atol=1e-6)
