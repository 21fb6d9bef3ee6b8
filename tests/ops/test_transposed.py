import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from LTX_2_MLX.ops.resample import pixel_shuffle
from LTX_2_MLX.ops.transposed import doubled_planes


@pytest.mark.parametrize(("shuffle", "outputs"), [(1, None), (1, 5), (2, None), (2, 3)])
def test_plain_convolution_gives_what_the_transposed_one_gives_shuffled(shuffle, outputs):
    mx.random.seed(3)
    layer = nn.ConvTranspose2d(5, 20, 4, stride=2, padding=1)
    layer.bias = mx.random.normal((20,))
    x = mx.random.normal((2, 3, 7, 5))
    wanted = pixel_shuffle(layer(x), (shuffle, shuffle)).transpose(0, 3, 1, 2)[:, :outputs]
    got = doubled_planes(layer, x, shuffle=shuffle, outputs=outputs)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(np.array(got), np.array(wanted), atol=2e-6)
