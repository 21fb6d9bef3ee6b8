import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.layers.transformer import fused, gated_add, layer_norm, modulate, rms_norm
from LTX_2_MLX.ops.device import as_backend


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_norms_agree_with_their_formulas_and_use_eps():
    x = _random(2, 3, 7)
    mean, square = x.mean(-1, keepdims=True), (x**2).mean(-1, keepdims=True)
    variance = x.var(-1, keepdims=True)
    assert np.allclose(rms_norm(mx.array(x), 0.5), x / np.sqrt(square + 0.5), atol=1e-6)
    assert np.allclose(layer_norm(mx.array(x), 0.5), (x - mean) / np.sqrt(variance + 0.5), atol=1e-6)


def test_modulation_by_one_row_equals_modulation_by_that_row_for_every_token():
    x, row = mx.array(_random(2, 5, 3)), mx.array(_random(2, 1, 3))
    rows = mx.broadcast_to(row, x.shape)
    assert mx.array_equal(modulate(x, row, row), modulate(x, rows, rows))
    assert np.allclose(modulate(x, row, 2 * row), x * (1 + row) + 2 * row)
    assert np.allclose(gated_add(x, x, row), x + x * row)


def test_norms_and_modulation_keep_bfloat16():
    x = mx.ones((1, 2, 4), dtype=mx.bfloat16)
    for result in (rms_norm(x), layer_norm(x), modulate(x, x, x), gated_add(x, x, x)):
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
