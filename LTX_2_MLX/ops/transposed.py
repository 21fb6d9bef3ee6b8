"""A transposed convolution that doubles the size, computed as a plain one."""

import mlx.core as mx
import mlx.nn as nn


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
    kinds = mx.conv2d(x, taps.reshape(4 * channels, 2, 2, -1), padding=1) + mx.tile(bias, 4)
    return _placed(kinds, shuffle)


def _placed(kinds: mx.array, shuffle: int) -> mx.array:
    """Planes of the pixels of ``(B, H + 1, W + 1, 4 * O)``, whose channels are (row, column) of a pair, then O."""
    batch, height, width, channels = kinds.shape
    pixel, row, channel = channels, width * channels, channels // 4
    sizes = (batch, channel // shuffle**2, height - 1, 2, shuffle, width - 1, 2, shuffle)
    # The second output pixel of a pair begins one input pixel later.
    down, right = row + 2 * channel, pixel + channel
    steps = (height * row, shuffle**2, row, down, shuffle, pixel, right, 1)
    placed = mx.as_strided(mx.contiguous(kinds), sizes, steps)
    return placed.reshape(*sizes[:2], 2 * shuffle * sizes[2], 2 * shuffle * sizes[5])
