import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.layers.transformer import RotaryEmbedding, frequency_ladder, rotate


def _random(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def _table(positions, *, width=24, heads=3, axes=2, **settings):
    return RotaryEmbedding(width=width, heads=heads, max_positions=(7.0, 11.0)[:axes], **settings).table(positions)


@pytest.mark.parametrize("pairing", ["split", "interleaved"])
def test_rotation_keeps_lengths_and_moves_every_turning_pair(pairing):
    x = mx.array(_random(2, 5, 3, 8))
    turned = rotate(x, _table(_random(2, 2, 5), pairing=pairing))
    assert np.allclose(mx.linalg.norm(turned, axis=-1), mx.linalg.norm(x, axis=-1), atol=1e-5)
    assert np.abs(turned - x).max() > 0.1


@pytest.mark.parametrize("pairing", ["split", "interleaved"])
def test_product_of_query_and_key_depends_on_their_distance_alone(pairing):
    query, key = (mx.array(_random(1, 1, 3, 8) + n) for n in (0, 1))

    def product(first, second):
        tables = [_table(np.array([[[x]]], np.float32), axes=1, theta=30.0, pairing=pairing) for x in (first, second)]
        return mx.sum(rotate(query, tables[0]) * rotate(key, tables[1]), axis=-1)

    assert np.allclose(product(1.0, 3.0), product(4.0, 6.0), atol=1e-4)
    assert not np.allclose(product(1.0, 3.0), product(1.0, 4.0), atol=1e-2)


def test_interleaved_is_split_with_the_elements_of_a_head_in_another_order():
    x, positions = _random(1, 5, 3, 8), _random(1, 2, 5)
    order = np.arange(8).reshape(2, 4).T.reshape(-1)
    split = np.array(rotate(mx.array(x), _table(positions, pairing="split")))
    interleaved = np.array(rotate(mx.array(x[..., order]), _table(positions, pairing="interleaved")))
    assert np.allclose(split[..., order], interleaved, atol=1e-6)


def test_bounds_count_by_their_middle():
    starts = np.abs(_random(1, 2, 5))
    bounds = np.stack([starts, starts + 2], axis=-1)
    assert mx.array_equal(_table(bounds).cos, _table((starts + (starts + 2)) / 2).cos)


def test_what_the_axes_do_not_fill_stands_in_front_and_does_not_turn():
    # 13 pairs over 2 axes: 6 frequencies each, one pair left.
    table = _table(_random(1, 2, 5), width=26, heads=1)
    assert table.cos.shape == (1, 5, 1, 13)
    cos, sin = np.array(table.cos), np.array(table.sin)
    assert np.all(cos[..., 0] == 1) and np.all(sin[..., 0] == 0)
    assert not np.any(cos[..., 1:] == 1)


def test_frequencies_run_from_slow_to_fast_with_axes_alternating():
    positions = np.zeros((1, 2, 1), np.float32)
    positions[0, 0] = 7.0  # The first axis at its limit (fraction 1), the second at its start (fraction -1).
    sines = np.array(_table(positions, theta=100.0).sin).reshape(-1)
    ladder = frequency_ladder(24, 2, 100.0)
    assert np.allclose(sines[0::2], np.sin(ladder), atol=1e-5) and np.allclose(sines[1::2], -np.sin(ladder), atol=1e-5)
    assert np.isclose(ladder[0], np.pi / 2) and np.isclose(ladder[-1], 100 * np.pi / 2)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_ladder_of_one_frequency_is_half_a_turn(precision):
    assert np.allclose(frequency_ladder(7, 3, 10000.0, precision), [np.pi / 2])


def test_samples_with_other_positions_get_their_own_angles():
    positions = _random(2, 2, 5)
    both = _table(positions)
    for sample in range(2):
        assert mx.array_equal(both.cos[sample], _table(positions[sample : sample + 1]).cos[0])


def test_embedding_makes_one_table_for_equal_positions_and_keeps_the_last_two():
    embedding = RotaryEmbedding(width=24, heads=3, max_positions=(7.0, 11.0))
    first, second, third = (_random(1, 2, 5) + n for n in range(3))
    table = embedding(first, mx.float32)
    assert embedding(mx.array(np.concatenate([first, first])), mx.float32) is table
    assert embedding(first, mx.bfloat16) is not table
    assert embedding(first, mx.bfloat16).cos.dtype == mx.bfloat16
    embedding(second, mx.float32)
    cached = embedding(third, mx.float32)
    assert embedding(first, mx.float32) is not table
    assert embedding(third, mx.float32) is cached
