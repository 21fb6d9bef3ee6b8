import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.layers.transformer import fused, gated_add, modulate
from LTX_2_MLX.ops.device import as_backend


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_modulation_by_one_row_equals_modulation_by_that_row_for_every_token():
    x, row = mx.array(_random(2, 5, 3)), mx.array(_random(2, 1, 3))
    rows = mx.broadcast_to(row, x.shape)
    assert mx.array_equal(modulate(x, row, row), modulate(x, rows, rows))
    assert np.allclose(modulate(x, row, 2 * row), x * (1 + row) + 2 * row)
    assert np.allclose(gated_add(x, x, row), x + x * row)


def test_modulation_keeps_bfloat16():
    x = mx.ones((1, 2, 4), dtype=mx.bfloat16)
    for result in (modulate(x, x, x), gated_add(x, x, x)):
        assert result.dtype == mx.bfloat16


@pytest.mark.parametrize(("backend", "compiled"), [("cpu", False), ("gpu", True)])
def test_the_backend_at_the_call_decides_whether_a_function_is_compiled(backend, compiled):
    traced = []

    @fused
    def shifted(x):
        traced.append(x)
        return x + 1

    with as_backend(backend):
        results = [shifted(mx.array([2.0])).item() for _ in range(2)]
    assert results == [3, 3]
    # A compiled function is traced once and then replayed.
    assert len(traced) == (1 if compiled else 2)
