"""The video autoencoder's blocks: residual groups, and the steps between resolutions.

Each block takes and gives ``(B, T, H, W, C)``. Called, it maps a whole clip; ``start()`` begins a run over
consecutive frames (see ``layers.streaming``) with the same result. ``widest_channels`` is the width of a block's
largest array and ``held_channels`` what a run keeps between two pushes, both per frame and cell of its input;
``frames_late`` is how far a run's result lags behind its input.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.layers.conv import CausalConv3d
from LTX_2_MLX.layers.embedding import SINUSOID_WIDTH, sinusoid
from LTX_2_MLX.layers.norm import rms_norm
from LTX_2_MLX.layers.streaming import FrameQueue, Push, in_turn
from LTX_2_MLX.ops.pad import pad_edge
from LTX_2_MLX.ops.resample import pixel_shuffle, pixel_unshuffle

# The audio autoencoder's pixel norm has 1e-6.
NORM_EPS = 1e-8
# Rows of a residual block's table: shift and scale before each of its two convolutions.
_ROWS = 4


def activate(x: mx.array, shift: mx.array | None = None, scale: mx.array | None = None) -> mx.array:
    """Channels over their root mean square, modulated by rows ``(B, C)`` where there are any, through SiLU."""
    x = rms_norm(x, NORM_EPS)
    if shift is not None:
        x = x * (1 + scale[:, None, None, None]) + shift[:, None, None, None]
    return nn.silu(x)


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
        return self.linear_2(nn.silu(self.linear_1(x.astype(self.linear_1.weight.dtype))))


class ResBlock(nn.Module):
    """Two convolutions beside the identity, each after norm and SiLU.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/resnet.py at 400fd31.
    """

    def __init__(self, channels: int, timestep_conditioning: bool, **padding):
        super().__init__()
        self.conv1 = CausalConv3d(channels, channels, **padding)
        self.conv2 = CausalConv3d(channels, channels, **padding)
        if timestep_conditioning:
            self.scale_shift_table = mx.zeros((_ROWS, channels))

    def start(self, embedding: mx.array | None = None, *, evaluate: bool = True) -> Push:
        """Begin a run; ``embedding`` is ``(B, 4 C)`` in a timestep-conditioned network.

        ``evaluate=False`` leaves all of it to one graph, which MLX can compile.
        """
        rows = [None] * _ROWS
        if embedding is not None:
            rows = [*(embedding.reshape(len(embedding), _ROWS, -1) + self.scale_shift_table).swapaxes(0, 1)]
        shortcut, conv1, conv2 = FrameQueue(), self.conv1.start(), self.conv2.start()

        def push(frames: mx.array | None, last: bool) -> mx.array | None:
            shortcut.put(frames)
            update = conv1(None if frames is None else activate(frames, *rows[:2]), last)
            # Two convolutions in one graph would have their working memory at the same time.
            if evaluate and update is not None:
                mx.eval(update)
            update = conv2(None if update is None else activate(update, *rows[2:]), last)
            if update is None:
                return None
            update = shortcut.take(update.shape[1]) + update
            if evaluate:
                mx.eval(update)
            return update

        return push


class ResGroup(nn.Module):
    """Residual blocks in a row, with one embedding of the timestep for all of them where it is wanted."""

    def __init__(self, channels: int, num_layers: int, timestep_conditioning: bool = False, **padding):
        super().__init__()
        self.widest_channels = self.out_channels = channels
        self.frames_late = 0 if padding["causal"] else 2 * num_layers
        # Two frames for each convolution and, where it looks ahead, two of the shortcut.
        self.held_channels = num_layers * channels * (4 if padding["causal"] else 6)
        self.res_blocks = [ResBlock(channels, timestep_conditioning, **padding) for _ in range(num_layers)]
        if timestep_conditioning:
            self.time_embedder = TimeEmbedder(_ROWS * channels)

    def __call__(self, x: mx.array, timestep: mx.array | None = None) -> mx.array:
        return self.start(timestep, evaluate=False)(x, True)

    def start(self, timestep: mx.array | None = None, *, evaluate: bool = True) -> Push:
        """Begin a run; ``timestep`` is ``(B,)``, already scaled; ``evaluate`` as in ``ResBlock``."""
        embedding = None if timestep is None else self.time_embedder(timestep)
        return in_turn(*(block.start(embedding, evaluate=evaluate) for block in self.res_blocks))


class Downsample(nn.Module):
    """Space (and time) to channels, after a convolution and beside it.

    The branch beside it takes the mean over groups of consecutive channels. A clip with an odd number of frames stays
    one: its first frame is doubled before both branches.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/sampling.py at 400fd31.
    """

    def __init__(self, channels: int, stride: tuple[int, int, int], multiplier: int, **padding):
        super().__init__()
        self.stride, self.out_channels = stride, channels * multiplier
        cells = math.prod(stride)
        if self.out_channels % cells or channels * cells % self.out_channels:
            raise CheckpointError(
                f"config.vae asks for a step from {channels} to {self.out_channels} channels that gathers {cells} "
                f"cells; neither divides into the other. Use the file as published."
            )
        self.widest_channels, self.held_channels = channels, 4 * channels
        self.conv = CausalConv3d(channels, self.out_channels // cells, **padding)

    def __call__(self, x: mx.array) -> mx.array:
        return self.start()(x, True)

    def start(self) -> Push:
        """Begin a run."""
        shortcut, updates, conv = FrameQueue(), FrameQueue(), self.conv.start()
        first = True

        def push(frames: mx.array | None, last: bool) -> mx.array | None:
            nonlocal first
            if frames is not None and first:
                frames, first = pad_edge(frames, 1, before=self.stride[0] - 1, after=0), False
            shortcut.put(frames)
            updates.put(conv(frames, last))
            ready = len(updates) // self.stride[0] * self.stride[0]
            return self._gather(updates.take(ready), shortcut.take(ready)) if ready else None

        return push

    def _gather(self, update: mx.array, shortcut: mx.array) -> mx.array:
        shortcut = pixel_unshuffle(shortcut, self.stride)
        shortcut = shortcut.reshape(*shortcut.shape[:-1], self.out_channels, -1).mean(axis=-1)
        return pixel_unshuffle(update, self.stride) + shortcut


class Upsample(nn.Module):
    """Channels to space (and time) after a convolution, with the rearranged input added where it is wanted.

    Of a clip that grows in time the first frame is dropped: T becomes 2 T - 1.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/sampling.py at 400fd31.
    """

    def __init__(self, channels: int, stride: tuple[int, int, int], multiplier: int, residual: bool, **padding):
        super().__init__()
        cells = math.prod(stride)
        if channels % multiplier or (residual and (channels % cells or cells % multiplier)):
            raise CheckpointError(
                f"config.vae asks for a step from {channels} to {channels / multiplier:g} channels over {cells} cells; "
                f"the channels do not divide. Use the file as published."
            )
        self.stride, self.residual, self.out_channels = stride, residual, channels // multiplier
        self.frames_late = 0 if padding["causal"] else 1
        self.widest_channels, self.held_channels = cells * self.out_channels, (3 if residual else 2) * channels
        self.conv = CausalConv3d(channels, self.widest_channels, **padding)

    def __call__(self, x: mx.array, timestep: mx.array | None = None) -> mx.array:
        return self.start(timestep)(x, True)

    def start(self, timestep: mx.array | None = None) -> Push:
        """Begin a run; the timestep plays no part in it."""
        shortcut, conv = FrameQueue(), self.conv.start()
        drop = self.stride[0] - 1

        def push(frames: mx.array | None, last: bool) -> mx.array | None:
            nonlocal drop
            if self.residual:
                shortcut.put(frames)
            update = conv(frames, last)
            if update is None:
                return None
            grown = self._spread(update, shortcut.take(update.shape[1]) if self.residual else None)
            grown, drop = grown[:, drop:], 0
            return grown if grown.shape[1] else None

        return push

    def _spread(self, update: mx.array, shortcut: mx.array | None) -> mx.array:
        grown = pixel_shuffle(update, self.stride)
        if shortcut is None:
            return grown
        shortcut = pixel_shuffle(shortcut, self.stride)
        # The channels repeat as a whole (a b a b), not one by one (a a b b).
        return grown + mx.concatenate([shortcut] * (self.out_channels // shortcut.shape[-1]), axis=-1)
