import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.models.flashvsr import block_attention
from LTX_2_MLX.models.flashvsr.block_attention import (
    FORMS,
    WINDOW,
    Sparsity,
    attend,
    fastest_form,
    locality,
    pool,
    select,
    topk_ratio,
)
from LTX_2_MLX.ops.device import as_backend

HEADS, DIM = 3, 10


def windows(count: int, seed: int) -> mx.array:
    return mx.random.normal((HEADS, count * WINDOW, DIM), key=mx.random.key(seed))


def plain_attention(queries, keys, values, mask, block):
    """Softmax over the tokens of kept blocks, written out; nothing kept gives 0."""
    queries, keys, values = (np.array(part, np.float64) for part in (queries, keys, values))
    kept = np.repeat(np.repeat(mask, WINDOW, axis=1), block, axis=2)
    scores = np.where(kept, queries @ keys.swapaxes(1, 2) / np.sqrt(DIM), -np.inf)
    weights = np.exp(scores - np.where(kept.any(-1), scores.max(-1), 0)[..., None])
    return (weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)) @ values


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [WINDOW, WINDOW // 2])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_attention_over_kept_blocks_is_softmax_over_their_tokens(block, share, form, monkeypatch):
    # Small enough for several parts in every form.
    monkeypatch.setattr(block_attention, "max_elements", lambda: WINDOW * WINDOW * 9)
    queries, keys, values = windows(5, 1), windows(4, 2), windows(4, 3)
    mask = np.random.default_rng(4).random((HEADS, 5, 4 * WINDOW // block)) < share
    mask[1, 3] = False
    wanted = plain_attention(queries, keys, values, mask, block)
    got = np.array(attend(queries, keys, values, mask, form))
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    assert not got.reshape(HEADS, 5, -1)[1, 3].any()


def test_many_windows_that_keep_the_same_blocks_are_computed_in_parts(monkeypatch):
    queries, keys, values = windows(5, 1), windows(4, 2), windows(4, 3)
    mask = np.ones((HEADS, 5, 4), bool)
    wanted = plain_attention(queries, keys, values, mask, WINDOW)
    monkeypatch.setattr(block_attention, "max_elements", lambda: WINDOW * WINDOW * 9)
    np.testing.assert_allclose(np.array(attend(queries, keys, values, mask)), wanted, atol=2e-6)


@pytest.mark.parametrize(("backend", "forms"), [("cpu", ["patterns"] * 3), ("gpu", ["patterns", "masked", "patterns"])])
def test_pairs_are_gathered_on_a_cpu_and_masked_on_a_gpu_that_keeps_many(backend, forms):
    few, many, all_of_them = (np.arange(100).reshape(1, 10, 10) < count for count in (10, 60, 100))
    with as_backend(backend):
        assert [fastest_form(mask) for mask in (few, many, all_of_them)] == forms


def test_sparse_equals_dense_when_the_ratio_covers_all():
    near = locality(2, 3, 15)
    pooled, keys = pool(windows(6, 1), WINDOW), pool(windows(18, 2), WINDOW)
    covering = select(pooled, keys, near, Sparsity("block", topk_ratio=100, local_range=15))
    dense = select(pooled, keys, near, Sparsity("dense"))
    assert covering.all() and dense.all() and covering.shape == dense.shape


def test_published_rule_drops_the_weakest_pair_even_when_the_ratio_covers_all():
    near = locality(2, 3, 15)
    pooled, keys = pool(windows(12, 1), WINDOW), pool(windows(18, 2), WINDOW)
    kept = select(pooled, keys, near, Sparsity("block", topk_ratio=100, local_range=15, drop_least=True))
    # Two slices of queries, so two pairs of each head.
    assert (~kept).reshape(HEADS, 2, -1).sum(axis=-1).tolist() == [[1, 1]] * HEADS


@pytest.mark.parametrize(("kind", "blocks"), [("block", 12), ("sage", 24)])
def test_as_many_pairs_stay_as_the_ratio_says(kind, blocks):
    near, sparsity = locality(2, 2, 3), Sparsity(kind, topk_ratio=1.3, local_range=3)
    keys = pool(windows(12, 2), sparsity.keys_per_block)
    kept = select(pool(windows(8, 1), WINDOW), keys, near, sparsity)
    assert kept.shape == (HEADS, 8, blocks)
    assert (kept.reshape(HEADS, 2, -1).sum(axis=-1) == int(16 * 1.3) - 1).all()


def test_windows_outside_the_local_range_are_never_kept():
    near = locality(1, 7, 3)
    kept = select(pool(windows(7, 1), WINDOW), pool(windows(14, 2), WINDOW), near, Sparsity("block", 100, 3))
    assert (kept == np.tile(near, (1, 2))).all()


def test_even_local_range_reaches_one_further_back():
    near = locality(1, 5, 2)
    assert near[2].tolist() == [False, True, True, False, False]
    assert near[0].tolist() == [True, False, False, False, False]


def test_ratio_is_for_the_published_size():
    assert topk_ratio(2, 768, 1280) == 2
    assert topk_ratio(2, 1536, 1280) == 1
