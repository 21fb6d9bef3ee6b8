"""Forms in NumPy, in pieces on all cores: activations, attention, convolutions of 3×3×3.

MLX takes an exponential or a tangent value by value, and its softmax keeps one core busy; NumPy uses the processor's
vectors. Attention takes queries in groups, whose scores stay in the caches.

Convolutions are matrix products: of all windows at once, or by Winograd's algorithm in space. Windows are made of a few
pixels only, which large kernels are read once for. For images of more pixels F(4×4, 3×3) takes a quarter of the
products: frames are cut into windows of 6×6 pixels, one every 4, their sums are multiplied by sums of the kernel, and
4×4 outputs are sums of these products. Time is not transformed: three products are added.
"""

import math
from itertools import product

import mlx.core as mx
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from LTX_2_MLX.ops.cpu.winograd import INPUT_SUMS, KERNEL_SUMS, PRODUCT_SUMS, TILE, WINDOW
from LTX_2_MLX.ops.device import on_all_cores

# Values of one piece: they stay in a core's cache.
_PIECE = 2**16
# With fewer values MLX's own forms of activations are taken; the two are even at twice as many.
FEW_VALUES = 2**12
# Bytes of the scores of one group of one head: fewer make the products slow, more leave the caches.
_SCORES_BYTES = 4 * 2**20
_FEWEST_QUERIES = 32
# Rows whose softmax is taken at once.
_ROWS = 16
# With fewer scores of as many queries as keys MLX's own form of attention is taken: calls cost as much as so many
# scores, once and for each head (measured by `bench_steps.py attention`).
_CALL_SCORES = 2**13
_HEAD_SCORES = 2**11
_TAPS = 3
# Output channels of one piece of work: the transformed kernel of 512 input channels then takes 14 MB.
_PIECE_CHANNELS = 64
# Values of each of a window's pixels whose sums are taken at once.
_PIECE_VALUES = 2**15
# Below these numbers the sums cost more than the products they save (measured, one core of two).
_FEW_PIXELS = 256
_FEW_CHANNELS = 32
# Bytes of the windows of one product, of as many frames as fit.
_WINDOWS_BYTES = 2**25

_INPUTS = np.kron(INPUT_SUMS, INPUT_SUMS).astype(np.float32)
_KERNEL = np.kron(KERNEL_SUMS, KERNEL_SUMS).astype(np.float32)
_PRODUCTS = np.kron(PRODUCT_SUMS, PRODUCT_SUMS).astype(np.float32)


def times_sigmoid(x: mx.array, *, linear: float, cubic: float) -> mx.array:
    """``x * sigmoid(linear * x + cubic * x**3)`` of a float32 array of any shape, evaluated."""
    x = mx.contiguous(x)
    result = mx.zeros_like(x)
    mx.eval(x, result)
    values = np.array(x, copy=False).reshape(-1)
    # The array's own memory.
    out = np.array(result, copy=False).reshape(-1)

    def compute(start: int) -> None:
        piece = out[start : start + _PIECE]
        source = values[start : start + _PIECE]
        # Beyond float32's range the quotient is 0, as it has to be.
        with np.errstate(over="ignore"):
            if cubic:
                np.multiply(source, source, out=piece)
                piece *= -cubic
                piece -= linear
                piece *= source
            else:
                np.multiply(source, -linear, out=piece)
            np.exp(piece, out=piece)
        piece += 1
        np.divide(source, piece, out=piece)

    on_all_cores(compute, range(0, x.size, _PIECE), exponentials=x.size)
    return result


def attention_is_faster(keys: mx.array) -> bool:
    """Whether this form is the faster one: for all but short runs of tokens.

    The number of queries decides nothing, so that a share of them is computed as all of them are.
    """
    batch, heads, num_keys, _ = keys.shape
    return batch * heads * num_keys**2 >= _CALL_SCORES + batch * heads * _HEAD_SCORES


