"""Convolutions of images and clips by the fastest form that the backend has, paddings, and pixel shuffles."""

import math
from collections.abc import Sequence

import mlx.core as mx

from LTX_2_MLX.ops.cpu import images as cpu
from LTX_2_MLX.ops.cpu import numpy_forms, winograd
from LTX_2_MLX.ops.device import eval_if_large, fused, on_cpu, with_plain_gradient

# MLX unfolds the whole input, nine values for each pixel and channel. From so many bytes on, which caches do not hold,
# other forms are faster on the CPU (measured with OpenBLAS on two cores), for stride 1 and for stride 2.
_LARGE_UNFOLDED_BYTES = 4 * 2**20
_LARGE_STRIDED_BYTES = 8 * 2**20

# Chains of layers at least so wide take the CPU's Winograd form, for images that are not small.
WINOGRAD_CHANNELS = winograd.FEW_CHANNELS

# Memory of ``conv3d_3x3x3`` on a CPU beside its input and its result.
conv3d_scratch_bytes = numpy_forms.scratch_bytes

# Weight ``(O, 3, 3, C)``, bias ``(O,)``, and the slopes of the PReLU that follows, ``(O,)``, or None.
Convolution = tuple[mx.array, mx.array, mx.array | None]


def conv2d_3x3(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """Convolution with zeros around the image.

    Args:
        x: ``(B, H, W, C)``.
        weight: ``(O, 3, 3, C)``.
        bias: ``(O,)``.

    Returns:
        ``(B, H, W, O)``.
    """
    if on_cpu() and x.dtype == mx.float32 and 9 * x.nbytes >= _LARGE_UNFOLDED_BYTES:
        return with_plain_gradient(cpu.conv2d_3x3, lambda x, w, b: mx.conv2d(x, w, padding=1) + b, x, weight, bias)
    return mx.conv2d(x, weight, padding=1) + bias


def conv2d_3x3_stride2(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """Convolution at stride 2 with zeros around the image.

    Args:
        x: ``(B, H, W, C)``.
        weight: ``(O, 3, 3, C)``.
        bias: ``(O,)``.

    Returns:
        ``(B, ceil(H / 2), ceil(W / 2), O)``.
    """
    is_even = x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0
    if on_cpu() and x.dtype == mx.float32 and is_even and 9 * x.nbytes // 4 >= _LARGE_STRIDED_BYTES:
        return with_plain_gradient(
            cpu.conv2d_3x3_stride2, lambda x, w, b: mx.conv2d(x, w, stride=2, padding=1) + b, x, weight, bias
        )
    return mx.conv2d(x, weight, stride=2, padding=1) + bias


def conv_transpose2d_2x(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """Transposed convolution of 4×4 at stride 2 and padding 1, which doubles the size.

    Args:
        x: ``(B, H, W, C)``.
        weight: ``(O, 4, 4, C)``.
        bias: ``(O,)``.

    Returns:
        ``(B, 2 * H, 2 * W, O)``.
    """
    if on_cpu() and x.dtype == mx.float32:
        return with_plain_gradient(
            cpu.conv_transpose2d_2x, lambda x, w, b: mx.conv_transpose2d(x, w, stride=2, padding=1) + b, x, weight, bias
        )
    return mx.conv_transpose2d(x, weight, stride=2, padding=1) + bias


def conv3d_3x3x3(x: mx.array, weight: mx.array, bias: mx.array, *, spatial_padding: int) -> mx.array:
    """Convolution over time, height and width.

    Args:
        x: ``(B, T + 2, H, W, C)``, padded in time beforehand. Fewer than three frames are none of the result's.
        weight: ``(O, 3, 3, 3, C)``.
        bias: ``(O,)``.
        spatial_padding: Zeros around each frame, 0 or 1.

    Returns:
        ``(B, T, H', W', O)``, H' and W' smaller by two where nothing is padded.
    """
    if x.shape[1] < 3:
        batch, _, height, width, _ = x.shape
        border = 2 - 2 * spatial_padding
        return mx.zeros((batch, 0, height - border, width - border, len(weight)), x.dtype)
    if not on_cpu() or x.dtype != mx.float32:
        return mx.conv3d(x, weight, padding=(0, spatial_padding, spatial_padding)) + bias
    zeros = (spatial_padding, spatial_padding)
    padded = mx.pad(x, [(0, 0), (0, 0), zeros, zeros, (0, 0)])
    return with_plain_gradient(numpy_forms.conv3d_3x3x3, lambda x, w, b: mx.conv3d(x, w) + b, padded, weight, bias)


def conv3x3_chain(x: mx.array, layers: Sequence[Convolution]) -> mx.array:
    """Convolutions of 3×3 one after another, each but the last followed by a PReLU.

    Args:
        x: ``(B, H, W, C)``.
        layers: The convolutions and the slopes of their activations.

    Returns:
        ``(B, H, W, O)`` of the last one.
    """
    if on_cpu() and x.dtype == mx.float32 and winograd.is_faster(x, layers):
        return winograd.conv3x3_chain(x, layers)
    for weight, bias, slope in layers:
        if slope is None:
            x = conv2d_3x3(x, weight, bias)
        elif x.dtype == mx.float32:
            x = prelu(conv2d_3x3(x, weight, bias), slope)
        else:
            x = _biased_prelu(mx.conv2d(x, weight, padding=1), bias, slope)
        x = eval_if_large(x)
    return x


def prelu(x: mx.array, slope: mx.array) -> mx.array:
    """``x`` with its negative values multiplied by one slope per channel, of any sign and size."""
    # Six times as fast on the CPU as a choice between two values.
    return x - (1 - slope) * mx.minimum(x, 0)


@fused
def _biased_prelu(x: mx.array, bias: mx.array, slope: mx.array) -> mx.array:
    """Bias and PReLU in float32, rounded once; in 16 bit each of five operations would round."""
    biased = x.astype(mx.float32) + bias.astype(mx.float32)
    return prelu(biased, slope.astype(mx.float32)).astype(x.dtype)


def pad_edge(x: mx.array, axis: int, before: int, after: int) -> mx.array:
    """``x`` with its first slice along ``axis`` repeated ``before`` times in front, its last ``after`` times behind."""
    if before == after == 0:
        return x
    first = mx.split(x, [1], axis=axis)[0]
    last = mx.split(x, [x.shape[axis] - 1], axis=axis)[1]
    return mx.concatenate([first] * before + [x] + [last] * after, axis=axis)


def pad_mirror(x: mx.array, axis: int) -> mx.array:
    """``x`` with one slice more at both ends of ``axis``, mirrored around the edge: ``[1, 0, 1, ..., n, n - 1]``.

    The axis must hold at least two slices.
    """
    length = x.shape[axis]
    second = mx.split(x, [1, 2], axis=axis)[1]
    last_but_one = mx.split(x, [length - 2, length - 1], axis=axis)[1]
    return mx.concatenate([second, x, last_but_one], axis=axis)


def pixel_shuffle(x: mx.array, factors: tuple[int, ...]) -> mx.array:
    """Spread channels over the axes before them: ``(..., T, H, W, C)`` by (a, b, c) to ``(..., aT, bH, cW, C / abc)``.

    One factor for each of the last axes before the channels. Input channel ``((c * a + i) * b + j) * c' + k`` becomes
    channel c at offset (i, j, k): the output's channel is the slowest part of the index.
    """
    lead = x.ndim - 1 - len(factors)
    sizes = x.shape[lead:-1]
    x = x.reshape(*x.shape[:-1], x.shape[-1] // math.prod(factors), *factors)
    channel = lead + len(factors)
    pairs = []
    grown = []
    for number, factor in enumerate(factors):
        pairs += [lead + number, channel + 1 + number]
        grown.append(sizes[number] * factor)
    return x.transpose(*range(lead), *pairs, channel).reshape(*x.shape[:lead], *grown, x.shape[channel])


def pixel_unshuffle(x: mx.array, factors: tuple[int, ...]) -> mx.array:
    """Gather offsets into channels: the inverse of :func:`pixel_shuffle`."""
    lead, channels = x.ndim - 1 - len(factors), x.shape[-1]
    sizes = [size // factor for size, factor in zip(x.shape[lead:-1], factors, strict=True)]
    split = [n for size, factor in zip(sizes, factors, strict=True) for n in (size, factor)]
    outer = [lead + 2 * i for i in range(len(factors))]
    x = x.reshape(*x.shape[:lead], *split, channels)
    order = (*range(lead), *outer, x.ndim - 1, *(axis + 1 for axis in outer))
    return x.transpose(order).reshape(*x.shape[:lead], *sizes, channels * math.prod(factors))
