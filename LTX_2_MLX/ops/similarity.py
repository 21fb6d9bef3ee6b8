"""Structural similarity of images, in NumPy: variances are differences of products, which TF32 would spoil."""

from functools import lru_cache

import numpy as np

_TAPS, _SPREAD = 11, 1.5
# (0.01 * L) ** 2 and (0.03 * L) ** 2 for pixels from 0 to L = 1.
_C1, _C2 = 0.01**2, 0.03**2


def structural_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two images, 1 for equal ones, near 0 for unrelated ones.

    The Gaussian window runs over rows, columns and colours alike, edges repeated, which the usual measure per
    channel does not do.

    Args:
        first: ``(H, W, C)`` in [0, 1], float32.
        second: The same size.

    Returns:
        At most 1.

    Source: hzwer/Practical-RIFE, model/pytorch_msssim/__init__.py (``ssim_matlab``) at 17d8c7a.
    """
    mean_1 = _blurred(first)
    mean_2 = _blurred(second)
    variance_1 = _blurred(first * first) - mean_1 * mean_1
    variance_2 = _blurred(second * second) - mean_2 * mean_2
    covariance = _blurred(first * second) - mean_1 * mean_2
    structure = (2 * covariance + _C2) / (variance_1 + variance_2 + _C2)
    brightness = (2 * mean_1 * mean_2 + _C1) / (mean_1 * mean_1 + mean_2 * mean_2 + _C1)
    return float((brightness * structure).mean())


def _blurred(x: np.ndarray) -> np.ndarray:
    height, width, channels = x.shape
    rows = (_window(height) @ x.reshape(height, -1)).reshape(x.shape)
    columns = _window(width) @ rows
    blurred: np.ndarray = columns @ _window(channels).T
    return blurred


@lru_cache(maxsize=8)
def _window(size: int) -> np.ndarray:
    """The window along an axis of ``size`` as a matrix; taps beyond the ends fall on the end itself."""
    offsets = np.arange(_TAPS) - _TAPS // 2
    taps = np.exp(-(offsets**2) / (2 * _SPREAD**2))
    matrix = np.zeros((size, size))
    for offset, tap in zip(offsets, taps / taps.sum(), strict=True):
        columns = np.clip(np.arange(size) + offset, 0, size - 1)
        matrix[np.arange(size), columns] += tap
    return matrix.astype(np.float32)