def attention(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: mx.array | None = None
) -> mx.array:
    """Softmax of the scaled scores, times the values, evaluated.

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
    batch, heads, num_queries, _ = queries.shape
    num_keys = keys.shape[2]
    attended = mx.zeros((batch, heads, num_queries, values.shape[-1]))
    mx.eval(queries, keys, values, attended)
    # The arrays' own memory.
    query_rows = np.array(queries, copy=False)
    key_rows = np.array(keys, copy=False)
    value_rows = np.array(values, copy=False)
    result = np.array(attended, copy=False)
    weights = None
    if mask is not None:
        # NumPy has no bfloat16.
        mask = mask if mask.dtype == mx.bool_ else mask.astype(mx.float32)
        weights = np.broadcast_to(np.asarray(mask), (batch, heads, num_queries, num_keys))
    # Queries of one group.
    size = max(_SCORES_BYTES // (num_keys * mx.float32.size), _FEWEST_QUERIES)

    def attend_group(group: tuple[int, int, int]) -> None:
        sample, head, start = group
        rows = slice(start, start + size)
        scores = (query_rows[sample, head, rows] * np.float32(scale)) @ key_rows[sample, head].T
        sums = _exponentials(scores, None if weights is None else weights[sample, head, rows])
        out = result[sample, head, rows]
        np.matmul(scores, value_rows[sample, head], out=out)
        out /= sums

    groups = product(range(batch), range(heads), range(0, num_queries, size))
    on_all_cores(attend_group, groups, exponentials=batch * heads * num_queries * num_keys)
    return attended


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


def conv3d_3x3x3(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """``(B, T + 2, H + 2, W + 2, C)`` convolved with ``(O, 3, 3, 3, C)`` to ``(B, T, H, W, O)``, evaluated."""
    clips = []
    for clip in x:
        frames = clip.shape[0] - 2
        pixels = (clip.shape[1] - 2) * (clip.shape[2] - 2)
        windows, by_winograd = _windows(frames, pixels, weight.shape[-1], weight.shape[0])
        size = max(1, int(_WINDOWS_BYTES / windows))
        form = _by_winograd if by_winograd else _by_windows
        pieces = []
        for start in range(0, frames, size):
            pieces.append(form(clip[start : start + size + 2], weight, bias))
            mx.eval(pieces[-1])
        clips.append(mx.concatenate(pieces))
    return mx.stack(clips)


def scratch_bytes(frames: float, pixels: float, channels_in: int, channels_out: int) -> int:
    """Memory of ``conv3d_3x3x3`` beside its input, padded, and its result.

    Args:
        frames: Of the result; a fraction stands between its neighbours.
        pixels: Of a frame.
        channels_in: Of the input.
        channels_out: Of the result.
    """
    windows, by_winograd = _windows(frames, pixels, channels_in, channels_out)
    frames_at_once = min(frames, max(1.0, _WINDOWS_BYTES / windows))
    if by_winograd:
        # The windows and their sums. Half of a tile is beyond a frame's edges on average.
        over_edges = (1 + TILE / 2 / pixels**0.5) ** 2
        return int(2 * (frames_at_once + 2) * windows * over_edges)
    return int(frames_at_once * windows)


def _windows(frames: float, pixels: float, channels_in: int, channels_out: int) -> tuple[float, bool]:
    """Bytes of one frame's windows in a convolution to ``frames`` of ``pixels``, and whether Winograd's are taken."""
    by_winograd = frames * pixels >= _FEW_PIXELS and min(channels_in, channels_out) >= _FEW_CHANNELS
    values = (WINDOW / TILE) ** 2 if by_winograd else 27
    return values * pixels * channels_in * mx.float32.size, by_winograd


def _by_windows(clip: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    frames, height, width, channels = clip.shape
    kernel = weight.reshape(weight.shape[0], -1).T
    row = width * channels
    shape = (frames - 2, height - 2, width - 2, _TAPS, 3, 3 * channels)
    strides = (height * row, row, channels, height * row, row, 1)
    windows = mx.as_strided(mx.contiguous(clip), shape, strides).reshape(-1, kernel.shape[0])
    return mx.addmm(bias, windows, kernel).reshape(frames - 2, height - 2, width - 2, -1)


def _by_winograd(clip: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    frames = clip.shape[0] - 2
    height = clip.shape[1] - 2
    width = clip.shape[2] - 2
    out_channels = weight.shape[0]
    rows = -(-height // TILE)
    columns = -(-width // TILE)
    convolved = mx.zeros((frames, rows * TILE, columns * TILE, out_channels))
    mx.eval(clip, weight, bias, convolved)
    # The arrays' own memory.
    inputs = _transform(np.array(clip, copy=False), rows, columns)
    kernels = np.array(weight, copy=False)
    biases = np.array(bias, copy=False)
    out = np.array(convolved, copy=False).reshape(frames, rows, TILE, columns, TILE, out_channels)
    tiles = rows * columns

    def convolve(start: int) -> None:
        stop = start + _PIECE_CHANNELS
        products: np.ndarray | None = None
        for tap in range(_TAPS):
            shifted = inputs[:, tap * tiles : (tap + frames) * tiles] @ _transform_kernel(kernels[start:stop, tap])
            products = shifted if products is None else np.add(products, shifted, out=products)
        assert products is not None
        sums = (_PRODUCTS @ products.reshape(WINDOW**2, -1)).reshape(TILE, TILE, frames, rows, columns, -1)
        sums += biases[start:stop]
        out[..., start:stop] = sums.transpose(2, 3, 0, 4, 1, 5)

    on_all_cores(convolve, range(0, out_channels, _PIECE_CHANNELS))
    return convolved[:, :height, :width]


def _transform(clip: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Sums of the windows of ``(T, H, W, C)``: ``(36, T * rows * columns, C)``."""
    _, height, width, channels = clip.shape
    below = rows * TILE + 2 - height
    right = columns * TILE + 2 - width
    windows = sliding_window_view(np.pad(clip, [(0, 0), (0, below), (0, right), (0, 0)]), (WINDOW, WINDOW), (1, 2))
    windows = windows[:, ::TILE, ::TILE].transpose(4, 5, 0, 1, 2, 3)
    scratch = mx.zeros((2, WINDOW**2, math.prod(windows.shape[2:])))
    mx.eval(scratch)
    # Memory of MLX, so that it counts it.
    gathered, sums = np.array(scratch, copy=False)
    gathered.reshape(windows.shape)[...] = windows

    def transform(start: int) -> None:
        piece = slice(start, start + _PIECE_VALUES)
        np.matmul(_INPUTS, gathered[:, piece], out=sums[:, piece])

    on_all_cores(transform, range(0, gathered.shape[1], _PIECE_VALUES))
    transformed: np.ndarray = sums.reshape(WINDOW**2, -1, channels)
    return transformed


def _transform_kernel(weight: np.ndarray) -> np.ndarray:
    """A kernel ``(O, 3, 3, C)`` as 36 of ``(C, O)``."""
    taps = weight.transpose(1, 2, 3, 0)
    sums: np.ndarray = _KERNEL @ taps.reshape(9, -1)
    return sums.reshape(WINDOW**2, *taps.shape[2:])
