"""Which blocks of keys a window of queries looks at, and attention over just those.

A window is 128 tokens, two frames of 8 x 8; ``n`` windows make a slice of time. Windows stand in the order slice,
row, column. Queries come in windows; keys in windows ("block") or in their halves, one frame each ("sage").
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import numpy as np

WINDOW = 128
# Frames, rows and columns of a window.
WINDOW_SIZE = (2, 8, 8)
# Tokens the published sparsity of 1 is meant for: 768 x 1280 pixels.
_NATIVE_PIXELS = 768 * 1280

Kind = Literal["block", "sage", "dense"]
# Queries, keys, values (heads, tokens, d) and the mask of kept blocks to values (heads, query tokens, d).
Form = Callable[[mx.array, mx.array, mx.array, np.ndarray], mx.array]


@dataclass(frozen=True)
class Sparsity:
    """How much the attention sees.

    Attributes:
        kind: ``block`` is the authors' selection, ``sage`` the plugin's of half windows, ``dense`` everything.
        topk_ratio: Kept pairs of windows per slice, in units of the square of its windows.
        local_range: Side of the square of windows, around its own, that a window may look at in any slice.
        drop_least: Drop the weakest pair even when the ratio covers all of them, as the references do.
    """

    kind: Kind = "block"
    topk_ratio: float = 2.0
    local_range: int = 11
    drop_least: bool = False

    @property
    def keys_per_block(self) -> int:
        """Tokens of a block of keys."""
        return WINDOW // 2 if self.kind == "sage" else WINDOW


def topk_ratio(sparse_ratio: float, height: int, width: int) -> float:
    """``sparse_ratio`` in units of the picture's own windows: the kept pairs grow with the area, not its square."""
    return sparse_ratio * _NATIVE_PIXELS / (height * width)


