import mlx.core as mx
import numpy as np

from LTX_2_MLX.layers.transformer import ModulationRows, TimestepModulation, distinct_timesteps, sinusoid


def test_sinusoid_has_cosines_then_sines_from_fast_to_slow():
    timesteps = np.array([0.0, 3.5, 1000.0])
    angles = timesteps[:, None] * np.exp(-np.log(10000) * np.arange(128) / 128)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    # Half a unit in the last place of an angle near 1000 is 3e-5.
    assert np.allclose(sinusoid(mx.array(timesteps)), expected, atol=1e-4)


def test_rows_of_distinct_timesteps_equal_rows_of_every_token():
    timesteps = mx.array([[0.0, 0.5, 0.5], [0.25, 0.0, 0.5]])[..., None]
    modulation, table = TimestepModulation(6, rows=4), mx.array(np.arange(24, dtype=np.float32).reshape(4, 6))
    values, index = distinct_timesteps(timesteps)
    assert values.shape == (3,) and index.shape == (2, 3)
    gathered = ModulationRows(modulation(values)[0], index).rows(0, 1, 2, 3, table=table)
    each = (modulation(timesteps.reshape(-1))[0] + table).reshape(2, 3, 4, 6)
    for row in range(4):
        assert np.allclose(gathered[row], each[:, :, row], atol=1e-6)


def test_samples_with_a_single_timestep_take_a_single_row():
    values, index = distinct_timesteps(mx.array([[0.7] * 5, [0.2] * 5])[..., None])
    assert np.allclose(values, [0.2, 0.7]) and index.tolist() == [[1], [0]]
    values, index = distinct_timesteps(mx.full((2, 5, 1), 0.7))
    assert np.allclose(values, [0.7]) and index.tolist() == [[0], [0]]
    (row,) = ModulationRows(mx.ones((1, 2, 6)), index).rows(1)
    assert row.shape == (2, 1, 6)


def test_rows_take_the_dtype_of_the_weights_and_tables_do_not_change_it():
    modulation = TimestepModulation(6, rows=4)
    modulation.set_dtype(mx.bfloat16)
    rows, embedded = modulation(mx.array([1000.0, 0.1]))
    table = mx.zeros((4, 6), dtype=mx.float32)
    assert rows.dtype == embedded.dtype == mx.bfloat16
    (row,) = ModulationRows(rows, mx.array([[0], [1]])).rows(3, table=table)
    assert row.dtype == mx.bfloat16
