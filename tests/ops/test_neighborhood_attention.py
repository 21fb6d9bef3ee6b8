"""Neighbourhood attention against its definition, query by query."""

from itertools import product

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.neighborhood_attention import FrameSpan, default_block, neighborhood_attention


def plain(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, kernel: tuple[int, ...], scale: float):
    """Each query by itself, in float64."""
    output = np.zeros(queries.shape)
    for position in product(*(range(length) for length in queries.shape[1:4])):
        starts = [
            min(max(i - size // 2, 0), length - size)
            for i, size, length in zip(position, kernel, queries.shape[1:4], strict=True)
        ]
        window = (slice(None), *(slice(start, start + size) for start, size in zip(starts, kernel, strict=True)))
        near_keys = keys[window].reshape(len(keys), -1, *keys.shape[-2:])
        near_values = values[window].reshape(near_keys.shape)
        scores = scale * np.einsum("bhd,bnhd->bhn", queries[(slice(None), *position)], near_keys)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        output[(slice(None), *position)] = np.einsum("bhn,bnhd->bhd", weights, near_values)
    return output


@pytest.mark.parametrize(
    ("shape", "kernel", "block"),
    [
        ((2, 5, 7, 6), (3, 5, 3), (2, 3, 4)),
        ((1, 3, 9, 11), (3, 7, 5), None),
        ((1, 11, 12, 5), (11, 1, 5), (4, 4, 4)),
        ((1, 4, 4, 4), (1, 1, 1), None),
    ],
)
def test_blocks_give_what_each_query_gets_by_itself(shape, kernel, block):
    rng = np.random.default_rng(3)
    queries, keys, values = (rng.normal(size=(*shape, 2, 8)).astype(np.float32) for _ in range(3))
    arrays = [mx.array(x) for x in (queries, keys, values)]
    # One block at a time, so that groups are joined in the right order.
    output = neighborhood_attention(*arrays, kernel, scale=0.4, block=block, group_bytes=1)
    expected = plain(queries.astype(np.float64), keys.astype(np.float64), values.astype(np.float64), kernel, 0.4)
    assert np.abs(np.array(output) - expected).max() < 2e-6
    many = neighborhood_attention(*arrays, kernel, scale=0.4)
    assert np.abs(np.array(many) - expected).max() < 2e-6


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (3, 8), (8, 11)])
def test_frames_by_themselves_get_what_they_get_in_the_whole_clip(start, stop):
    rng = np.random.default_rng(4)
    queries, keys, values = (mx.array(rng.normal(size=(1, 11, 6, 5, 2, 8)).astype(np.float32)) for _ in range(3))
    kernel = (5, 3, 5)
    whole = neighborhood_attention(queries, keys, values, kernel)
    first = FrameSpan(start, 0, 11).window_starts(1, 5)[0]
    last = FrameSpan(stop - 1, 0, 11).window_starts(1, 5)[0] + 5
    seen = slice(first, last)
    span = FrameSpan(start, first, 11)
    part = neighborhood_attention(queries[:, start:stop], keys[:, seen], values[:, seen], kernel, span=span)
    assert float(mx.abs(part - whole[:, start:stop]).max()) < 2e-6


def test_gathered_keys_stay_within_the_given_bytes(monkeypatch):
    sizes = []
    attention = mx.fast.scaled_dot_product_attention

    def recorded(queries, keys, values, **options):
        sizes.append(keys.nbytes + values.nbytes)
        return attention(queries, keys, values, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", recorded)
    x = mx.random.normal((1, 8, 16, 24, 2, 8))
    limit = 400_000
    neighborhood_attention(x, x, x, (3, 5, 5), group_bytes=limit)
    assert len(sizes) > 1
    assert max(sizes) <= limit


def test_wide_windows_are_taken_in_small_blocks():
    assert default_block((11, 11, 11)) == (4, 4, 4)
    assert default_block((3, 7, 7)) == (4, 8, 8)
