"""Bicubic resizing of frames on floats."""

import mlx.core as mx
import numpy as np

# The kernel of torch.nn.functional.interpolate; Pillow's is -0.5.
_SHARPNESS = -0.75


def resize_bicubic(frames: mx.array, height: int, width: int) -> mx.array:
    """Frames ``(..., H, W, C)`` to another size, float32, not clipped.

    Pixel centres at halves, edges repeated, no antialiasing: meant for upscaling.
    """
    rows = _along(frames.astype(mx.float32), frames.ndim - 3, height)
    return _along(rows, frames.ndim - 2, width)


def _along(x: mx.array, axis: int, size: int) -> mx.array:
    if x.shape[axis] == size:
        return x
    index, weights = _taps(x.shape[axis], size)
    shape = [1] * x.ndim
    shape[axis] = size
    return sum(
        mx.take(x, mx.array(index[k]), axis=axis) * mx.array(weights[k]).reshape(shape) for k in range(len(weights))
    )


def _taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights ``(4, new_size)`` of the pixels each new pixel is made of."""
    place = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(place).astype(int) - 1
    index = first + np.arange(4)[:, None]
    distance = np.abs(place - index)
    a = _SHARPNESS
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return np.clip(index, 0, size - 1), weights.astype(np.float32)
