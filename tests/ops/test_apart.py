import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.apart import cell_means, cells_apart, convolve_apart, doubled_apart, places_apart
from LTX_2_MLX.ops.resize import resize

PLANES = mx.array(np.random.default_rng(0).random((2, 3, 16, 48), dtype=np.float32))


def joined(apart: mx.array) -> np.ndarray:
    """``(B, C, 2, 2, H, W)`` to ``(B, 2 * H, 2 * W, C)``."""
    batch, channels, _, _, height, width = apart.shape
    return np.array(apart.transpose(0, 4, 2, 5, 3, 1)).reshape(batch, 2 * height, 2 * width, channels)


@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_means_of_cells_are_the_bilinear_reduction(step):
    wanted = resize(PLANES.transpose(0, 2, 3, 1), 16 // step, 48 // step)
    np.testing.assert_allclose(joined(cell_means(cells_apart(PLANES, step))), np.array(wanted), atol=1e-6)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_places_are_those_of_the_cells(step):
    columns = mx.broadcast_to(mx.arange(48, dtype=mx.float32), (1, 1, 16, 48))
    rows = mx.broadcast_to(mx.arange(16, dtype=mx.float32)[:, None], (1, 1, 16, 48))
    along, down = places_apart(48, step)[:, None, :, None, :], places_apart(16, step)[:, None, :, None, :, None]
    assert mx.array_equal(cells_apart(columns, step), mx.broadcast_to(along, cells_apart(columns, step).shape))
    assert mx.array_equal(cells_apart(rows, step), mx.broadcast_to(down, cells_apart(rows, step).shape))


def test_doubled_planes_are_the_bilinear_enlargement():
    wanted = resize(PLANES.transpose(0, 2, 3, 1), 32, 96)
    np.testing.assert_allclose(joined(doubled_apart(PLANES)), np.array(wanted), atol=1e-6)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
def test_convolution_is_the_frameworks_at_stride_2(dtype):
    mx.random.seed(2)
    weight, bias = mx.random.normal((5, 3, 3, 3)), mx.random.normal((5,))
    wanted = mx.conv2d(PLANES.transpose(0, 2, 3, 1), weight, stride=2, padding=1) + bias
    apart = cell_means(cells_apart(PLANES, 1))
    parts = mx.split(apart.astype(dtype), [1], axis=1)
    got = convolve_apart(parts, weight.astype(dtype), bias.astype(dtype))
    assert got.dtype == dtype and got.shape == wanted.shape
    np.testing.assert_allclose(np.array(got), np.array(wanted), atol=1e-5 if dtype == mx.float32 else 2e-2)
