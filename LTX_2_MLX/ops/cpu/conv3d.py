"""Convolutions of 3×3×3 as matrix products: of all windows at once, or by Winograd's algorithm in space.

Windows are made of a few pixels only, which large kernels are read once for. For images of more pixels F(4×4, 3×3)
takes a quarter of the products: frames are cut into windows of 6×6 pixels, one every 4, their sums are multiplied by
sums of the kernel, and 4×4 outputs are sums of these products. Time is not transformed: three products are added.
"""

import math

import mlx.core as mx
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from LTX_2_MLX.ops.cpu.gradient import with_plain_gradient
from LTX_2_MLX.ops.cpu.threads import on_all_cores
from LTX_2_MLX.ops.cpu.winograd import INPUT_SUMS, KERNEL_SUMS, PRODUCT_SUMS, TILE, WINDOW

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


def conv3d_3x3x3(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """``(B, T + 2, H + 2, W + 2, C)`` convolved with ``(O, 3, 3, 3, C)`` to ``(B, T, H, W, O)``, evaluated.

    Gradients pass through.
    """
    return with_plain_gradient(_convolve, lambda x, weight, bias: mx.conv3d(x, weight) + bias, x, weight, bias)


def scratch_bytes(frames: float, pixels: float, channels_in: int, channels_out: int) -> int:
    """Memory of a convolution to ``frames`` of ``pixels`` beside its input, padded, and its result."""
    windows = _windows_bytes(frames, pixels, channels_in, channels_out)
    frames_at_once = min(frames, max(1.0, _WINDOWS_BYTES / windows))
    if _takes_winograd(frames * pixels, channels_in, channels_out):
        # The windows and their sums. Half of a tile is beyond a frame's edges on average.
        over_edges = (1 + TILE / 2 / pixels**0.5) ** 2
        return int(2 * (frames_at_once + 2) * windows * over_edges)
    return int(frames_at_once * windows)


def _takes_winograd(pixels: float, channels_in: int, channels_out: int) -> bool:
    """Whether a convolution to so many pixels, of all frames, is faster by Winograd."""
    return pixels >= _FEW_PIXELS and min(channels_in, channels_out) >= _FEW_CHANNELS


def _windows_bytes(frames: float, pixels: float, channels_in: int, channels_out: int) -> float:
    """Bytes of one frame's windows in a convolution to ``frames`` of ``pixels``."""
    values = (WINDOW / TILE) ** 2 if _takes_winograd(frames * pixels, channels_in, channels_out) else 27
    return values * pixels * channels_in * mx.float32.size


def _convolve(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    clips = []
    for clip in x:
        frames = clip.shape[0] - 2
        pixels = (clip.shape[1] - 2) * (clip.shape[2] - 2)
        channels = (weight.shape[-1], weight.shape[0])
        size = max(1, int(_WINDOWS_BYTES / _windows_bytes(frames, pixels, *channels)))
        form = _by_winograd if _takes_winograd(frames * pixels, *channels) else _by_windows
        pieces = []
        for start in range(0, frames, size):
            pieces.append(form(clip[start : start + size + 2], weight, bias))
            mx.eval(pieces[-1])
        clips.append(mx.concatenate(pieces))
    return mx.stack(clips)


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
