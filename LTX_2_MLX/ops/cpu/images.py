"""Operations on images: convolutions and enlargement as few matrix products, and bilinear samples, channels first."""

from functools import lru_cache
from itertools import product

import mlx.core as mx
import numpy as np
from numpy.lib.stride_tricks import as_strided

from LTX_2_MLX.ops.device import on_all_cores, one_blas_thread

# Bytes of the products of one piece of rows: they stay in a core's cache until they are added.
_PIECE_BYTES = 2**20
# Output pixels of one piece of samples.
_PIECE_PIXELS = 8192


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


def mean_of_samples(pixels: mx.array, x: mx.array, y: mx.array) -> mx.array:
    """Mean of the samples at columns ``x`` and rows ``y``, both inside the image; evaluated.

    With channels first a weight belongs to a whole row of products, and a piece of the output stays in a core's cache
    from the first gather to the mean.

    Args:
        pixels: ``(B, H, W, C)``, float32.
        x: ``(B, K, h, w)``, float32, from 0 to W - 1: K samples for each output pixel.
        y: As ``x``, from 0 to H - 1.

    Returns:
        ``(B, h, w, C)``.
    """
    batch, height, width, channels = pixels.shape
    planes = mx.contiguous(pixels.transpose(0, 3, 1, 2)).reshape(batch, channels, height * width)
    columns = x.reshape(batch, x.shape[1], -1)
    rows = y.reshape(batch, x.shape[1], -1)
    means = mx.zeros((batch, channels, columns.shape[-1]))
    mx.eval(planes, columns, rows, means)
    # The arrays' own memory.
    values, result = np.array(planes, copy=False), np.array(means, copy=False)
    at_columns, at_rows = np.array(columns, copy=False), np.array(rows, copy=False)
    for image, start in product(range(batch), range(0, columns.shape[-1], _PIECE_PIXELS)):
        piece = slice(start, start + _PIECE_PIXELS)
        total = result[image, :, piece]
        for k in range(x.shape[1]):
            total += _samples(values[image], at_columns[image, k, piece], at_rows[image, k, piece], width)
        total /= np.float32(x.shape[1])
    return means.reshape(batch, channels, *x.shape[2:]).transpose(0, 2, 3, 1)


def _samples(planes: np.ndarray, columns: np.ndarray, rows: np.ndarray, width: int) -> np.ndarray:
    """Bilinear samples ``(C, n)`` of ``(C, H * W)``."""
    height = planes.shape[1] // width
    # The last column and row are reached from the one before, with weight 1.
    left = np.minimum(columns.astype(np.intp), max(width - 2, 0))
    top = np.minimum(rows.astype(np.intp), max(height - 2, 0))
    right_weight = columns - left.astype(np.float32)
    lower_weight = rows - top.astype(np.float32)
    index = top * width + left
    mixed: list[np.ndarray] = []
    for offset in (0, min(1, height - 1) * width):
        values = planes.take(index + offset, axis=1, mode="clip")
        mixed.append(planes.take(index + (offset + min(1, width - 1)), axis=1, mode="clip"))
        mixed[-1] -= values
        mixed[-1] *= right_weight
        mixed[-1] += values
    upper, lower = mixed
    lower -= upper
    lower *= lower_weight
    lower += upper
    return lower


def enlarge(pixels: mx.array, factor: int) -> mx.array:
    """``(B, H, W, C)`` to ``(B, factor * H, factor * W, C)``, edge pixels repeated beyond the border.

    Every output pixel is a sum over three input pixels along each axis.
    """
    batch, height, width, channels = pixels.shape
    wide = factor * width * channels
    padded = mx.concatenate([pixels[:, :, :1], pixels, pixels[:, :, -1:]], axis=2)
    row_step = (width + 2) * channels
    # Three neighbours in a row with all their channels are adjacent in memory.
    neighbours = mx.as_strided(padded, (batch * height, width, 3 * channels), (row_step, channels, 1))
    rows = neighbours.reshape(-1, 3 * channels) @ mx.array(_enlarging_weights(factor, channels))
    rows = rows.reshape(batch, height, wide)
    rows = mx.concatenate([rows[:, :1], rows, rows[:, -1:]], axis=1)
    image_step = (height + 2) * wide
    neighbours = mx.as_strided(rows, (batch, height, 3, wide), (image_step, wide, wide, 1))
    return (mx.array(_enlarging_weights(factor).T) @ neighbours).reshape(
        batch, factor * height, factor * width, channels
    )


@lru_cache(maxsize=16)
def _enlarging_weights(factor: int, channels: int = 1) -> np.ndarray:
    """Weights of the pixel before, of the pixel itself and of the next one, by channel: ``(3 * C, factor * C)``."""
    positions = (np.arange(factor) + 0.5) / factor - 0.5
    distances = np.abs(positions - np.array([-1, 0, 1])[:, None])
    weights: np.ndarray = np.kron(np.maximum(0, 1 - distances), np.eye(channels)).astype(np.float32)
    return weights
