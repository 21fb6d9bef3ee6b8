"""A transposed convolution that doubles the size, computed as a plain one."""

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.ops.resample import pixel_shuffle


def doubled(layer: nn.ConvTranspose2d, x: mx.array) -> mx.array:
    """What ``layer``, a kernel of 4 at stride 2 and padding 1, makes of ``x``: ``(B, H, W, C)`` -> ``(B, 2H, 2W, O)``.

    Each output pixel depends on 2 x 2 input pixels. One convolution of that size gives all four kinds of output
    pixels; the usual way, zeros between the input pixels, does four times the work.
    """
    outputs, height, width = layer.weight.shape[0], x.shape[1], x.shape[2]
    # Tap k of the kernel, counted from its end, is input pixel k // 2 for the output pixel k % 2 of a pair.
    taps = layer.weight[:, ::-1, ::-1].reshape(outputs, 2, 2, 2, 2, -1)
    kinds = mx.conv2d(x, taps.transpose(2, 4, 0, 1, 3, 5).reshape(4 * outputs, 2, 2, -1), padding=1)
    kinds = kinds.reshape(*kinds.shape[:3], 4, outputs)
    # The second output pixel of a pair begins one input pixel later.
    placed = [kinds[:, i : i + height, j : j + width, 2 * i + j] for i in (0, 1) for j in (0, 1)]
    return pixel_shuffle(mx.stack(placed, axis=-1).flatten(-2), (2, 2)) + layer.bias
