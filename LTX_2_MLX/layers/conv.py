"""Convolutions over time, height and width, for whole clips and frame by frame."""

from typing import Literal

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.layers.streaming import Push, copy_frames, join_frames
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.ops.pad import pad_edge, pad_mirror

SpatialPadding = Literal["zeros", "reflect"]
# Frames a kernel of three needs beside the one it computes.
_HALO = 2


def convolve_frames(conv: nn.Conv3d, window: mx.array, spatial_padding: int = 1) -> mx.array:
    """Convolve ``(B, T + 2, H, W, C)``, padded in time beforehand, to ``(B, T, H', W', O)`` by a kernel of three.

    On the CPU the three slices in time run as 2-D convolutions: a third of the unfolded copy, and measured (float32,
    OpenBLAS, two cores) 1.3 to 1.8 times as fast at 32 channels, within 10 % of each other from 64 to 1024. Metal
    does this split itself.
    """
    if not on_cpu():
        return mx.conv3d(window, conv.weight, padding=(0, spatial_padding, spatial_padding)) + conv.bias
    batch, frames = window.shape[0], window.shape[1] - _HALO
    total = None
    for tap in range(_HALO + 1):
        images = window[:, tap : tap + frames].reshape(batch * frames, *window.shape[2:])
        part = mx.conv2d(images, conv.weight[:, tap], padding=spatial_padding)
        total = part if total is None else total + part
    return (total + conv.bias).reshape(batch, frames, *total.shape[1:])


def convolve_zero_padded(conv: nn.Conv3d, x: mx.array) -> mx.array:
    """``(B, T, H, W, C)`` to ``(B, T, H, W, O)`` by a kernel of three, one zero on each side of every axis."""
    return convolve_frames(conv, mx.pad(x, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)]))


def convolve_each(conv: nn.Conv2d, x: mx.array) -> mx.array:
    """Every frame of ``(B, T, H, W, C)`` by itself."""
    y = conv(x.reshape(-1, *x.shape[2:]))
    return y.reshape(*x.shape[:2], *y.shape[1:])


class CausalConv3d(nn.Module):
    """A convolution by 3×3×3 whose padding in time repeats the edge frames.

    Args:
        causal: Two copies of the first frame in front. Otherwise one in front and one of the last frame behind.
        spatial_padding: What lies one pixel beyond the border; ``reflect`` leaves out the edge pixel itself.

    Shape:
        ``(B, T, H, W, C)`` -> ``(B, T, H, W, O)``.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/convolution.py at 400fd31.
    """

    def __init__(self, in_channels: int, out_channels: int, *, causal: bool, spatial_padding: SpatialPadding):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size=3)
        self.frames_ahead = 0 if causal else 1
        self.spatial_padding = spatial_padding

    def __call__(self, x: mx.array) -> mx.array:
        return self.start()(x, True)

    def start(self) -> Push:
        """Begin a run over consecutive frames."""
        held: mx.array | None = None

        def push(frames: mx.array | None, last: bool) -> mx.array | None:
            nonlocal held
            if held is None and frames is not None:
                frames = pad_edge(frames, 1, before=_HALO - self.frames_ahead, after=0)
            window = join_frames(held, frames)
            if window is None:
                return None
            if last:
                window = pad_edge(window, 1, before=0, after=self.frames_ahead)
            length = window.shape[1]
            done = self._convolve(window) if length > _HALO else None
            if not last:
                held = copy_frames(window, length - _HALO, length)
                # Left lazy, these frames would keep the whole window alive until the next push.
                mx.eval([held] if done is None else [held, done])
            return done

        return push

    def _convolve(self, window: mx.array) -> mx.array:
        if self.spatial_padding == "zeros":
            return convolve_frames(self.conv, window)
        return convolve_frames(self.conv, pad_mirror(pad_mirror(window, 2), 3), spatial_padding=0)