def pool(tokens: mx.array, block: int) -> mx.array:
    """Means of consecutive ``block`` tokens: ``(heads, N, d)`` to ``(heads, N / block, d)``, float32."""
    heads, count, dim = tokens.shape
    return tokens.reshape(heads, count // block, block, dim).astype(mx.float32).mean(axis=2)


def locality(rows: int, columns: int, local_range: int) -> np.ndarray:
    """Which window may look at which of its slice: bool ``(n, n)``.

    The square is not clamped at the picture's edges, and reaches one further back than forth when the range is even.
    """
    row, column = (index.ravel() for index in np.mgrid[:rows, :columns])

    def near(place: np.ndarray) -> np.ndarray:
        first = place[:, None] - local_range // 2
        return (place[None] >= first) & (place[None] < first + local_range)

    return near(row) & near(column)


def select(queries: mx.array, keys: mx.array, near: np.ndarray, sparsity: Sparsity) -> np.ndarray:
    """Kept pairs: bool ``(heads, query windows, key blocks)``.

    Args:
        queries: Pooled, ``(heads, slices * n, d)``.
        keys: Pooled, ``(heads, slices held * n, d)``; twice as many for ``sage``.
        near: ``locality`` of a slice.
        sparsity: What to keep.

    In each slice of queries as many pairs stay as lie strictly above the first value that is too many, so invisible
    pairs never stay and a window may be left with none.
    """
    heads, windows, dim = queries.shape
    if sparsity.kind == "dense":
        return np.ones((heads, windows, keys.shape[1]), bool)
    per_slice, halves = near.shape[0], WINDOW // sparsity.keys_per_block
    visible = np.tile(np.repeat(near, halves, axis=1), (windows // per_slice, keys.shape[1] // (per_slice * halves)))
    scores = (queries @ keys.swapaxes(1, 2)) * dim**-0.5
    chances = mx.softmax(mx.where(mx.array(visible), scores, -mx.inf), axis=-1)
    flat = chances.reshape(heads, windows // per_slice, -1)
    wanted, count = max(0, int(per_slice**2 * sparsity.topk_ratio) - 1), flat.shape[-1]
    if wanted >= count and not sparsity.drop_least:
        return np.broadcast_to(visible, chances.shape)
    threshold = mx.sort(flat, axis=-1)[..., max(count - 1 - wanted, 0)]
    return np.array((flat > threshold[..., None]).reshape(chances.shape))


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: np.ndarray) -> mx.array:
    """Attention of each query window over its kept blocks of keys, in the form that is fastest for this mask."""
    if mask.all():
        return _attend(queries, keys, values)
    return attend_gathered(queries, keys, values, mask)


def _attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None = None) -> mx.array:
    scale = queries.shape[-1] ** -0.5
    return mx.fast.scaled_dot_product_attention(queries[None], keys[None], values[None], scale=scale, mask=mask)[0]


def attend_masked(queries: mx.array, keys: mx.array, values: mx.array, mask: np.ndarray) -> mx.array:
    """Dense attention under the mask spread over tokens, some query windows at a time. Rows without keys give 0."""
    heads, windows, blocks = mask.shape
    # At most about 64 million scores at once.
    group = max(1, (1 << 26) // (heads * WINDOW * keys.shape[1]))
    parts = []
    for first in range(0, windows, group):
        rows = mask[:, first : first + group]
        empty = ~rows.any(axis=-1, keepdims=True)
        # A row without any key would come out as the mean of all values: let it see all, then drop it.
        tokens = mx.repeat(mx.repeat(mx.array(rows | empty), keys.shape[1] // blocks, axis=2), WINDOW, axis=1)
        some = _attend(queries[:, first * WINDOW : (first + group) * WINDOW], keys, values, tokens[None])
        parts.append(mx.where(mx.repeat(mx.array(empty), WINDOW, axis=1), 0, some))
        mx.eval(parts[-1])
    return mx.concatenate(parts, axis=1)


def attend_gathered(queries: mx.array, keys: mx.array, values: mx.array, mask: np.ndarray) -> mx.array:
    """Attention over copies of the kept blocks, query windows with equally many of them together.

    No mask and no padding: nothing that is not kept is computed. Rows without keys give 0.
    """
    heads, windows, blocks = mask.shape
    dim = queries.shape[-1]
    block = keys.shape[1] // blocks
    rows = queries.reshape(heads * windows, 1, WINDOW, dim)
    keys, values = (part.reshape(heads * blocks, block, dim) for part in (keys, values))
    counts = mask.sum(axis=-1).ravel()
    order = np.argsort(counts, kind="stable")
    parts = []
    for count, start, stop in _runs(counts[order]):
        group = max(1, (1 << 26) // max(1, count * block * dim * 2))
        for first in range(start, stop, group):
            chosen = order[first : min(first + group, stop)]
            parts.append(_gathered(rows, keys, values, mask, chosen, int(count)))
            mx.eval(parts[-1])
    joined = mx.concatenate(parts, axis=0)[mx.array(np.argsort(order))]
    return joined.reshape(heads, windows * WINDOW, dim)


def _runs(ordered: np.ndarray) -> list[tuple[int, int, int]]:
    """Value, start and stop of each run of equal values."""
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return list(zip(ordered[starts], starts, np.r_[starts[1:], len(ordered)], strict=True))


def _gathered(
    rows: mx.array, keys: mx.array, values: mx.array, mask: np.ndarray, chosen: np.ndarray, count: int
) -> mx.array:
    """The ``chosen`` query windows, each over its own ``count`` blocks: ``(chosen, 128, d)``."""
    heads, windows, blocks = mask.shape
    dim = rows.shape[-1]
    if count == 0:
        return mx.zeros((len(chosen), WINDOW, dim), rows.dtype)
    kept = np.nonzero(mask.reshape(heads * windows, blocks)[chosen])[1].reshape(len(chosen), count)
    index = mx.array(kept + (chosen // windows * blocks)[:, None])
    picked = (part[index].reshape(len(chosen), 1, -1, dim) for part in (keys, values))
    return mx.fast.scaled_dot_product_attention(rows[mx.array(chosen)], *picked, scale=dim**-0.5)[:, 0]
