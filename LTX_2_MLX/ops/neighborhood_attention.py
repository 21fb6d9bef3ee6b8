"""Attention of each position to a window of its neighbours in time, height and width.

Queries are taken in blocks. The windows of a block's queries lie in one box of keys, and a boolean mask leaves each
query its own window of it. Blocks whose windows lie alike share their mask and run as one batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.attention import is_fused

# Keys and values of one batch of blocks.
_GROUP_BYTES = 64 * 2**20
_WIDE_KERNEL = 9
# Arrays of scores that live at once without a fused kernel, measured on the CPU.
_SCORES_ARRAYS = 1.6


@dataclass(frozen=True)
class FrameSpan:
    """Part of a clip's frames whose attention is computed by itself.

    Attributes:
        first_query: First frame of the queries.
        first_key: First frame of the keys.
        num_frames: Frames of the whole clip.
    """

    first_query: int
    first_key: int
    num_frames: int

    def window_starts(self, num_queries: int, kernel: int) -> np.ndarray:
        """The first frame, counted from ``first_key``, that each of the queries' frames sees."""
        frames = self.first_query + np.arange(num_queries)
        return window_starts(frames, self.num_frames, kernel) - self.first_key


def window_starts(positions: np.ndarray, length: int, kernel: int) -> np.ndarray:
    """The first position of an axis that each position sees; the axis is no shorter than the window."""
    assert kernel <= length, (kernel, length)
    starts: np.ndarray = np.clip(positions - kernel // 2, 0, length - kernel)
    return starts


def neighborhood_attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    kernel: Sequence[int],
    *,
    scale: float = 1.0,
    span: FrameSpan | None = None,
    block: Sequence[int] | None = None,
    group_bytes: int = _GROUP_BYTES,
) -> mx.array:
    """Attention in which position i of an axis sees ``kernel`` positions around it.

    At a border the window is shifted inwards, not cut: it begins at ``clip(i - kernel // 2, 0, length - kernel)``.

    Args:
        queries: ``(B, T, H, W, heads, D)``.
        keys: Of the same shape; with a span they have the frames that the queries see, and may have more.
        values: As keys.
        kernel: Window size in time, height and width; no axis may be shorter than its window.
        scale: Factor of the scores.
        span: Where the frames of queries and keys lie in the clip; None: both are the whole clip.
        block: Queries per block along each axis; chosen by the kernel unless given.
        group_bytes: Bound on the keys and values that are gathered at a time.

    Returns:
        ``(B, T, H, W, heads, D)``, evaluated.
    """
    lengths = queries.shape[1:4]
    span = span or FrameSpan(0, 0, lengths[0])
    first_seen = [span.window_starts(lengths[0], kernel[0])]
    for length, size in zip(lengths[1:], kernel[1:], strict=True):
        first_seen.append(window_starts(np.arange(length), length, size))
    block = block or default_block(kernel)
    axes = [_blocks(starts, size, step) for starts, size, step in zip(first_seen, kernel, block, strict=True)]
    outputs = []
    positions = []
    for kinds in product(*axes):
        box_elements = int(np.prod([kind.num_keys for kind in kinds])) * queries.shape[0] * _row_elements(keys)
        most = max(1, group_bytes // (2 * box_elements * keys.dtype.size))
        for query_index, key_index in _groups(kinds, lengths, most):
            output = _attend(queries, keys, values, query_index, key_index, _mask(kinds), scale)
            mx.eval(output)
            outputs.append(output)
            positions.append(query_index.reshape(-1))
    order = np.argsort(np.concatenate(positions), kind="stable").astype(np.int32)
    joined = mx.take(mx.concatenate(outputs, axis=1), mx.array(order), axis=1)
    mx.eval(joined)
    return joined.reshape(queries.shape)


def default_block(kernel: Sequence[int]) -> tuple[int, int, int]:
    """Queries per block: small blocks waste fewer keys where windows are wide, large ones need fewer gathers."""
    return (4, 4, 4) if max(kernel) >= _WIDE_KERNEL else (4, 8, 8)


def attention_bytes(kernel: Sequence[int], lengths: Sequence[int], width: int, head_dim: int, dtype: mx.Dtype) -> int:
    """Memory of attention over queries of these lengths beside queries, keys, values and the result.

    Those are the queries, keys and values of the largest group, and their scores where MLX has no fused kernel.
    """
    axes = []
    for length, size, step in zip(lengths, kernel, default_block(kernel), strict=True):
        axes.append(_blocks(window_starts(np.arange(length), max(length, size), size), size, step))
    most = 0
    for kinds in product(*axes):
        num_queries = int(np.prod([kind.num_queries for kind in kinds]))
        box = int(np.prod([kind.num_keys for kind in kinds]))
        keys_bytes = 2 * box * width * dtype.size
        group = min(max(1, _GROUP_BYTES // keys_bytes), int(np.prod([len(kind.starts) for kind in kinds])))
        scores = (
            0
            if is_fused(head_dim, dtype)
            else int(_SCORES_ARRAYS * num_queries * box * (width // head_dim) * mx.float32.size)
        )
        most = max(most, group * (keys_bytes + 2 * num_queries * width * dtype.size + scores))
    return most


@dataclass(frozen=True)
class _BlockKind:
    """Blocks of one axis whose windows lie alike.

    Attributes:
        starts: First query of each block.
        key_starts: First key of each block's box.
        mask: ``(queries, keys)`` of a block: whether the query's window holds the key.
    """

    starts: np.ndarray
    key_starts: np.ndarray
    mask: np.ndarray

    @property
    def num_queries(self) -> int:
        return len(self.mask)

    @property
    def num_keys(self) -> int:
        return len(self.mask[0])


def _blocks(first_seen: np.ndarray, kernel: int, step: int) -> list[_BlockKind]:
    """Blocks of one axis, grouped by kind; ``first_seen`` is each query's first key."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for start in range(0, len(first_seen), step):
        relative = first_seen[start : start + step] - first_seen[start]
        groups.setdefault(tuple(relative.tolist()), []).append(start)
    kinds = []
    for relative, starts in groups.items():
        offsets = np.arange(relative[-1] + kernel) - np.array(relative)[:, None]
        kinds.append(_BlockKind(np.array(starts), first_seen[starts], (offsets >= 0) & (offsets < kernel)))
    return kinds


def _groups(kinds: Sequence[_BlockKind], lengths: Sequence[int], most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Flat positions of the queries and keys ``(blocks, positions)`` of at most ``most`` blocks at a time."""
    starts = np.stack(np.meshgrid(*(kind.starts for kind in kinds), indexing="ij"), axis=-1).reshape(-1, 3)
    key_starts = np.stack(np.meshgrid(*(kind.key_starts for kind in kinds), indexing="ij"), axis=-1).reshape(-1, 3)
    query_offsets = _flat(np.indices([kind.num_queries for kind in kinds]).reshape(3, -1), lengths)
    key_offsets = _flat(np.indices([kind.num_keys for kind in kinds]).reshape(3, -1), lengths)
    for first in range(0, len(starts), most):
        corners = _flat(starts[first : first + most].T, lengths)
        key_corners = _flat(key_starts[first : first + most].T, lengths)
        yield corners[:, None] + query_offsets, key_corners[:, None] + key_offsets


def _flat(coordinates: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Index in ``(T, H, W)`` laid out in a row, of coordinates ``(3, N)``."""
    time, height, width = coordinates
    flat: np.ndarray = (time * lengths[1] + height) * lengths[2] + width
    return flat.astype(np.int32)


def _mask(kinds: Sequence[_BlockKind]) -> mx.array | None:
    """Mask of a block, ``(queries, keys)``; None where every query sees every key of the box."""
    time, height, width = (kind.mask for kind in kinds)
    mask = np.einsum("ad,be,cf->abcdef", time, height, width).reshape(
        time.shape[0] * height.shape[0] * width.shape[0], -1
    )
    return None if mask.all() else mx.array(mask)


def _attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    query_index: np.ndarray,
    key_index: np.ndarray,
    mask: mx.array | None,
    scale: float,
) -> mx.array:
    """Attention of a batch of blocks, ``(B, blocks * queries, heads, D)``."""
    batch, heads, width = queries.shape[0], queries.shape[-2], queries.shape[-1]

    def gathered(x: mx.array, index: np.ndarray) -> mx.array:
        rows = mx.take(x.reshape(batch, -1, heads * width), mx.array(index.reshape(-1)), axis=1)
        rows = rows.reshape(batch * index.shape[0], index.shape[1], heads, width)
        return rows.transpose(0, 2, 1, 3)

    output = mx.fast.scaled_dot_product_attention(
        gathered(queries, query_index),
        gathered(keys, key_index),
        gathered(values, key_index),
        scale=scale,
        mask=mask,
    )
    return output.transpose(0, 2, 1, 3).reshape(batch, -1, heads, width)


def _row_elements(x: mx.array) -> int:
    return x.shape[-1] * x.shape[-2]
