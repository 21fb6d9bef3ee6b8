"""Convolutions as few matrix products: 3×3 and 3×3 at stride 2 of pixels as they lie, and transposed of windows."""

from itertools import product

import mlx.core as mx
import numpy as np
from numpy.lib.stride_tricks import as_strided

from LTX_2_MLX.ops.device import on_all_cores, one_blas_thread

# Bytes of the products of one piece of rows: they stay in a core's cache until they are added.
_PIECE_BYTES = 2**20


def conv2d_3x3(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """``(B, H, W, C)`` convolved with ``(O, 3, 3, C)``, zeros around the image; evaluated.

    MLX unfolds all nine neighbours of every pixel before it multiplies. Here every pixel is multiplied by the kernel's
    columns where it lies, and what belongs to its neighbours is added to them.
    """
    batch, height, width, channels = x.shape
    outputs = weight.shape[0]
    x = mx.contiguous(x)
    convolved = mx.zeros((batch, height, width, outputs))
    mx.eval(x, weight, bias, convolved)
    # The arrays' own memory.
    images, biases, out = (np.array(array, copy=False) for array in (x, bias, convolved))
    # For each row of the kernel, its columns side by side: (C, 3 * O).
    taps = np.array(weight, copy=False).transpose(1, 3, 2, 0)
    above, middle, below = np.ascontiguousarray(taps).reshape(3, channels, 3 * outputs)
    size = _rows_at_once(width * 3 * outputs)

    def convolve(piece: tuple[int, int]) -> None:
        number, start = piece
        image = images[number]
        stop = min(start + size, height)
        products = _product(image[start:stop], middle)
        first = max(start, 1)
        products[first - start :] += _product(image[first - 1 : stop - 1], above)
        last = min(stop, height - 1)
        products[: last - start] += _product(image[start + 1 : last + 1], below)
        rows = out[number, start:stop]
        np.add(products[:, :, outputs : 2 * outputs], biases, out=rows)
        rows[:, 1:] += products[:, :-1, :outputs]
        rows[:, :-1] += products[:, 1:, 2 * outputs :]

    on_all_cores(convolve, product(range(batch), range(0, height, size)))
    return convolved


def _rows_at_once(values: int) -> int:
    """Rows of one piece, by the values that one of them makes."""
    return max(1, _PIECE_BYTES // (values * mx.float32.size))


def _product(rows: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """``(h, w, C)`` times ``(C, O)``."""
    product: np.ndarray = rows.reshape(-1, rows.shape[-1]) @ kernel
    return product.reshape(*rows.shape[:-1], kernel.shape[1])


def conv2d_3x3_stride2(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """``(B, H, W, C)``, H and W even, to ``(B, H / 2, W / 2, O)``, zeros around the image; evaluated.

    Two neighbours in a row are one input of twice the channels, which reaches its own output pixel and the next one.
    """
    batch, height, width = x.shape[0], x.shape[1] // 2, x.shape[2] // 2
    outputs = weight.shape[0]
    x = mx.contiguous(x)
    convolved = mx.zeros((batch, height, width, outputs))
    mx.eval(x, weight, bias, convolved)
    # The arrays' own memory.
    images = np.array(x, copy=False).reshape(batch, height, 2, width, -1)
    biases, out = np.array(bias, copy=False), np.array(convolved, copy=False)
    above, upper, lower = _pair_kernels(np.array(weight, copy=False))
    size = _rows_at_once(width * 2 * outputs)

    def convolve(piece: tuple[int, int]) -> None:
        number, start = piece
        image = images[number]
        stop = min(start + size, height)
        products = image[start:stop, 0] @ upper
        products += image[start:stop, 1] @ lower
        first = max(start, 1)
        products[first - start :] += image[first - 1 : stop - 1, 1] @ above
        rows = out[number, start:stop]
        np.add(products[:, :, :outputs], biases, out=rows)
        rows[:, 1:] += products[:, :-1, outputs:]

    on_all_cores(convolve, product(range(batch), range(0, height, size)))
    return convolved


def _pair_kernels(weight: np.ndarray) -> np.ndarray:
    """For each row of a kernel ``(O, 3, 3, C)`` what two neighbours give their own output pixel and the next one.

    ``(3, 2 * C, 2 * O)``.
    """
    outputs, _, _, channels = weight.shape
    taps = weight.transpose(1, 2, 3, 0)
    kernels = np.zeros((3, 2 * channels, 2 * outputs), np.float32)
    kernels[:, :channels, :outputs] = taps[:, 1]
    kernels[:, channels:, :outputs] = taps[:, 2]
    kernels[:, channels:, outputs:] = taps[:, 0]
    return kernels


def conv_transpose2d_2x(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """``(B, H, W, C)`` to ``(B, 2 * H, 2 * W, O)``, padding 1; evaluated.

    Each output pixel depends on 2×2 input pixels. One product with windows of that size gives the four output pixels
    of every input pixel; MLX puts zeros between the input pixels, which is four times the work.
    """
    batch, height, width, channels = x.shape
    outputs = weight.shape[0]
    doubled = mx.zeros((batch, height, 2, width, 2, outputs))
    mx.eval(x, weight, bias, doubled)
    # The arrays' own memory.
    images, out = np.array(x, copy=False), np.array(doubled, copy=False)
    biases = np.array(bias, copy=False)
    # Tap k of the kernel, counted from its end, meets input pixel k // 2 in the output pixel k % 2 of a pair.
    taps = np.array(weight, copy=False)[:, ::-1, ::-1].reshape(outputs, 2, 2, 2, 2, channels)
    kernel = taps.transpose(1, 3, 5, 2, 4, 0).reshape(4 * channels, 4 * outputs)
    size = max(1, _PIECE_BYTES // (width * kernel.shape[1] * mx.float32.size))
    for number, start in product(range(batch), range(0, height, size)):
        stop = min(start + size, height)
        windows = _windows_2x2(images[number], start, stop)
        # Small products: threads of NumPy's BLAS would wait for each other, and use up a core meanwhile.
        with one_blas_thread():
            quarters = (windows @ kernel).reshape(stop - start + 1, width + 1, 2, 2, outputs)
        # The second output pixel of a pair comes from the window that begins one input pixel later.
        for i, j in product(range(2), range(2)):
            quarter = quarters[i : i + stop - start, j : j + width, i, j]
            np.add(quarter, biases, out=out[number, start:stop, i, :, j])
    return doubled.reshape(batch, 2 * height, 2 * width, outputs)


def _windows_2x2(image: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Windows of 2×2 pixels that meet rows ``start`` up to ``stop`` of ``(H, W, C)``, zeros around the image.

    ``((stop - start + 1) * (W + 1), 4 * C)``.
    """
    height, width, channels = image.shape
    padded = np.zeros((stop - start + 2, width + 2, channels), np.float32)
    first, last = max(start - 1, 0), min(stop + 1, height)
    padded[first - start + 1 : last - start + 1, 1:-1] = image[first:last]
    # Two neighbours in a row with all their channels are adjacent in memory.
    row, column, value = padded.strides
    pairs = as_strided(padded, (stop - start + 2, width + 1, 2 * channels), (row, column, value))
    windows = np.empty((stop - start + 1, width + 1, 2, 2 * channels), np.float32)
    windows[:, :, 0] = pairs[:-1]
    windows[:, :, 1] = pairs[1:]
    return windows.reshape(-1, 4 * channels)
