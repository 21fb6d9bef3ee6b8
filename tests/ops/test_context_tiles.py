import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from LTX_2_MLX.ops.context_tiles import in_tiles, pad_reflected


@pytest.fixture
def network():
    """Two convolutions of 3 x 3, then each pixel three times: it looks two pixels far."""
    mx.random.seed(1)
    first, second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 2, 3, padding=1)

    def larger(pixels):
        return mx.repeat(mx.repeat(second(mx.maximum(first(pixels), 0)), 3, axis=1), 3, axis=2)

    return larger


PIXELS = mx.array(np.random.default_rng(0).random((2, 13, 22, 3), dtype=np.float32))


@pytest.mark.parametrize("tile", [3, 5, 13, 40])
def test_tiles_with_all_the_context_are_the_whole(network, tile):
    got = in_tiles(network, PIXELS, scale=3, tile=tile, context=2)
    np.testing.assert_allclose(np.array(got), np.array(network(PIXELS)), atol=1e-6)


def test_tiles_with_too_little_context_differ_at_their_edges_only(network):
    wide = PIXELS[:, :11]
    got, whole = np.array(in_tiles(network, wide, scale=3, tile=11, context=1)), np.array(network(wide))
    wrong = np.abs(got - whole).max(axis=(0, 1, 3)) > 1e-5
    assert wrong.any() and set(np.flatnonzero(wrong) // 3) <= {10, 11}


def test_reflection_continues_without_doubling_the_edge():
    padded = np.array(pad_reflected(PIXELS, 2, 3))
    assert padded.shape == (2, 15, 25, 3)
    assert np.array_equal(padded[:, 13:, :22], np.array(PIXELS)[:, [11, 10]])
    assert np.array_equal(padded[:, :13, 22:], np.array(PIXELS)[:, :, [20, 19, 18]])


def test_one_row_is_continued_by_itself():
    assert np.array_equal(np.array(pad_reflected(PIXELS[:, :1], 1, 0))[:, 1], np.array(PIXELS)[:, 0])
