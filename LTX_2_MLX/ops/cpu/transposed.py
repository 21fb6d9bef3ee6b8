"""Transposed convolution of 4×4 at stride 2, computed as a convolution of 2×2."""

import mlx.core as mx

from LTX_2_MLX.ops.cpu.unfold import unfold


def conv_transpose2d_2x(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """``(B, H, W, C)`` to ``(B, 2 * H, 2 * W, O)``, padding 1.

    Each output pixel depends on 2×2 input pixels. One convolution of that size gives the four output pixels of
    every input pixel; MLX puts zeros between the input pixels, which is four times the work.
    """
    channels = weight.shape[0]
    # Tap k of the kernel, counted from its end, meets input pixel k // 2 in the output pixel k % 2 of a pair.
    taps = weight[:, ::-1, ::-1].reshape(channels, 2, 2, 2, 2, -1)
    kernel = taps.transpose(1, 3, 5, 2, 4, 0).reshape(-1, 4 * channels)
    images = [_double(image, kernel, channels) for image in x]
    return mx.stack(images) + bias


def _double(image: mx.array, kernel: mx.array, channels: int) -> mx.array:
    height, width, _ = image.shape
    windows = unfold(image, window_height=2, window_width=2)
    quarters = (windows @ kernel).reshape(height + 1, width + 1, 2, 2, channels)
    # The second output pixel of a pair comes from the window that begins one input pixel later.
    rows = []
    for i in range(2):
        columns = [quarters[i : i + height, j : j + width, i, j] for j in range(2)]
        rows.append(mx.stack(columns, axis=2))
    return mx.stack(rows, axis=1).reshape(2 * height, 2 * width, channels)
