"""Tokens through layers in runs."""

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops import device
from LTX_2_MLX.ops.device import as_backend, in_token_runs


@pytest.fixture
def short_runs(monkeypatch):
    monkeypatch.setattr(device, "FEWEST_ROWS", 5)
    monkeypatch.setattr(device, "RUN_BYTES", 1)


@pytest.mark.usefixtures("short_runs")
@pytest.mark.parametrize(("backend", "lengths"), [("cpu", [4, 4, 5, 4, 5]), ("gpu", [2])])
def test_runs_give_the_whole(backend, lengths):
    tokens = mx.random.normal((2, 11, 3), key=mx.random.key(1))
    weight = mx.random.normal((3, 4), key=mx.random.key(2))
    seen = []

    def layer(run):
        seen.append(run.shape[0])
        return run @ weight

    with as_backend(backend):
        result = in_token_runs([layer, lambda run: mx.maximum(run, 0)], tokens)
    assert seen == lengths and result.shape == (2, 11, 4)
    assert np.allclose(np.array(result), np.array(mx.maximum(tokens @ weight, 0)), atol=1e-6)


@pytest.mark.usefixtures("short_runs")
def test_what_lies_between_the_layers_is_there_for_one_run_at_a_time():
    tokens = mx.random.normal((1000, 2**10), key=mx.random.key(1))
    mx.eval(tokens)

    def layers(run):
        return mx.concatenate([run] * 50, axis=1).sum(axis=1, keepdims=True)

    peaks = []
    for backend in ("gpu", "cpu"):
        with as_backend(backend):
            mx.reset_peak_memory()
            before = mx.get_active_memory()
            mx.eval(in_token_runs([layers], tokens))
            peaks.append(mx.get_peak_memory() - before)
    assert peaks[0] >= 50 * tokens.nbytes and peaks[1] < tokens.nbytes


@pytest.mark.usefixtures("short_runs")
def test_the_gradient_passes_through_runs():
    tokens = mx.random.normal((11, 3), key=mx.random.key(1))
    gradients = []
    for backend in ("gpu", "cpu"):
        with as_backend(backend):
            gradients.append(mx.grad(lambda x: (in_token_runs([mx.exp], 2 * x) ** 2).sum())(tokens))
    assert mx.allclose(*gradients) and mx.abs(gradients[0]).max() > 1
