"""Differences between two frames as PSNR and SSIM."""

import math

import numpy as np

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
_TAPS, _SPREAD = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of frames ``(H, W, 3)`` uint8, over all values; infinite for equal frames."""
    difference = first.astype(np.float32) - second
    error = float(np.mean(difference * difference))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of the luma of frames ``(H, W, 3)`` uint8, at most 1.

    The window is Gaussian, 11 pixels of standard deviation 1.5, and stays inside the frame; frames with a side of
    fewer pixels are compared as one window.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity".
    """
    a = first.astype(np.float32) @ _LUMA / 255
    b = second.astype(np.float32) @ _LUMA / 255
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a = _blurred(a * a) - mean_a * mean_a
    variance_b = _blurred(b * b) - mean_b * mean_b
    covariance = _blurred(a * b) - mean_a * mean_b
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    brightness = (2 * mean_a * mean_b + _C1) / (mean_a * mean_a + mean_b * mean_b + _C1)
    return float((structure * brightness).mean())


def _blurred(plane: np.ndarray) -> np.ndarray:
    """Weighted means of the windows of a plane ``(H, W)``."""
    if min(plane.shape) < _TAPS:
        return np.full((1, 1), plane.mean(), np.float32)
    offsets = np.arange(_TAPS) - _TAPS // 2
    taps = np.exp(-(offsets**2) / (2 * _SPREAD**2)).astype(np.float32)
    taps /= taps.sum()
    height, width = plane.shape
    rows = np.zeros((height - _TAPS + 1, width), np.float32)
    for index, tap in enumerate(taps):
        rows += tap * plane[index : len(rows) + index]
    blurred = np.zeros((len(rows), width - _TAPS + 1), np.float32)
    for index, tap in enumerate(taps):
        blurred += tap * rows[:, index : blurred.shape[1] + index]
    return blurred
