"""Block-sparse attention: the blocks of keys that each window of queries attends to, and attention over them.

A window is 128 tokens, two frames of 8 x 8; ``n`` windows make a slice of time. Windows stand in the order slice,
row, column. Queries come in windows; keys in windows ("block") or in their halves, one frame each ("sage").
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.device import Backend, backend

WINDOW = 128
# Frames, rows and columns of a window.
WINDOW_SIZE = (2, 8, 8)
# Tokens the published sparsity of 1 is meant for: 768 x 1280 pixels.
_NATIVE_PIXELS = 768 * 1280

# Elements of scores, and of copied keys and values, computed at once. Only a CPU forms the scores as an array; what it
# goes over three times has to stay in its cache, or a pair costs a tenth more where many are kept.
_MAX_ELEMENTS: dict[Backend, int] = {"cpu": 1 << 20, "gpu": 1 << 27}

# Share of kept pairs from which it is faster to compute all and mask than to gather the kept ones. On a CPU never, by
# scripts/bench_attention.py forms; on a GPU after xocialize/mlx-flashvsr-swift (1c656ce), whose gathered form lost
# where half were kept.
_MASKED_FROM: dict[Backend, float] = {"cpu": 1.0, "gpu": 0.3}

Kind = Literal["block", "sage", "dense"]
Form = Literal["patterns", "padded", "masked"]


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
    """``sparse_ratio`` in units of the frame's own windows: the kept pairs grow with the area, not its square."""
    return sparse_ratio * _NATIVE_PIXELS / (height * width)


