"""Convolutions and attention with the roundings of Metal, computed on the CPU.

Metal computes most convolutions as one matrix product: sums in float32, the result rounded once. Two forms round more
often. A convolution over frames is a sum of two-dimensional ones, and every one of them and every sum is rounded. A
wide one of 3×3 goes by Winograd's algorithm unless MLX_CONV_WINOGRAD is 0: the transformed kernel, the transformed
image and the products are rounded, and the last transform enlarges their errors.

Which form a convolution takes follows from its shapes. Source: ml-explore/mlx, mlx/backend/metal/conv.cpp at 846d176
(``dispatch_conv_2D_gpu``, ``dispatch_conv_3D_gpu``); the switch as in 0.32.4. What no CPU shows are the order of sums
within float32 and the fast mathematics of Metal's kernels.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, reduce
from operator import add
from typing import Any

import mlx.core as mx
import numpy as np

# What the gates of both forms ask for.
FEWEST_WINOGRAD_PIXELS = 4096
FEWEST_WINOGRAD_CHANNELS = 256
LONGEST_SLICED_KERNEL = 7
_TILE = 6
_WINDOW = _TILE + 2
# Polynomials are evaluated at these points and at infinity.
_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)

Shape = Sequence[int]


def goes_by_winograd(images: Shape, weight: Shape) -> bool:
    """Whether a 2-D convolution of stride 1, ``(N, H, W, C)`` by ``(O, H', W', C)``, goes by Winograd."""
    outputs, *kernel, inputs = weight
    wide = inputs % 32 == outputs % 32 == 0 and inputs + outputs >= FEWEST_WINOGRAD_CHANNELS
    allowed = os.environ.get("MLX_CONV_WINOGRAD", "1") != "0"
    return allowed and kernel == [3, 3] and wide and math.prod(images[:-1]) >= FEWEST_WINOGRAD_PIXELS


def goes_by_slices(x: Shape, weight: Shape, *, stride_in_time: int, padding_in_time: int) -> bool:
    """Whether a 3-D convolution, ``(N, T, H, W, C)`` by ``(O, T', H', W', C)``, is a sum of 2-D ones."""
    outputs, frames, *_, inputs = weight
    fits = inputs % 16 == 0 and (outputs <= 16 or outputs % 16 == 0)
    return fits and x[0] == 1 and frames <= LONGEST_SLICED_KERNEL and stride_in_time == 1 and padding_in_time == 0


@contextmanager
def fused_attention() -> Iterator[None]:
    """Let MLX's attention keep scores and probabilities in float32, as the fused kernels of a GPU do."""
    own = mx.fast.scaled_dot_product_attention

    def attention(*arrays: mx.array, scale: float, mask: Any = None, **options: Any) -> mx.array:
        if isinstance(mask, mx.array) and mask.dtype != mx.bool_:
            mask = mask.astype(mx.float32)
        exact = (array.astype(mx.float32) for array in arrays)
        made: mx.array = own(*exact, scale=scale, mask=mask, **options)
        return made.astype(arrays[0].dtype)

    mx.fast.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        mx.fast.scaled_dot_product_attention = own


@contextmanager
def metal_convolutions() -> Iterator[None]:
    """Let ``mx.conv1d``, ``conv2d`` and ``conv3d`` round as Metal does, for all of this process."""
    metal = _Convolutions(mx.conv1d, mx.conv2d, mx.conv3d)
    mx.conv1d, mx.conv2d, mx.conv3d = metal.product, metal.images, metal.clips
    try:
        yield
    finally:
        mx.conv1d, mx.conv2d, mx.conv3d = metal.own


class _Convolutions:
    """MLX's convolutions of one, two and three axes, with Metal's roundings; arguments as MLX's."""

    def __init__(self, *own: Any):
        self.own = own

    def product(self, x: mx.array, weight: mx.array, *options: Any, **named: Any) -> mx.array:
        """Sums in float32, one rounding."""
        convolve = self.own[x.ndim - 3]
        made: mx.array = convolve(x.astype(mx.float32), weight.astype(mx.float32), *options, **named)
        return made.astype(x.dtype)

    def images(
        self, x: mx.array, weight: mx.array, stride: Any = 1, padding: Any = 0, *options: Any, **named: Any
    ) -> mx.array:
        if not options and not named and _all_ones(stride) and goes_by_winograd(x.shape, weight.shape):
            return winograd(x, weight, _each(padding, 2))
        return self.product(x, weight, stride, padding, *options, **named)

    def clips(
        self, x: mx.array, weight: mx.array, stride: Any = 1, padding: Any = 0, *options: Any, **named: Any
    ) -> mx.array:
        strides, pads = _each(stride, 3), _each(padding, 3)
        sliced = goes_by_slices(x.shape, weight.shape, stride_in_time=strides[0], padding_in_time=pads[0])
        if options or named or not sliced:
            return self.product(x, weight, stride, padding, *options, **named)
        num_taps = weight.shape[1]
        frames = x.shape[1] - num_taps + 1
        parts = (
            self.images(x[0, tap : tap + frames], weight[:, tap], strides[1:], pads[1:]) for tap in range(num_taps)
        )
        # Every sum of two is rounded.
        return reduce(add, parts)[None]


def winograd(x: mx.array, weight: mx.array, padding: Shape) -> mx.array:
    """``(N, H, W, C)`` by ``(O, 3, 3, C)`` by F(6×6, 3×3), with the roundings of its arrays in memory.

    Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308.
    """
    of_kernel, of_image, of_result = (mx.array(matrix) for matrix in _transforms())
    dtype = x.dtype
    height, width = (size + 2 * pad - 2 for size, pad in zip(x.shape[1:3], padding, strict=True))
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    ends = [
        (pad, count * _TILE + 2 - size - pad)
        for size, pad, count in zip(x.shape[1:3], padding, (rows, columns), strict=True)
    ]
    padded = mx.pad(x.astype(mx.float32), [(0, 0), *ends, (0, 0)])
    kernel = _rounded(mx.einsum("ia,oabc,jb->ijco", of_kernel, weight.astype(mx.float32), of_kernel), dtype)
    index = mx.arange(_WINDOW)
    down = (mx.arange(rows) * _TILE)[:, None] + index
    across = (mx.arange(columns) * _TILE)[:, None] + index
    results = []
    for image in padded:
        # (rows, window, columns, window, C) of overlapping windows.
        windows = image[down][:, :, across]
        transformed = _rounded(mx.einsum("ia,yaxbc,jb->ijyxc", of_image, windows, of_image), dtype)
        products = transformed.reshape(_WINDOW, _WINDOW, rows * columns, -1) @ kernel
        products = _rounded(products, dtype).reshape(_WINDOW, _WINDOW, rows, columns, -1)
        made = mx.einsum("ai,ijyxo,bj->yaxbo", of_result, products, of_result)
        results.append(made.reshape(rows * _TILE, columns * _TILE, -1)[:height, :width].astype(dtype))
        mx.eval(results[-1])
    return mx.stack(results)


@lru_cache(maxsize=1)
def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices of the kernel ``(8, 3)``, of the image ``(8, 8)`` and of the result ``(6, 8)``, float32."""
    others = [[other for other in _POINTS if other != point] for point in _POINTS]
    scales = [math.prod(point - other for other in rest) for point, rest in zip(_POINTS, others, strict=True)]
    of_kernel = [[point**power / scale for power in range(3)] for point, scale in zip(_POINTS, scales, strict=True)]
    of_image = [[*np.poly(rest)[::-1], 0.0] for rest in others] + [np.poly(_POINTS)[::-1]]
    of_result = [[*(point**power for point in _POINTS), float(power == _TILE - 1)] for power in range(_TILE)]
    return (
        np.array([*of_kernel, [0, 0, 1]], np.float32),
        np.array(of_image, np.float32),
        np.array(of_result, np.float32),
    )


def _rounded(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """float32 values as an array of ``dtype`` holds them, in float32 again."""
    return x.astype(dtype).astype(mx.float32)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _all_ones(value: Any) -> bool:
    return value == 1 if isinstance(value, int) else all(step == 1 for step in value)
