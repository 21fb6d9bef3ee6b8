import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.warp import sample, slopes, warp

PLANES = np.random.default_rng(0).random((2, 3, 7, 11), dtype=np.float32)


def plain(planes, x, y):
    """Bilinear samples one by one, in float64."""
    height, width = planes.shape[1:]
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = int(x), int(y)
    right, below = min(left + 1, width - 1), min(top + 1, height - 1)
    across = [(1 - (x - left)) * planes[:, row, left] + (x - left) * planes[:, row, right] for row in (top, below)]
    return (1 - (y - top)) * across[0] + (y - top) * across[1]


def test_warp_takes_each_pixel_from_its_place_plus_flow_and_clamps_at_the_border():
    flow = np.random.default_rng(1).normal(scale=4, size=(2, 2, 7, 11)).astype(np.float32)
    got = np.array(warp(slopes(mx.array(PLANES)), mx.array(flow)))
    for b, row, column in np.ndindex(2, 7, 11):
        dx, dy = flow[b, :, row, column].astype(np.float64)
        np.testing.assert_allclose(got[b, :, row, column], plain(PLANES[b], column + dx, row + dy), atol=2e-6)


def test_warp_by_nothing_gives_the_same_pixels():
    assert np.array_equal(np.array(warp(slopes(mx.array(PLANES)), mx.zeros((2, 2, 7, 11)))), PLANES)


def test_whole_pixels_of_flow_shift_the_picture():
    flow = mx.broadcast_to(mx.array([2.0, -1.0])[:, None, None], (2, 2, 7, 11))
    got = np.array(warp(slopes(mx.array(PLANES)), flow))
    assert np.array_equal(got[:, :, 1:, :-2], PLANES[:, :, :-1, 2:])


def test_samples_may_have_any_shape():
    x, y = mx.array([[0.25, 3.5, 99.0]] * 2), mx.array([[6.0, 2.75, -5.0]] * 2)
    prepared = slopes(mx.array(PLANES))
    got = np.array(sample(prepared, x, y))
    assert got.shape == (2, 3, 3)
    np.testing.assert_allclose(got[1, :, 1], plain(PLANES[1], 3.5, 2.75), atol=1e-6)
    assert np.array_equal(got[0, :, 2], PLANES[0, :, 0, 10])
    spread = sample(prepared, x.reshape(2, 1, 3, 1), y.reshape(2, 1, 3, 1))
    assert np.array_equal(np.array(spread).reshape(2, 3, 3), got)


@pytest.mark.parametrize("width", [2048, 4096])
def test_float16_pictures_are_sampled_at_float32_places(width):
    ramp = mx.broadcast_to((mx.arange(width) % 2).astype(mx.float16), (1, 1, 2, width))
    flow = mx.broadcast_to(mx.array([0.25, 0.0])[:, None, None], (1, 2, 2, width))
    got = np.array(warp(slopes(ramp), flow))[0, 0, 0, :-1]
    assert np.array_equal(np.unique(got), np.array([0.25, 0.75], np.float16))
