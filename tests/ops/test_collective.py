"""Arrays that processes exchange, without other processes."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.collective import Group


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
