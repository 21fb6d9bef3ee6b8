import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.ops.transposed import doubled


def test_plain_convolution_gives_what_the_transposed_one_gives():
    mx.random.seed(3)
    layer = nn.ConvTranspose2d(5, 6, 4, stride=2, padding=1)
    layer.bias = mx.random.normal((6,))
    x = mx.random.normal((2, 3, 7, 5))
    assert doubled(layer, x).shape == (2, 6, 14, 6)
    np.testing.assert_allclose(np.array(doubled(layer, x)), np.array(layer(x)), atol=2e-6)
