import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops import winograd
from LTX_2_MLX.ops.winograd import Tiles, tiles_pay

SIZES = [(1, 1), (1, 6), (2, 2), (4, 4), (5, 8), (6, 7), (9, 9), (30, 44)]


@pytest.mark.parametrize("size", SIZES)
def test_tiles_joined_are_the_picture(size):
    picture = mx.random.normal((*size, 3))
    assert mx.array_equal(Tiles.of(picture).joined(), picture)


@pytest.mark.parametrize("band_bytes", [2**20, 300])
@pytest.mark.parametrize("size", SIZES)
def test_convolutions_and_activations_in_a_row_are_the_frameworks(size, band_bytes, monkeypatch):
    mx.random.seed(3)
    monkeypatch.setattr(winograd, "_BAND_BYTES", band_bytes)
    x = mx.random.normal((*size, 5))
    weights = [mx.random.normal((6, 3, 3, 5)) / 7, mx.random.normal((4, 3, 3, 6)) / 7]
    biases = [mx.random.normal((6,)), mx.random.normal((4,))]
    wanted, tiles = x[None], Tiles.of(x)
    for weight, bias, slope in zip(weights, biases, [mx.random.normal((6,)), None], strict=True):
        wanted = mx.conv2d(wanted, weight, padding=1) + bias
        wanted = wanted if slope is None else mx.maximum(wanted, 0) + slope * mx.minimum(wanted, 0)
        tiles = tiles.convolved(weight, bias, slope)
    np.testing.assert_allclose(np.array(tiles.joined()), np.array(wanted[0]), atol=1e-5)


def test_the_sums_give_a_convolution_exactly():
    inputs, kernel, products = (matrix.astype(np.float64) for matrix in winograd._matrices())
    random = np.random.default_rng(2)
    line, taps = random.standard_normal(6), random.standard_normal(3)
    np.testing.assert_allclose(products @ ((kernel @ taps) * (inputs @ line)), np.correlate(line, taps), atol=1e-11)


def test_rounding_stays_near_that_of_the_frameworks_own_way():
    mx.random.seed(5)
    x, weight = mx.random.normal((48, 64, 64)), mx.random.normal((64, 3, 3, 64)) / 24
    made = np.array(Tiles.of(x).convolved(weight, mx.zeros((64,))).joined())
    wanted = np.array(mx.conv2d(x[None], weight, padding=1)[0])
    assert np.abs(made - wanted).max() / np.abs(wanted).max() < 2.5e-6


def test_what_is_beyond_the_picture_stays_zero():
    tiles = Tiles.of(mx.ones((6, 7, 2))).convolved(mx.ones((3, 3, 3, 2)), mx.ones((3,)))
    assert sum(int((place != 0).sum()) for row in tiles.places for place in row) == 6 * 7 * 3


def test_small_narrow_and_half_precision_pictures_take_the_usual_way():
    assert tiles_pay(mx.zeros((1, 64, 64, 3)), 64) == (mx.default_device() == mx.cpu)
    assert not tiles_pay(mx.zeros((1, 63, 64, 3)), 64)
    assert not tiles_pay(mx.zeros((1, 64, 64, 3)), 47)
    assert not tiles_pay(mx.zeros((1, 64, 64, 3), mx.float16), 64)
