"""Norm of each pixel's channels, as the Wan autoencoders and FlashVSR's projector use it."""

import mlx.core as mx
import mlx.nn as nn


class ChannelNorm(nn.Module):
    """Scale the channels (last axis) to unit root mean square, times ``gamma``.

    Published gammas carry axes of length one behind the channels, ``ones`` says which.
    """

    def __init__(self, channels: int, *ones: int):
        super().__init__()
        self.gamma = mx.ones((channels, *ones))

    def __call__(self, x: mx.array) -> mx.array:
        # The reference floors the L2 norm at 1e-12; this floor does the same to every pixel that is not zero.
        return mx.fast.rms_norm(x, self.gamma.reshape(-1), 1e-24)
