import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops import streams
from LTX_2_MLX.ops.streams import in_bands, side_by_side


def test_results_come_in_the_order_of_the_parts():
    made = side_by_side(lambda part: mx.full((2,), part) + 1, [3, 1, 4, 1, 5])
    assert [part.tolist() for part in made] == [[4, 4], [2, 2], [5, 5], [2, 2], [6, 6]]


@pytest.mark.parametrize("height", [5, 32, 37])
def test_bands_of_a_convolution_are_the_whole(height):
    mx.random.seed(4)
    x, weight = mx.random.normal((2, height, 41, 3)), mx.random.normal((3, 3, 3, 3))

    def layer(band: mx.array) -> mx.array:
        return mx.tanh(mx.conv2d(band, weight, padding=1)) + band

    np.testing.assert_allclose(np.array(in_bands(layer, x)), np.array(layer(x)), atol=1e-5)


@pytest.mark.skipif(streams._openblas("openblas_get_num_threads") is None, reason="OpenBLAS is not in the process")
@pytest.mark.parametrize("fails", [False, True])
def test_openblas_has_its_threads_again_afterwards(fails):
    threads = streams._openblas("openblas_get_num_threads")
    before, inside = threads(), []

    def work(part: int) -> mx.array:
        inside.append(threads())
        if fails:
            raise RuntimeError
        return mx.ones((part, part))

    try:
        streams._openblas("openblas_set_num_threads")(3)
        if fails:
            with pytest.raises(RuntimeError):
                side_by_side(work, [2])
        else:
            side_by_side(work, [2, 3])
        assert threads() == 3 and set(inside) == {1}
    finally:
        streams._openblas("openblas_set_num_threads")(before)
