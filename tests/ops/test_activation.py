"""Activations in 16 bit against float64, and the CPU's forms against the plain ones."""

import math

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.activation import gelu_tanh, silu
from LTX_2_MLX.ops.cpu import numpy_forms as cpu
from LTX_2_MLX.ops.device import as_backend


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize(("activation", "exact"), [(gelu_tanh, _gelu), (silu, _silu)])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("few_values", [1, 2**12])
def test_bfloat16_is_rounded_once(activation, exact, backend, few_values, monkeypatch):
    monkeypatch.setattr(cpu, "FEW_VALUES", few_values)
    x = mx.arange(-6, 6, 1 / 64).astype(mx.bfloat16)
    expected = exact(np.array(x.astype(mx.float32), np.float64))
    with as_backend(backend):
        rounded = np.array(activation(x).astype(mx.float32))
    # Half a unit of the last of bfloat16's eight digits; for the smallest values, that of float32's rounding.
    assert (np.abs(rounded - expected) <= np.abs(expected) * 2.0**-8 + 1e-7).all()


@pytest.mark.parametrize("activation", [gelu_tanh, silu])
def test_the_form_of_the_cpu_equals_the_plain_one(activation, monkeypatch):
    x = mx.random.normal((3, 70, 1000), key=mx.random.key(1)) * 5
    x = x.swapaxes(1, 2)
    with as_backend("gpu"):
        plain = activation(x)
        gradient = mx.grad(lambda x: (activation(2 * x) ** 2).sum())(x)
    with as_backend("cpu"):
        result = activation(x)
        assert mx.abs(mx.grad(lambda x: (activation(2 * x) ** 2).sum())(x) - gradient).max() < 1e-5
    assert result.shape == plain.shape
    assert mx.abs(result - plain).max() < 2e-6


def test_large_values_are_kept_without_a_warning(recwarn):
    x = mx.array(np.repeat(np.float32([-1e30, -200, 0, 200, 1e18]), 2**14))
    with as_backend("cpu"):
        for activation in (gelu_tanh, silu):
            result = np.array(activation(x)).reshape(5, -1)[:, 0]
            assert (result == [0, 0, 0, 200, 1e18]).all() or np.allclose(result, [0, 0, 0, 200, 1e18], rtol=1e-6)
    assert not recwarn
