import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from LTX_2_MLX.layers.streaming import convolve_each
from LTX_2_MLX.ops.row_bands import in_row_bands


@pytest.mark.parametrize(("height", "rows"), [(11, 4), (12, 5), (7, 1), (9, 20)])
def test_bands_equal_the_whole(height, rows):
    first = nn.Conv2d(3, 6, 3, padding=1)
    second = nn.Conv2d(6, 2, 3, padding=1)
    heights = []

    def layers(x):
        heights.append(x.shape[2])
        doubled = mx.repeat(convolve_each(first, x), 2, axis=2)
        return convolve_each(second, doubled)

    x = mx.random.normal((1, 2, height, 9, 3), key=mx.random.key(0))
    banded = in_row_bands(layers, x, rows=rows, halo=2, scale=2)
    assert max(heights) <= rows + 4
    np.testing.assert_allclose(banded, layers(x), atol=1e-5)
