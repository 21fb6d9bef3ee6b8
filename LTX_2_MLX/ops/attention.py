"""Scaled dot-product attention in groups of queries: bounded memory, bounded launches on a GPU."""

from functools import partial

import mlx.core as mx

from LTX_2_MLX.ops.cpu import numpy_forms as cpu
from LTX_2_MLX.ops.device import on_cpu, with_plain_gradient

# Metal computes attention in blocks of 32 queries, so groups are multiples of them.
_QUERY_BLOCK = 32
# Floating-point operations of one launch on a GPU. macOS ends a command buffer after about 5 s; a base M1, by its
# published rate, takes well under one for this many.
_LAUNCH_OPERATIONS = 1e12
# Bytes of the scores of one group, where no fused kernel keeps them out of memory.
_SCORES_BYTES = 256 * 2**20
# Groups whose scores MLX prepares before those of the first are freed.
_GROUPS_AHEAD = 12
# Head widths of Metal's fused kernels (192 and 256 are listed there too, but run unfused).
# Source: ml-explore/mlx, mlx/backend/metal/scaled_dot_product_attention.cpp at 846d176.
_METAL_HEAD_DIMS = (64, 72, 80, 96, 128)
# Source: ml-explore/mlx, mlx/backend/cuda/scaled_dot_product_attention.cpp at 846d176.
_CUDA_LARGEST_HEAD_DIM = 128
# A CPU's forms for long and for short runs of tokens, to be compared, and which of them float32 arrays take.
LONG_FORM = cpu.attention
SHORT_FORM = mx.fast.scaled_dot_product_attention
takes_long_form = cpu.attention_is_faster


def attention(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: mx.array | None = None
) -> mx.array:
    """Softmax of the scaled scores, times the values; long runs of queries are taken in groups.

    Args:
        queries: ``(B, heads, N, D)``.
        keys: ``(B, heads, L, D)``.
        values: ``(B, heads, L, D)``.
        scale: Factor of the scores.
        mask: ``(B, 1 or heads, N or 1, L)``, boolean (True attends) or added to the scores.

    Returns:
        ``(B, heads, N, D)``. The rows are those of one call, up to rounding.
    """
    dtype = queries.dtype
    if on_cpu() and dtype != mx.float32:
        # MLX would round scores and probabilities to 16 bit here, as its fused kernels on a GPU do not.
        queries, keys, values = (array.astype(mx.float32) for array in (queries, keys, values))
        return attention(queries, keys, values, scale=scale, mask=mask).astype(dtype)
    if on_cpu() and cpu.attention_is_faster(keys):
        form = partial(cpu.attention, scale=scale, mask=mask)
        plain = partial(mx.fast.scaled_dot_product_attention, scale=scale, mask=mask)
        return with_plain_gradient(form, plain, queries, keys, values)
    num_queries = queries.shape[2]
    size = _group_size(queries, keys)
    if size >= num_queries:
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    groups: list[mx.array] = []
    for start in range(0, num_queries, size):
        group = queries[:, :, start : start + size]
        if groups:
            # In order: MLX would otherwise compute the scores of all groups first.
            (group,) = mx.depends([group], [groups[-1]])
        rows = mask
        if mask is not None and mask.shape[-2] > 1:
            rows = mask[..., start : start + size, :]
        groups.append(mx.fast.scaled_dot_product_attention(group, keys, values, scale=scale, mask=rows))
    return mx.concatenate(groups, axis=2)


def scores_bytes(
    heads: int, queries: int, keys: int, *, head_dim: int, dtype: mx.Dtype, groups: int = _GROUPS_AHEAD
) -> int:
    """Memory of the scores while ``attention`` runs for one sample; 0 where a fused kernel does not store them.

    The CPU's form stores a few megabytes for each thread, however many tokens there are. ``groups`` of queries are held
    at once.
    """
    if on_cpu() or is_fused(head_dim, dtype):
        return 0
    row = heads * keys * dtype.size
    return min(queries * row, groups * max(_SCORES_BYTES, _QUERY_BLOCK * row))


def is_fused(head_dim: int, dtype: mx.Dtype) -> bool:
    """Whether attention of this head width has a kernel that does not store the scores."""
    if on_cpu():
        return False
    if mx.cuda.is_available():
        return dtype != mx.float32 and head_dim <= _CUDA_LARGEST_HEAD_DIM and head_dim % 8 == 0
    return head_dim in _METAL_HEAD_DIMS


def _group_size(queries: mx.array, keys: mx.array) -> int:
    """Queries of one group."""
    batch, heads, num_queries, head_dim = queries.shape
    num_keys = keys.shape[2]
    size = num_queries
    if not on_cpu():
        size = int(_LAUNCH_OPERATIONS / (4 * batch * heads * num_keys * head_dim))
    if not is_fused(head_dim, queries.dtype):
        size = min(size, _SCORES_BYTES // (batch * heads * num_keys * queries.dtype.size))
    return max(size // _QUERY_BLOCK, 1) * _QUERY_BLOCK
