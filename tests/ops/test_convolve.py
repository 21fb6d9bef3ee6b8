import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.convolve import convolve_3x3


@pytest.mark.parametrize("size", [(5, 7), (33, 41)], ids=["few pixels", "many"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("with_bias", [True, False])
def test_both_ways_are_the_frameworks_convolution(size, batch, with_bias):
    mx.random.seed(1)
    x, weight = mx.random.normal((batch, *size, 5)), mx.random.normal((6, 3, 3, 5))
    bias = mx.random.normal((6,)) if with_bias else None
    wanted = mx.conv2d(x, weight, padding=1) + (bias if with_bias else 0)
    got = convolve_3x3(x, weight, bias)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(np.array(got), np.array(wanted), atol=1e-4)


def test_half_precision_stays_half_precision():
    made = convolve_3x3(mx.ones((1, 40, 40, 3), mx.float16), mx.ones((2, 3, 3, 3), mx.float16))
    assert made.dtype == mx.float16 and made[0, 20, 20].tolist() == [27, 27]
