"""Arrays that processes exchange, without other processes."""

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX import OPENBLAS_LOADED
from LTX_2_MLX.ops.collective import Group, share_of
from LTX_2_MLX.ops.device import on_cpu


class Alike(Group):
    """Every process has the arrays of this one."""

    def gather(self, array):
        return mx.stack([array] * self.size)


def test_gathered_arrays_keep_type_and_shape_even_without_values():
    arrays = [mx.arange(6, dtype=mx.uint8).reshape(2, 3), mx.zeros((0, 4), mx.float16), mx.array([0.5], mx.bfloat16)]
    for gathered in Alike(0, 2).gather_arrays(arrays):
        assert [array.dtype for array in gathered] == [mx.uint8, mx.float16, mx.bfloat16]
        assert [array.shape for array in gathered] == [(2, 3), (0, 4), (1,)]
        np.testing.assert_array_equal(np.array(gathered[0]), np.array(arrays[0]))
        assert gathered[2].item() == 0.5


@pytest.mark.skipif(not (OPENBLAS_LOADED and on_cpu()), reason="other products may round a share's rows differently")
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("num_tokens", [26, 60, 99, 121])
def test_products_of_a_share_have_the_bits_of_all_tokens(num_tokens, size):
    # So few values that BLAS takes one thread, whose number of rows is that of the share.
    tokens = mx.random.normal((1, num_tokens, 16), key=mx.random.key(0))
    weights = mx.random.normal((16, 24), key=mx.random.key(1))
    expected = np.array(tokens @ weights)
    together = np.zeros_like(expected)
    for rank in range(size):
        # Of tokens that two processes have, those of the later one count.
        own = share_of(Group(rank, size), num_tokens, [24], []).tokens
        together[:, own] = np.array(tokens[:, own] @ weights)
    np.testing.assert_array_equal(together, expected)