def pool(tokens: mx.array, block: int) -> mx.array:
    """Means of consecutive ``block`` tokens: ``(heads, N, d)`` to ``(heads, N / block, d)``, float32."""
    heads, count, dim = tokens.shape
    return tokens.reshape(heads, count // block, block, dim).astype(mx.float32).mean(axis=2)


def locality(rows: int, columns: int, local_range: int) -> np.ndarray:
    """Which window may look at which of its slice: bool ``(n, n)``.

    The square is not clamped at the edges of the frame, and reaches one further back than forth when the range is even.
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


def attend(queries: mx.array, keys: mx.array, values: mx.array, mask: np.ndarray, form: Form | None = None) -> mx.array:
    """Attention of each query window over its kept blocks of keys; a window without any gives 0.

    Args:
        queries: ``(heads, N, d)``, tokens in windows.
        keys: ``(heads, M, d)``, tokens in blocks.
        values: As ``keys``.
        mask: Kept pairs, ``(heads, query windows, key blocks)``.
        form: How it is computed, one of ``FORMS``, which are equally exact; None: the fastest for this mask.

    Returns:
        ``(heads, N, d)``.
    """
    heads, windows, blocks = mask.shape
    dim = queries.shape[-1]
    rows = queries.reshape(heads * windows, WINDOW, dim)
    keys, values = (part.reshape(heads * blocks, -1, dim) for part in (keys, values))
    order, parts = [], []
    for index, part in FORMS[form or fastest_form(mask)](rows, keys, values, mask):
        mx.eval(part)
        order.append(index)
        parts.append(part)
    places = np.argsort(np.concatenate(order))
    return mx.concatenate(parts, axis=0)[mx.array(places)].reshape(heads, windows * WINDOW, dim)


def fastest_form(mask: np.ndarray) -> Form:
    """The form to compute a mask's attention by, on this backend."""
    share = mask.mean()
    return "masked" if _MASKED_FROM[backend()] <= share < 1 else "patterns"


def max_elements() -> int:
    """Elements that one call of the attention may hold on this backend."""
    return _MAX_ELEMENTS[backend()]


# Indices of windows, counted over all heads, and what they see: ``(windows, 128, d)``.
Part = tuple[np.ndarray, mx.array]


def _by_patterns(rows: mx.array, keys: mx.array, values: mx.array, mask: np.ndarray) -> Iterator[Part]:
    """Windows that keep the same blocks share one copy of them, and windows alike in number are computed together.

    There is neither a mask nor padding: nothing that is not kept is computed.
    """
    for alike in _alike(mask, keys.shape[1]):
        windows = np.array([windows for windows, _ in alike])
        blocks = np.array([blocks for _, blocks in alike])
        yield windows.ravel(), _attend(rows, keys, values, windows, blocks)


def _padded(rows: mx.array, keys: mx.array, values: mx.array, mask: np.ndarray) -> Iterator[Part]:
    """Each window's kept blocks gathered for it alone, up to the largest number among windows computed together."""
    heads, windows, blocks = mask.shape
    kept, block = mask.reshape(-1, blocks), keys.shape[1]
    counts, first_block = kept.sum(axis=-1), np.repeat(np.arange(heads), windows) * blocks
    # Those with the most first, so that what is computed together differs little.
    ranked = np.argsort(-counts, kind="stable")
    while len(ranked):
        most = counts[ranked[0]]
        elements = most * block * (WINDOW + 2 * rows.shape[-1])
        together = max(1, max_elements() // max(1, elements))
        some, ranked = ranked[:together], ranked[together:]
        picked = np.argsort(~kept[some], axis=-1, kind="stable")[:, :most] + first_block[some, None]
        real = np.repeat(np.arange(most) < counts[some, None], block, axis=-1)[:, None, None]
        seen = _attend(rows, keys, values, some[:, None], picked, mx.array(real))
        yield some, mx.where(mx.array(counts[some] > 0)[:, None, None], seen, 0)


def _masked(rows: mx.array, keys: mx.array, values: mx.array, mask: np.ndarray) -> Iterator[Part]:
    """All pairs computed and those not kept masked, some windows of a head at a time."""
    heads, windows, blocks = mask.shape
    block = keys.shape[1]
    some = max(1, max_elements() // (WINDOW * blocks * block))
    for head in range(heads):
        for first in range(0, windows, some):
            kept = mask[head, first : first + some]
            index = np.arange(first, first + len(kept)) + head * windows
            pairs = mx.repeat(mx.repeat(mx.array(kept), WINDOW, axis=0), block, axis=1)[None, None]
            seen = _attend(rows, keys, values, index[None], np.arange(blocks)[None] + head * blocks, pairs)
            # A row of which nothing is kept would come out as the mean of all values.
            yield index, mx.where(mx.array(np.asarray(kept.any(axis=-1)))[:, None, None], seen, 0)


FORMS: dict[Form, Callable[[mx.array, mx.array, mx.array, np.ndarray], Iterator[Part]]] = {
    "patterns": _by_patterns,
    "padded": _padded,
    "masked": _masked,
}


def _attend(
    rows: mx.array,
    keys: mx.array,
    values: mx.array,
    windows: np.ndarray,
    blocks: np.ndarray,
    pairs: mx.array | None = None,
) -> mx.array:
    """Groups of ``windows`` ``(G, m)``, each over its ``blocks`` ``(G, k)``: ``(G * m, 128, d)``.

    ``pairs`` tells which of a group's tokens see which, and broadcasts to ``(G, 1, m * 128, tokens)``.
    """
    dim = rows.shape[-1]
    if blocks.shape[1] == 0:
        return mx.zeros((windows.size, WINDOW, dim), rows.dtype)
    picked = (
        part[mx.array(index)].reshape(len(index), 1, -1, dim)
        for part, index in ((rows, windows), (keys, blocks), (values, blocks))
    )
    return mx.fast.scaled_dot_product_attention(*picked, scale=dim**-0.5, mask=pairs).reshape(-1, WINDOW, dim)


Group = tuple[np.ndarray, np.ndarray]


def _alike(mask: np.ndarray, block: int) -> Iterator[list[Group]]:
    """Lists of groups to compute together: as many windows and as many blocks in each.

    A group is windows that keep the same blocks, and those blocks, both counted over all heads.
    """
    by_size: dict[tuple[int, int], list[Group]] = defaultdict(list)
    limit = max_elements()
    for windows, blocks in _groups(mask):
        # Scores of one group stay within the limit, however many windows keep the same.
        most = max(1, limit // max(1, WINDOW * block * len(blocks)))
        for first in range(0, len(windows), most):
            some = windows[first : first + most]
            by_size[len(some), len(blocks)].append((some, blocks))
    for (num_windows, num_blocks), groups in by_size.items():
        elements = num_windows * WINDOW * num_blocks * block + num_blocks * block * 2 * WINDOW
        most = max(1, limit // max(1, elements))
        for first in range(0, len(groups), most):
            yield groups[first : first + most]


def _groups(mask: np.ndarray) -> Iterator[Group]:
    """Windows of one head that keep the same blocks."""
    heads, windows, blocks = mask.shape
    for head in range(heads):
        patterns, which = np.unique(mask[head], axis=0, return_inverse=True)
        for i, pattern in enumerate(patterns):
            yield np.flatnonzero(which == i) + head * windows, np.flatnonzero(pattern) + head * blocks
