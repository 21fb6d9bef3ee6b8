"""Attention in groups of queries on all cores, with NumPy's exponential.

MLX's softmax keeps one core busy and takes an exponential value by value; NumPy's uses the processor's vectors. The
scores of one group stay in the caches.
"""

from functools import partial

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.cpu.gradient import with_plain_gradient
from LTX_2_MLX.ops.cpu.threads import on_all_cores

# Bytes of the scores of one group of one head: fewer make the products slow, more leave the caches.
_SCORES_BYTES = 4 * 2**20
_FEWEST_QUERIES = 32
# Rows whose softmax is taken at once.
_ROWS = 16
# With fewer scores MLX's own form is taken. The two are even at four times as many; plans of memory count on one form.
_FEW_SCORES = 2**14


def is_faster(queries: mx.array, keys: mx.array) -> bool:
    """Whether this form is the faster one: for all but short runs of tokens."""
    batch, heads, num_queries, _ = queries.shape
    return batch * heads * num_queries * keys.shape[2] >= _FEW_SCORES


def attention(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: mx.array | None = None
) -> mx.array:
    """Softmax of the scaled scores, times the values, evaluated; gradients pass through.

    Args:
        queries: ``(B, heads, N, D)``, float32.
        keys: ``(B, heads, L, D)``, float32.
        values: ``(B, heads, L, D)``, float32.
        scale: Factor of the scores.
        mask: ``(B, 1 or heads, N or 1, L)``, boolean (True attends) or added to the scores,
            of any dtype.

    Returns:
        ``(B, heads, N, D)``.
    """
    return with_plain_gradient(
        partial(_attend, scale=scale, mask=mask),
        partial(mx.fast.scaled_dot_product_attention, scale=scale, mask=mask),
        queries,
        keys,
        values,
    )


def _attend(queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: mx.array | None) -> mx.array:
    batch, heads, num_queries, _ = queries.shape
    num_keys = keys.shape[2]
    attended = mx.zeros((batch, heads, num_queries, values.shape[-1]))
    mx.eval(queries, keys, values, attended)
    # The arrays' own memory.
    query_rows, key_rows, value_rows, result = (
        np.array(array, copy=False) for array in (queries, keys, values, attended)
    )
    weights = None
    if mask is not None:
        # NumPy has no bfloat16.
        mask = mask if mask.dtype == mx.bool_ else mask.astype(mx.float32)
        weights = np.broadcast_to(np.asarray(mask), (batch, heads, num_queries, num_keys))
    size = _group_size(num_keys)

    def attend_group(group: tuple[int, int, int]) -> None:
        sample, head, start = group
        rows = slice(start, start + size)
        scores = (query_rows[sample, head, rows] * np.float32(scale)) @ key_rows[sample, head].T
        sums = _exponentials(scores, None if weights is None else weights[sample, head, rows])
        out = result[sample, head, rows]
        np.matmul(scores, value_rows[sample, head], out=out)
        out /= sums

    starts = range(0, num_queries, size)
    on_all_cores(attend_group, [(b, h, start) for b in range(batch) for h in range(heads) for start in starts])
    return attended


def _group_size(num_keys: int) -> int:
    """Queries of one group."""
    return max(_SCORES_BYTES // (num_keys * mx.float32.size), _FEWEST_QUERIES)


def _exponentials(scores: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Replace ``(N, L)`` scores by their exponentials over each row's largest; the sums of the rows, ``(N, 1)``."""
    sums = np.empty((len(scores), 1), np.float32)
    for start in range(0, len(scores), _ROWS):
        rows = scores[start : start + _ROWS]
        if mask is not None and mask.dtype == bool:
            np.copyto(rows, np.finfo(np.float32).min, where=~mask[start : start + _ROWS])
        elif mask is not None:
            rows += mask[start : start + _ROWS]
        rows -= rows.max(axis=1, keepdims=True)
        np.exp(rows, out=rows)
        rows.sum(axis=1, keepdims=True, out=sums[start : start + _ROWS])
    return sums
