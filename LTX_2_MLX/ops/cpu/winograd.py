"""Chains of 3×3 convolutions with a quarter of the multiplications, by Winograd's algorithm F(4×4, 3×3).

The image is cut into tiles of 4×4 pixels, each computed from a window of 6×6. Sums of the windows are multiplied by
sums of the kernel, and sums of these products are the outputs: 36 products replace 144. Pieces of a few tiles are
computed apart, on all cores, so that what lies between their steps stays in the caches.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from LTX_2_MLX.ops.device import blas_threads, on_all_cores, one_blas_thread, with_plain_gradient

TILE = 4
WINDOW = TILE + 2
# Below these sizes the sums cost more than the products they save (measured, two cores).
_FEW_PIXELS = 4096
FEW_CHANNELS = 48
# Values of each of a window's pixels in one piece: fewer make the products slow, more leave the caches.
_PIECE_VALUES = 2**13
# The polynomials are evaluated at these points and at infinity. With 1 and 2 instead of these roots rounding errors
# are several times as large.
_POINTS = np.array([0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])
# Sums of inputs are scaled by these and the kernel by their inverse, which leaves small factors.
_SCALES = 2.0 ** np.array([0, 0, 1, -3, -4, 0])[:, None]

# Weight ``(O, 3, 3, C)``, bias ``(O,)``, and the slopes of the PReLU that follows, ``(O,)``, or None.
Layer = tuple[mx.array, mx.array, mx.array | None]
# Two arrays of one piece's values, one read while the other is written.
Space = tuple[np.ndarray, np.ndarray]


def is_faster(x: mx.array, layers: Sequence[Layer]) -> bool:
    """Whether this form of ``ops.conv.conv3x3_chain`` is the faster one: for large images and wide layers."""
    channels = layers[0][0].shape[0]
    return x.shape[1] * x.shape[2] >= _FEW_PIXELS and channels >= FEW_CHANNELS


def conv3x3_chain(x: mx.array, layers: Sequence[Layer]) -> mx.array:
    """Convolutions with zeros around the image, and the slopes of the activations after them; evaluated.

    Gradients pass through.

    Args:
        x: ``(B, H, W, C)``, float32.
        layers: Weight, bias, and slopes or None, of each.

    Returns:
        ``(B, H, W, O)`` of the last layer.
    """
    weights, biases, given = zip(*layers, strict=True)
    slopes = [mx.ones_like(bias) if slope is None else slope for bias, slope in zip(biases, given, strict=True)]
    return with_plain_gradient(_convolve_images, _plain, x, *weights, *biases, *slopes)


def _plain(x: mx.array, *arrays: mx.array) -> mx.array:
    for weight, bias, slope in _by_layer(arrays):
        x = mx.conv2d(x, weight, padding=1) + bias
        x = mx.maximum(x, 0) + slope * mx.minimum(x, 0)
    return x


def _by_layer(arrays: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Weights, biases and slopes, one kind after another, by layer."""
    count = len(arrays) // 3
    return list(zip(arrays[:count], arrays[count : 2 * count], arrays[2 * count :], strict=True))


def _convolve_images(x: mx.array, *arrays: mx.array) -> mx.array:
    mx.eval(x, *arrays)
    # The arrays' own memory.
    layers = [Convolution(*layer) for layer in _by_layer([np.array(array, copy=False) for array in arrays])]
    images = []
    height, width = x.shape[1:3]
    for image in np.array(x, copy=False):
        padded, spare = PaddedImage.from_image(image), None
        for layer in layers:
            if spare is None or spare.pixels.shape[-1] != layer.channels:
                spare = PaddedImage(height, width, layer.channels)
            layer.convolve(padded, spare)
            padded, spare = spare, padded
        images.append(padded.to_image())
        mx.eval(images[-1])
    return mx.stack(images)


