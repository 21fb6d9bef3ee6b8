"""Attention in groups of queries."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops import attention as module
from LTX_2_MLX.ops.attention import attention, is_fused, scores_bytes
from LTX_2_MLX.ops.cpu import numpy_forms as cpu
from LTX_2_MLX.ops.device import Backend, as_backend


def _arrays(queries: int, keys: int, head_dim: int = 64) -> list[mx.array]:
    random = np.random.default_rng(3)
    return [mx.array(random.standard_normal((2, 3, n, head_dim)), mx.float32) for n in (queries, keys, keys)]


def _largest_error(result: mx.array, expected: mx.array) -> float:
    return float(mx.abs(result - expected).max())


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of 32 queries on both backends, however short the runs of tokens."""
    for owner in (module, cpu):
        monkeypatch.setattr(owner, "_SCORES_BYTES", 1)
    monkeypatch.setattr(cpu, "_CALL_SCORES", 1)
    monkeypatch.setattr(cpu, "_HEAD_SCORES", 0)
    monkeypatch.setattr(module, "_LAUNCH_OPERATIONS", 1)


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("mask_rows", [None, 1, 101])
def test_groups_equal_the_whole(backend: Backend, mask_rows: int | None) -> None:
    queries, keys, values = _arrays(101, 77)
    mask = None
    if mask_rows is not None:
        mask = mx.array(np.random.default_rng(4).random((2, 1, mask_rows, 77)) < 0.8)
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.125, mask=mask)
    with as_backend(backend):
        result = attention(queries, keys, values, scale=0.125, mask=mask)
    assert result.shape == expected.shape
    assert _largest_error(result, expected) < 1e-5


@pytest.mark.parametrize(("heads", "tokens", "ours"), [(1, 128, True), (32, 22, False), (32, 64, True), (1, 64, False)])
def test_short_runs_of_tokens_take_the_plain_form(
    heads: int, tokens: int, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(cpu, "attention", lambda queries, keys, values, **options: taken.append(True) or values)
    x = mx.ones((1, heads, tokens, 16))
    with as_backend("cpu"):
        attention(x, x, x, scale=0.25)
    assert bool(taken) is ours


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


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_gradient_passes_through_groups(backend: Backend) -> None:
    queries, keys, values = _arrays(70, 50)

    def loss(x: mx.array) -> mx.array:
        return (attention(2 * x, keys, values, scale=0.125) ** 2).sum()

    def plain(x: mx.array) -> mx.array:
        return (mx.fast.scaled_dot_product_attention(2 * x, keys, values, scale=0.125) ** 2).sum()

    with as_backend(backend):
        gradient = mx.grad(loss)(queries)
    assert _largest_error(gradient, mx.grad(plain)(queries)) < 1e-4


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("rows", [1, 70])
def test_added_weights_and_views_of_one_array(rows: int) -> None:
    together = mx.random.normal((2, 70, 3, 3, 64), key=mx.random.key(5))
    queries, keys, values = (together[:, :, i].swapaxes(1, 2) for i in range(3))
    mask = mx.random.normal((2, 3, rows, 70), key=mx.random.key(6))
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.125, mask=mask)
    with as_backend("cpu"):
        assert _largest_error(attention(queries, keys, values, scale=0.125, mask=mask), expected) < 1e-5


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_added_weights_in_16_bit(dtype: mx.Dtype) -> None:
    queries, keys, values = (array.astype(dtype) for array in _arrays(70, 50))
    mask = mx.random.normal((2, 1, 70, 50), key=mx.random.key(7)).astype(dtype)
    wide = [array.astype(mx.float32) for array in (queries, keys, values, mask)]
    expected = mx.fast.scaled_dot_product_attention(*wide[:3], scale=0.125, mask=wide[3])
    with as_backend("cpu"):
        result = attention(queries, keys, values, scale=0.125, mask=mask)
    assert result.dtype == dtype
    assert _largest_error(result.astype(mx.float32), expected) < 1e-2


@pytest.mark.usefixtures("small_groups")
def test_a_query_that_may_attend_to_nothing_attends_to_all() -> None:
    queries, keys, values = _arrays(40, 50)
    with as_backend("cpu"):
        result = attention(queries, keys, values, scale=0.125, mask=mx.zeros((1, 1, 1, 50), dtype=mx.bool_))
    assert _largest_error(result, mx.broadcast_to(values.mean(axis=2, keepdims=True), result.shape)) < 1e-6


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
    assert (planned == 0) is (fused or backend == "cpu")
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
