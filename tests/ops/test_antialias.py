"""Doubling and halving a sampling rate, held to the published transposed and strided convolutions."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.antialias import downsample_2x, upsample_2x

TAPS = np.random.default_rng(3).normal(size=12).astype(np.float32)
X = np.random.default_rng(4).normal(size=(2, 9, 3)).astype(np.float32)


def published_upsample(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, [(0, 0), (5, 5), (0, 0)], mode="edge")
    full = np.zeros((x.shape[0], 2 * padded.shape[1] + 10, x.shape[2]), np.float32)
    for position in range(padded.shape[1]):
        full[:, 2 * position : 2 * position + 12] += padded[:, position, None] * TAPS[:, None]
    return 2 * full[:, 15:-15]


def published_downsample(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, [(0, 0), (5, 6), (0, 0)], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 12, axis=1)[:, ::2]
    return windows @ TAPS


def test_upsampling_equals_the_transposed_convolution():
    upsampled = upsample_2x(mx.array(X), mx.array(TAPS))
    assert upsampled.shape == (2, 18, 3)
    assert np.allclose(upsampled, published_upsample(X), atol=1e-5)


def test_downsampling_equals_the_strided_convolution():
    x = np.repeat(X, 2, axis=1) + np.arange(18, dtype=np.float32)[:, None]
    downsampled = downsample_2x(mx.array(x), mx.array(TAPS))
    assert downsampled.shape == (2, 9, 3)
    assert np.allclose(downsampled, published_downsample(x), atol=1e-4)