class PaddedImage:
    """An image of whole tiles with one pixel around them; all that lies beyond the image is zero.

    Attributes:
        pixels: ``(TILE * rows + 2, TILE * columns + 2, C)``.
        rows: Rows of tiles.
        columns: Columns of tiles.
    """

    def __init__(self, height: int, width: int, channels: int):
        self._size = (height, width)
        self.rows = -(-height // TILE)
        self.columns = -(-width // TILE)
        self._array = mx.zeros((TILE * self.rows + 2, TILE * self.columns + 2, channels))
        mx.eval(self._array)
        self.pixels = np.array(self._array, copy=False)

    @classmethod
    def from_image(cls, image: np.ndarray) -> "PaddedImage":
        """``(H, W, C)`` with zeros around it."""
        height, width, channels = image.shape
        padded = cls(height, width, channels)
        padded._inside[...] = image
        return padded

    @property
    def _inside(self) -> np.ndarray:
        height, width = self._size
        return self.pixels[1 : height + 1, 1 : width + 1]

    @property
    def tiles(self) -> np.ndarray:
        """The pixels by tile, ``(rows, TILE, columns, TILE, C)``: a view."""
        return self.pixels[1:-1, 1:-1].reshape(self.rows, TILE, self.columns, TILE, -1)

    def clear_beyond(self) -> None:
        """Make zero what the last tiles reach beyond the image."""
        height, width = self._size
        self.pixels[height + 1 :] = 0
        self.pixels[:, width + 1 :] = 0

    def to_image(self) -> mx.array:
        """The image, ``(H, W, C)``."""
        height, width = self._size
        return mx.contiguous(self._array[1 : height + 1, 1 : width + 1])


class Convolution:
    """One layer of a chain, its kernel transformed."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, slopes: np.ndarray):
        self._kernel = _transform_kernel(weight)
        self._bias = bias
        self._slopes = slopes
        self._is_linear = bool((slopes == 1).all())
        self._is_convex = bool((slopes <= 1).all())
        self.channels = len(weight)

    def convolve(self, source: PaddedImage, target: PaddedImage) -> None:
        """Convolve with zeros around the image, add the bias, multiply negative values by their slopes."""
        tiles = max(1, _PIECE_VALUES // max(self._kernel.shape[1:]))
        columns = min(tiles, source.columns)
        rows = max(1, tiles // columns)
        # A thread takes one and puts it back.
        size = (WINDOW**2 + 1) * rows * columns * max(self._kernel.shape[1:])
        spaces = [(np.empty(size, np.float32), np.empty(size, np.float32)) for _ in range(blas_threads())]
        outputs = target.tiles

        def compute(corner: tuple[int, int]) -> None:
            row, column = corner
            space = spaces.pop()
            piece = outputs[row : row + rows, :, column : column + columns]
            below, right = TILE * (row + piece.shape[0]) + 2, TILE * (column + piece.shape[2]) + 2
            self._compute(source.pixels[TILE * row : below, TILE * column : right], piece, space)
            spaces.append(space)

        on_all_cores(compute, product(range(0, source.rows, rows), range(0, source.columns, columns)))
        target.clear_beyond()

    def _compute(self, pixels: np.ndarray, piece: np.ndarray, space: Space) -> None:
        """``(TILE * rows + 2, TILE * columns + 2, C)`` to ``(rows, TILE, columns, TILE, O)``."""
        rows, _, columns, _, outputs = piece.shape
        first, second = space
        sums = _sum_windows(pixels, rows, columns, space)
        products = first[: (WINDOW**2 + 1) * rows * columns * outputs].reshape(WINDOW**2 + 1, -1, outputs)
        np.matmul(sums, self._kernel, out=products[:-1])
        products[-1] = self._bias
        values = second[: piece.size].reshape(TILE**2, -1)
        np.matmul(_BIASED_SUMS, products.reshape(WINDOW**2 + 1, -1), out=values)
        values = values.reshape(TILE, TILE, rows, columns, outputs)
        if not self._is_linear:
            self._activate(values, first[: values.size].reshape(values.shape))
        piece[...] = values.transpose(2, 1, 3, 0, 4)

    def _activate(self, values: np.ndarray, scaled: np.ndarray) -> None:
        """PReLU in place; ``scaled`` is written."""
        np.multiply(values, self._slopes, out=scaled)
        if self._is_convex:
            np.maximum(values, scaled, out=values)
        else:
            np.copyto(values, scaled, where=values < 0)


def _sum_windows(pixels: np.ndarray, rows: int, columns: int, space: Space) -> np.ndarray:
    """Sums of the windows of a piece, ``(36, rows * columns, C)``, in the second array of ``space``."""
    first, second = space
    channels = pixels.shape[-1]
    windows = first[: WINDOW**2 * rows * columns * channels].reshape(WINDOW, WINDOW, rows, columns, channels)
    for row in range(rows):
        lines = pixels[TILE * row : TILE * row + WINDOW]
        sums = second[: lines.size].reshape(WINDOW, -1)
        np.matmul(_INPUT_SUMS, lines.reshape(WINDOW, -1), out=sums)
        # Columns of the windows come first from here on, so that sums of them are one product, too.
        across = sliding_window_view(sums.reshape(lines.shape), WINDOW, 1)[:, ::TILE]
        windows[:, :, row] = across.transpose(3, 0, 1, 2)
    sums = second[: windows.size].reshape(WINDOW, -1)
    np.matmul(_INPUT_SUMS, windows.reshape(WINDOW, -1), out=sums)
    return sums.reshape(WINDOW**2, -1, channels)


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices of the sums of inputs ``(6, 6)``, of the kernel ``(6, 3)`` and of products ``(4, 6)``."""
    others = np.array([np.delete(_POINTS, k) for k in range(len(_POINTS))])
    inputs = np.zeros((WINDOW, WINDOW))
    inputs[:-1, :-1] = [np.poly(other)[::-1] for other in others]
    inputs[-1] = np.poly(_POINTS)[::-1]
    kernel = _POINTS[:, None] ** np.arange(3) / np.prod(_POINTS[:, None] - others, axis=1, keepdims=True)
    kernel = np.concatenate([kernel, np.eye(1, 3, 2)])
    products = _POINTS ** np.arange(TILE)[:, None]
    products = np.concatenate([products, np.eye(1, TILE, TILE - 1).T], axis=1)
    return (inputs * _SCALES).round(12), kernel / _SCALES, products


# Sums of the inputs, of the kernel and of the products along one axis.
INPUT_SUMS, KERNEL_SUMS, PRODUCT_SUMS = _matrices()
_INPUT_SUMS = INPUT_SUMS.astype(np.float32)
# Along both axes, and one product more, the bias, which each output takes.
_BIASED_SUMS = np.pad(np.kron(PRODUCT_SUMS, PRODUCT_SUMS), [(0, 0), (0, 1)], constant_values=1).astype(np.float32)
_KERNEL_SUMS = np.kron(KERNEL_SUMS, KERNEL_SUMS).astype(np.float32)


def _transform_kernel(weight: np.ndarray) -> np.ndarray:
    """A kernel ``(O, 3, 3, C)`` as 36 of ``(C, O)``, by columns of the window, then by rows."""
    outputs, _, _, inputs = weight.shape
    with one_blas_thread():
        sums: np.ndarray = _KERNEL_SUMS @ weight.transpose(2, 1, 3, 0).reshape(9, -1)
    return sums.reshape(WINDOW**2, inputs, outputs)
