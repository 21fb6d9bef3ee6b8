import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.cpu import winograd
from LTX_2_MLX.ops.cpu.winograd import PaddedImage

SIZES = [(1, 1), (1, 6), (2, 2), (4, 4), (5, 8), (6, 7), (9, 9), (30, 44)]


def plain(x, layers):
    """The chain by MLX's own convolution."""
    for weight, bias, slope in layers:
        x = mx.conv2d(x, weight, padding=1) + bias
        if slope is not None:
            x = mx.maximum(x, 0) + slope * mx.minimum(x, 0)
    return x


def chain(*slopes):
    """Three convolutions of five channels to six, six and four, and slopes after the first two."""
    mx.random.seed(3)
    widths = [5, 6, 6, 4]
    return [
        (mx.random.normal((outputs, 3, 3, inputs)) / 7, mx.random.normal((outputs,)), slope)
        for inputs, outputs, slope in zip(widths, widths[1:], (*slopes, None), strict=False)
    ]


@pytest.mark.parametrize("size", SIZES)
def test_a_padded_image_gives_the_image(size):
    image = np.random.default_rng(0).standard_normal((*size, 3), dtype=np.float32)
    assert np.array_equal(PaddedImage.from_image(image).to_image(), image)


@pytest.mark.parametrize("largest", [0.9, 1.8])
@pytest.mark.parametrize("piece_values", [2**13, 50, 1])
@pytest.mark.parametrize("size", SIZES)
def test_chained_convolutions_and_activations_equal_the_plain_ones(size, piece_values, largest, monkeypatch):
    monkeypatch.setattr(winograd, "_PIECE_VALUES", piece_values)
    slopes = mx.linspace(-1, largest, 6)
    layers = chain(slopes, -slopes)
    x = mx.random.normal((2, *size, 5))
    computed, expected = winograd.conv3x3_chain(x, layers), plain(x, layers)
    np.testing.assert_allclose(np.array(computed), np.array(expected), atol=1e-5 * np.abs(expected).max())


def test_gradients_are_those_of_the_plain_chain():
    layers = chain(mx.linspace(-1, 2, 6), None)
    x = mx.random.normal((1, 6, 9, 5))

    def gradients(form):
        def loss(x, weight, slopes):
            return (form(2 * x, [(weight, layers[0][1], slopes), *layers[1:]]) ** 2).sum()

        return mx.grad(loss, argnums=(0, 1, 2))(x, layers[0][0], layers[0][2])

    for ours, expected in zip(gradients(winograd.conv3x3_chain), gradients(plain), strict=True):
        assert mx.abs(ours - expected).max() < 1e-4 * mx.abs(expected).max()


def test_the_matrices_give_a_convolution_exactly():
    inputs, kernel, products = (matrix.astype(np.float64) for matrix in winograd._matrices())
    random = np.random.default_rng(2)
    line = random.standard_normal(6)
    taps = random.standard_normal(3)
    np.testing.assert_allclose(products @ ((kernel @ taps) * (inputs @ line)), np.correlate(line, taps), atol=1e-11)


def test_rounding_errors_stay_near_those_of_a_plain_convolution():
    mx.random.seed(5)
    x = mx.random.normal((1, 48, 64, 64))
    layers = [(mx.random.normal((64, 3, 3, 64)) / 24, mx.zeros((64,)), None)]
    computed, expected = np.array(winograd.conv3x3_chain(x, layers)), np.array(plain(x, layers))
    assert np.abs(computed - expected).max() / np.abs(expected).max() < 2.5e-6


def test_what_lies_beyond_the_image_stays_zero():
    layer = winograd.Convolution(np.ones((3, 3, 3, 2), np.float32), np.ones(3, np.float32), np.ones(3, np.float32))
    target = PaddedImage(6, 7, 3)
    layer.convolve(PaddedImage.from_image(np.ones((6, 7, 2), np.float32)), target)
    assert (target.pixels != 0).sum() == 6 * 7 * 3
