"""Convolution of 3×3 as one matrix product per kernel row, over unfolded rows of the image."""

from functools import lru_cache

import mlx.core as mx
import numpy as np


def conv2d_3x3(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """``(B, H, W, C)`` convolved with ``(O, 3, 3, C)``, zeros around the image.

    MLX unfolds all nine neighbours of every pixel before it multiplies. Three neighbours and a sum of three products
    take a third of the memory and, where that does not fit into the caches, half the time (at 128×224 pixels with
    64 channels: 40 ms instead of 86).
    """
    by_row = mx.contiguous(weight.transpose(1, 0, 2, 3))
    # The transpose of contiguous rows is a view that BLAS takes without a copy.
    kernel_rows = [row.flatten(1).T for row in by_row]
    images = [_convolve_image(image, kernel_rows, bias)[None] for image in x]
    return mx.concatenate(images)


def _convolve_image(image: mx.array, kernel_rows: list[mx.array], bias: mx.array) -> mx.array:
    height, width, _ = image.shape
    unfolded = unfold(image, window_height=1, window_width=3)
    total = bias
    for i, kernel_row in enumerate(kernel_rows):
        # Kernel row i reads the image shifted by i - 1 rows; the unfolded array has one more at either end.
        shifted = unfolded[i * width : (i + height) * width]
        total = mx.addmm(total, shifted, kernel_row)
    return total.reshape(height, width, -1)


def unfold(image: mx.array, window_height: int, window_width: int) -> mx.array:
    """All windows of the image, with one pixel of zeros around it.

    Args:
        image: ``(H, W, C)``, float32.
        window_height: Rows of a window, 1 or 2.
        window_width: Columns of a window, 2 or 3.

    Returns:
        ``((H + 3 - window_height) * (W + 3 - window_width), window_height * window_width * C)``.
    """
    height, width, channels = image.shape
    border = mx.zeros(((width + 1) * channels,), dtype=image.dtype)
    line = mx.concatenate([border, image.reshape(-1), border])
    # Neighbours in a row are adjacent in memory, but beyond either end of a row lies another row: multiplying by a
    # mask goes through memory by runs of a row, which is twice as fast as a copy value by value.
    row_step = width * channels
    sizes = (height + 3 - window_height, width + 3 - window_width, window_height, window_width * channels)
    windows = mx.as_strided(line, sizes, (row_step, channels, row_step, 1))
    windows = windows * mx.array(_inside_row(width, channels, window_width))
    return windows.reshape(-1, window_height * window_width * channels)


@lru_cache(maxsize=16)
def _inside_row(width: int, channels: int, window_width: int) -> np.ndarray:
    """1 for window columns inside the image row, 0 beyond its ends; ``(windows, 1, window_width * C)``."""
    mask = np.ones((width + 3 - window_width, window_width, channels), np.float32)
    mask[0, 0] = 0
    mask[-1, -1] = 0
    return mask.reshape(-1, 1, window_width * channels)
