"""Attention in groups of queries."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops import attention as module
from LTX_2_MLX.ops.attention import attention, is_fused, scores_bytes
from LTX_2_MLX.ops.device import Backend, as_backend


def _arrays(queries: int, keys: int, head_dim: int = 64) -> list[mx.array]:
    random = np.random.default_rng(3)
    return [mx.array(random.standard_normal((2, 3, n, head_dim)), mx.float32) for n in (queries, keys, keys)]


def _largest_error(result: mx.array, expected: mx.array) -> float:
    return float(mx.abs(result - expected).max())


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("mask_rows", [None, 1, 101])
def test_groups_equal_the_whole(backend: Backend, mask_rows: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCORES_BYTES", {"cpu": 1, "gpu": 1})
    monkeypatch.setattr(module, "_LAUNCH_OPERATIONS", 1)
    queries, keys, values = _arrays(101, 77)
    mask = None
    if mask_rows is not None:
        mask = mx.array(np.random.default_rng(4).random((2, 1, mask_rows, 77)) < 0.8)
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.125, mask=mask)
    with as_backend(backend):
        result = attention(queries, keys, values, scale=0.125, mask=mask)
    assert result.shape == expected.shape
    assert _largest_error(result, expected) < 1e-5


def test_no_launch_exceeds_the_limit_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LAUNCH_OPERATIONS", 4 * 2 * 3 * 77 * 64 * 40)
    lengths = []
    whole = mx.fast.scaled_dot_product_attention

    def record(queries: mx.array, keys: mx.array, values: mx.array, **options: Any) -> mx.array:
        lengths.append(queries.shape[2])
        return whole(queries, keys, values, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", record)
    with as_backend("gpu"):
        attention(*_arrays(101, 77), scale=0.125)
    assert lengths == [32, 32, 32, 5]


def test_the_gradient_passes_through_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys, values = _arrays(70, 50)

    def loss(x: mx.array) -> mx.array:
        return (attention(x, keys, values, scale=0.125) ** 2).sum()

    expected = mx.grad(loss)(queries)
    monkeypatch.setattr(module, "_SCORES_BYTES", {"cpu": 1, "gpu": 1})
    assert _largest_error(mx.grad(loss)(queries), expected) < 1e-4


@pytest.mark.parametrize(
    ("backend", "cuda", "dtype", "head_dim", "fused"),
    [
        ("cpu", False, mx.float32, 128, False),
        ("gpu", False, mx.float32, 128, True),
        ("gpu", False, mx.bfloat16, 64, True),
        ("gpu", False, mx.bfloat16, 40, False),
        ("gpu", False, mx.bfloat16, 256, False),
        ("gpu", True, mx.float32, 128, False),
        ("gpu", True, mx.bfloat16, 40, True),
        ("gpu", True, mx.float16, 256, False),
    ],
)
def test_scores_are_planned_where_no_fused_kernel_exists(
    backend: Backend, cuda: bool, dtype: mx.Dtype, head_dim: int, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx.cuda, "is_available", lambda: cuda)
    with as_backend(backend):
        assert is_fused(head_dim, dtype) is fused
        planned = scores_bytes(32, 17160, 17160, head_dim=head_dim, dtype=dtype)
    assert (planned == 0) is fused
    # All scores at once would be 18 GB in 16 bit.
    assert planned < 4 * 2**30


def test_memory_on_a_cpu_is_planned_and_does_not_follow_the_tokens_squared() -> None:
    arrays = _arrays(3000, 3000)
    mx.eval(arrays)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(attention(*arrays, scale=0.125))
    used = mx.get_peak_memory() - before
    whole = 6 * 3000 * 3000 * 4
    planned = scores_bytes(6, 3000, 3000, head_dim=64, dtype=mx.float32)
    results = 2 * arrays[0].nbytes
    assert used < whole
    assert used <= planned + results
