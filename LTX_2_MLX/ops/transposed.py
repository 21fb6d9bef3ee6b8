"""A transposed convolution that doubles the size, computed as a plain one."""

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.ops.convolve import neighbours
from LTX_2_MLX.ops.device import on_cpu


def doubled_planes(layer: nn.ConvTranspose2d, x: mx.array, *, shuffle: int = 1, outputs: int | None = None) -> mx.array:
    """What ``layer``, a kernel of 4 at stride 2 and padding 1, makes of ``x``, as planes.

    Each output pixel depends on 2 x 2 input pixels. One convolution of that size gives all four kinds of output
    pixels; the usual way, zeros between the input pixels, does four times the work.

    Args:
        layer: Its O channels are the places of ``shuffle`` x ``shuffle`` pixels, channel by channel.
        x: ``(B, H, W, C)``.
        shuffle: Pixels along each side that the channels are spread over.
        outputs: Channels wanted after that, the first ones; None: all ``O / shuffle ** 2``.

    Returns:
        ``(B, outputs, 2 * shuffle * H, 2 * shuffle * W)``.
    """
    weight, bias = layer.weight, layer.bias
    if outputs is not None:
        weight, bias = weight[: outputs * shuffle**2], bias[: outputs * shuffle**2]
    channels = weight.shape[0]
    # Tap k of the kernel, counted from its end, is input pixel k // 2 for the output pixel k % 2 of a pair.
    taps = weight[:, ::-1, ::-1].reshape(channels, 2, 2, 2, 2, -1).transpose(2, 4, 0, 1, 3, 5)
    kinds = _convolved(x, taps.reshape(4 * channels, 2, 2, -1)) + mx.tile(bias, 4)[:, None, None]
    return _placed(kinds, shuffle)


def _convolved(x: mx.array, taps: mx.array) -> mx.array:
    """``(B, H, W, C)`` by ``(O, 2, 2, C)``, zeros around it: planes ``(B, O, H + 1, W + 1)``."""
    if not on_cpu() or x.dtype != mx.float32:
        return mx.conv2d(x, taps, padding=1).transpose(0, 3, 1, 2)
    height, width = x.shape[1:3]
    pictures = [taps.flatten(1) @ neighbours(picture, 2, 2).T for picture in x]
    return mx.stack(pictures).reshape(-1, taps.shape[0], height + 1, width + 1)


def _placed(kinds: mx.array, shuffle: int) -> mx.array:
    """Planes of the pixels of ``(B, 4 * O, H + 1, W + 1)``, whose channels are (row, column) of a pair, then O."""
    batch, channels, height, width = kinds.shape
    plane, channel = height * width, channels // 4
    sizes = (batch, channel // shuffle**2, height - 1, 2, shuffle, width - 1)
    # The second output pixel of a pair begins one input pixel later.
    steps = (channels * plane, shuffle**2 * plane, width, 2 * channel * plane + width, shuffle * plane, 1)
    kinds = mx.contiguous(kinds)
    columns = [
        mx.as_strided(kinds, sizes, steps, (second * channel + place) * plane + second)
        for second in range(2)
        for place in range(shuffle)
    ]
    return mx.stack(columns, axis=-1).reshape(*sizes[:2], 2 * shuffle * sizes[2], 2 * shuffle * sizes[5])
