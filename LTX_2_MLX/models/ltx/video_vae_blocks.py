"""Blocks of the video autoencoder: residual groups, and the steps between resolutions.

Each takes and gives ``(B, T, H, W, C)``, a whole clip or piece by piece (see ``layers.streaming``).
"""

import math

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.layers.streaming import WHOLE_CLIP, CausalConv3d, Padding, StreamState
from LTX_2_MLX.layers.transformer import SINUSOID_WIDTH, rms_norm, sinusoid
from LTX_2_MLX.ops.activation import silu
from LTX_2_MLX.ops.conv import pixel_shuffle, pixel_unshuffle

# The audio autoencoder's pixel norm has 1e-6.
NORM_EPS = 1e-8
# Rows of a residual block's table: shift and scale before each of its two convolutions.
_ROWS = 4


def activate(x: mx.array, shift: mx.array | None = None, scale: mx.array | None = None) -> mx.array:
    """Channels over their root mean square, modulated by rows ``(B, C)`` if there are any, through SiLU."""
    x = rms_norm(x, NORM_EPS)
    if shift is not None and scale is not None:
        x = x * (1 + scale[:, None, None, None]) + shift[:, None, None, None]
    return silu(x)


class TimeEmbedder(nn.Module):
    """Scaled timesteps ``(B,)`` to ``(B, width)``."""

    def __init__(self, width: int):
        super().__init__()
        self.timestep_embedder = _TwoLinears(width)

    def __call__(self, timestep: mx.array) -> mx.array:
        return self.timestep_embedder(sinusoid(timestep))


class _TwoLinears(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_WIDTH, width)
        self.linear_2 = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_2(silu(self.linear_1(x.astype(self.linear_1.weight.dtype))))


class ResBlock(nn.Module):
    """Two convolutions beside the identity, each after norm and SiLU.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/resnet.py at 400fd31.
    """

    def __init__(self, channels: int, timestep_conditioning: bool, padding: Padding):
        super().__init__()
        self.conv1 = CausalConv3d(channels, channels, padding)
        self.conv2 = CausalConv3d(channels, channels, padding)
        if timestep_conditioning:
            self.scale_shift_table = mx.zeros((_ROWS, channels))

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP, embedding: mx.array | None = None) -> mx.array:
        """``embedding`` of the timestep is ``(B, 4 C)``, None in a network that is not conditioned on it."""
        rows: list[mx.array | None] = [None] * _ROWS
        if embedding is not None:
            modulation = embedding.reshape(len(embedding), _ROWS, -1) + self.scale_shift_table
            rows = [modulation[:, row] for row in range(_ROWS)]
        shift1, scale1, shift2, scale2 = rows
        h = self.conv1(activate(x, shift1, scale1), state["conv1"])
        h = self.conv2(activate(h, shift2, scale2), state["conv2"])
        return state.checkpoint(state.delay(x, h.shape[1]) + h)


class ResGroup(nn.Module):
    """Residual blocks in a row, with one embedding of the timestep for all of them if they are conditioned on it."""

    def __init__(self, channels: int, num_layers: int, timestep_conditioning: bool, padding: Padding):
        super().__init__()
        self.out_channels = channels
        self.res_blocks = []
        for _ in range(num_layers):
            self.res_blocks.append(ResBlock(channels, timestep_conditioning, padding))
        if timestep_conditioning:
            self.time_embedder = TimeEmbedder(_ROWS * channels)

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP, timestep: mx.array | None = None) -> mx.array:
        """``timestep`` is ``(B,)``, already scaled."""
        embedding = None if timestep is None else self.time_embedder(timestep)
        for number, block in enumerate(self.res_blocks):
            x = block(x, state[number], embedding)
        return x


class Downsample(nn.Module):
    """Space (and time) to channels, after a convolution and beside it.

    The branch beside it takes the mean over groups of consecutive channels. A clip with an odd number of frames stays
    one: its first frame is doubled before both branches.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/sampling.py at 400fd31.
    """

    def __init__(self, channels: int, stride: tuple[int, int, int], multiplier: int, padding: Padding):
        super().__init__()
        self.stride = stride
        self.out_channels = channels * multiplier
        cells = math.prod(stride)
        if self.out_channels % cells or channels * cells % self.out_channels:
            raise CheckpointError(
                f"config.vae asks for a step from {channels} to {self.out_channels} channels that gathers {cells} "
                f"cells; neither divides into the other. Use the file as published."
            )
        self.conv = CausalConv3d(channels, self.out_channels // cells, padding)

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        frames = self.stride[0]
        x = state.window(x, frames, stride=frames, before=frames - 1)
        shortcut = pixel_unshuffle(x, self.stride)
        group = shortcut.shape[-1] // self.out_channels
        shortcut = shortcut.reshape(*shortcut.shape[:-1], self.out_channels, group).mean(axis=-1)
        x = self.conv(x, state["conv"])
        return state.checkpoint(pixel_unshuffle(x, self.stride) + shortcut)


class Upsample(nn.Module):
    """Channels to space (and time) after a convolution, with the rearranged input added if ``residual``.

    The first frame of a clip that grows in time is dropped: T becomes 2 T - 1.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/sampling.py at 400fd31.
    """

    def __init__(self, channels: int, stride: tuple[int, int, int], multiplier: int, residual: bool, padding: Padding):
        super().__init__()
        cells = math.prod(stride)
        if channels % multiplier or (residual and (channels % cells or cells % multiplier)):
            raise CheckpointError(
                f"config.vae asks for a step from {channels} to {channels / multiplier:g} channels over {cells} cells; "
                f"the channels do not divide. Use the file as published."
            )
        self.stride = stride
        self.residual = residual
        self.out_channels = channels // multiplier
        self.conv = CausalConv3d(channels, cells * self.out_channels, padding)

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        h = self.conv(x, state["conv"])
        grown = pixel_shuffle(h, self.stride)
        if self.residual:
            grown = grown + self._shortcut(state.delay(x, h.shape[1]))
        _, grown = state.split_start(grown, self.stride[0] - 1)
        return state.checkpoint(grown)

    def _shortcut(self, x: mx.array) -> mx.array:
        spread = pixel_shuffle(x, self.stride)
        # The channels repeat as a whole (a b a b), not one by one (a a b b).
        return mx.concatenate([spread] * (self.out_channels // spread.shape[-1]), axis=-1)
