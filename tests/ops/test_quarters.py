import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.quarters import Quarters, quarters_pay

SIZES = [(1, 1), (1, 6), (2, 2), (5, 8), (6, 7), (9, 9), (30, 44)]


@pytest.mark.parametrize("size", SIZES)
def test_quarters_joined_are_the_picture(size):
    picture = mx.random.normal((*size, 3))
    assert mx.array_equal(Quarters.of(picture).joined(), picture)


@pytest.mark.parametrize("size", SIZES)
def test_convolutions_and_activations_in_a_row_are_the_frameworks(size):
    mx.random.seed(3)
    x = mx.random.normal((*size, 5))
    weights = [mx.random.normal((6, 3, 3, 5)) / 7, mx.random.normal((4, 3, 3, 6)) / 7]
    biases = [mx.random.normal((6,)), mx.random.normal((4,))]
    wanted, quarters = x[None], Quarters.of(x)
    for weight, bias in zip(weights, biases, strict=True):
        wanted = mx.tanh(mx.conv2d(wanted, weight, padding=1) + bias)
        quarters = quarters.convolved(weight, bias).map(mx.tanh)
    np.testing.assert_allclose(np.array(quarters.joined()), np.array(wanted[0]), atol=2e-6)


def test_small_narrow_and_half_precision_pictures_take_the_usual_way():
    assert quarters_pay(mx.zeros((1, 64, 64, 64))) == (mx.default_device() == mx.cpu)
    for shape in ((1, 63, 64, 64), (1, 64, 64, 47)):
        assert not quarters_pay(mx.zeros(shape))
    assert not quarters_pay(mx.zeros((1, 64, 64, 64), mx.float16))
