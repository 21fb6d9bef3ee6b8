import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.cpu import winograd
from LTX_2_MLX.ops.cpu.winograd import Tiles

SIZES = [(1, 1), (1, 6), (2, 2), (4, 4), (5, 8), (6, 7), (9, 9), (30, 44)]


@pytest.mark.parametrize("size", SIZES)
def test_an_image_cut_into_tiles_is_put_together_again(size):
    image = mx.random.normal((*size, 3))
    assert mx.array_equal(Tiles.from_image(image).to_image(), image)


@pytest.mark.parametrize("band_bytes", [2**20, 300])
@pytest.mark.parametrize("size", SIZES)
def test_chained_convolutions_and_activations_equal_the_plain_ones(size, band_bytes, monkeypatch):
    mx.random.seed(3)
    monkeypatch.setattr(winograd, "_BAND_BYTES", band_bytes)
    x = mx.random.normal((*size, 5))
    weights = [mx.random.normal((6, 3, 3, 5)) / 7, mx.random.normal((4, 3, 3, 6)) / 7]
    biases = [mx.random.normal((6,)), mx.random.normal((4,))]
    expected = x[None]
    tiles = Tiles.from_image(x)
    for weight, bias, slope in zip(weights, biases, [mx.random.normal((6,)), None], strict=True):
        expected = mx.conv2d(expected, weight, padding=1) + bias
        if slope is not None:
            expected = mx.maximum(expected, 0) + slope * mx.minimum(expected, 0)
        tiles = tiles.convolve(weight, bias, slope)
    np.testing.assert_allclose(np.array(tiles.to_image()), np.array(expected[0]), atol=1e-5)


def test_the_matrices_give_a_convolution_exactly():
    inputs, kernel, products = (matrix.astype(np.float64) for matrix in winograd._matrices())
    random = np.random.default_rng(2)
    line = random.standard_normal(6)
    taps = random.standard_normal(3)
    np.testing.assert_allclose(products @ ((kernel @ taps) * (inputs @ line)), np.correlate(line, taps), atol=1e-11)


def test_rounding_errors_stay_near_those_of_a_plain_convolution():
    mx.random.seed(5)
    x = mx.random.normal((48, 64, 64))
    weight = mx.random.normal((64, 3, 3, 64)) / 24
    computed = np.array(Tiles.from_image(x).convolve(weight, mx.zeros((64,))).to_image())
    expected = np.array(mx.conv2d(x[None], weight, padding=1)[0])
    assert np.abs(computed - expected).max() / np.abs(expected).max() < 2.5e-6


def test_what_lies_beyond_the_image_stays_zero():
    tiles = Tiles.from_image(mx.ones((6, 7, 2))).convolve(mx.ones((3, 3, 3, 2)), mx.ones((3,)))
    nonzero = sum(int((pixels != 0).sum()) for row in tiles.grid for pixels in row)
    assert nonzero == 6 * 7 * 3
