"""Convolutions over time, height and width, for whole clips and piece by piece."""

import math
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.layers.streaming import WHOLE_CLIP, StreamState
from LTX_2_MLX.ops.conv import conv3d_3x3x3
from LTX_2_MLX.ops.device import on_cpu, queued_if_large
from LTX_2_MLX.ops.pad import pad_mirror

SpatialPadding = Literal["zeros", "reflect"]
_KERNEL = 3
# macOS ends a command buffer that holds the GPU for about five seconds: this is under two of an M1 Max.
_LAUNCH_OPERATIONS = 8e12


@dataclass(frozen=True)
class Padding:
    """What a ``CausalConv3d`` reads beyond the ends of a clip and the borders of its frames.

    Attributes:
        causal: Two copies of the first frame in front. Otherwise one in front and one of the last frame behind.
        spatial: What lies one pixel beyond the border; ``reflect`` leaves out the edge pixel itself.
    """

    causal: bool
    spatial: SpatialPadding


class CausalConv3d(nn.Module):
    """A convolution by 3×3×3 whose padding in time repeats the edge frames.

    Shape:
        ``(B, T, H, W, C)`` -> ``(B, T, H, W, O)``.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/convolution.py at 400fd31.
    """

    def __init__(self, in_channels: int, out_channels: int, padding: Padding):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size=_KERNEL)
        self.frames_ahead = 0 if padding.causal else 1
        self.spatial_padding = padding.spatial

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        before = _KERNEL - 1 - self.frames_ahead
        window = state.window(x, _KERNEL, before=before, after=self.frames_ahead)
        if self.spatial_padding == "zeros":
            return state.checkpoint(convolve_frames(self.conv, window))
        mirrored = pad_mirror(pad_mirror(window, 2), 3)
        return state.checkpoint(convolve_frames(self.conv, mirrored, spatial_padding=0))


def convolve_frames(conv: nn.Conv3d, window: mx.array, spatial_padding: int = 1) -> mx.array:
    """Convolve ``(B, T + 2, H, W, C)``, padded in time beforehand, to ``(B, T, H', W', O)`` by a kernel of three."""
    if window.shape[1] < _KERNEL:
        return _no_frames(conv, window, spatial_padding)
    return conv3d_3x3x3(window, conv.weight, conv.bias, spatial_padding=spatial_padding)


def _no_frames(conv: nn.Conv3d, window: mx.array, spatial_padding: int) -> mx.array:
    border = _KERNEL - 1 - 2 * spatial_padding
    batch, _, height, width, _ = window.shape
    shape = (batch, 0, height - border, width - border, conv.weight.shape[0])
    return mx.zeros(shape, window.dtype)


def convolve_zero_padded(conv: nn.Conv3d, x: mx.array) -> mx.array:
    """``(B, T, H, W, C)`` to ``(B, T, H, W, O)`` by a kernel of three, one zero on each side of every axis."""
    return convolve_frames(conv, mx.pad(x, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)]))


def convolve_each(conv: nn.Conv2d, x: mx.array) -> mx.array:
    """Every frame of ``(B, T, H, W, C)`` by itself."""
    if x.shape[1] > 1 and not is_one_launch(conv, x):
        frames = [queued_if_large(convolve_each(conv, x[:, i : i + 1])) for i in range(x.shape[1])]
        return mx.concatenate(frames, axis=1)
    y = conv(x.reshape(-1, *x.shape[2:]))
    return y.reshape(*x.shape[:2], *y.shape[1:])


def is_one_launch(conv: nn.Conv2d | nn.Conv3d, x: mx.array) -> bool:
    """Whether a GPU may compute a convolution of ``(B, T, H, W, C)`` at once, or should do frame after frame."""
    return on_cpu() or 2 * math.prod(x.shape[:-1]) * math.prod(conv.weight.shape) <= _LAUNCH_OPERATIONS
