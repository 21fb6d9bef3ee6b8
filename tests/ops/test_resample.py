import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.conv import pixel_shuffle, pixel_unshuffle


@pytest.mark.parametrize("factors", [(2, 3, 1), (1, 2, 2), (3, 2), (4,)])
def test_shuffle_undoes_unshuffle(factors):
    sizes = (4, 6, 12)[-len(factors) :]
    x = mx.random.normal((2, 5, *sizes, 3))
    gathered = pixel_unshuffle(x, factors)
    assert gathered.shape[-1] == 3 * np.prod(factors)
    assert mx.array_equal(pixel_shuffle(gathered, factors), x)


def test_channel_is_the_slowest_part_of_the_index():
    time, height, width, channels = 2, 3, 5, 4
    factors = (2, 2, 3)
    x = np.arange(time * height * width * channels * 12).reshape(1, time, height, width, channels * 12)
    spread = np.array(pixel_shuffle(mx.array(x), factors))
    for c, i, j, k in [(0, 0, 0, 0), (1, 1, 0, 2), (3, 0, 1, 1), (2, 1, 1, 0)]:
        source = x[..., ((c * 2 + i) * 2 + j) * 3 + k]
        assert (spread[:, i::2, j::2, k::3, c] == source).all()
