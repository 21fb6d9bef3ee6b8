"""Two frames to the one between them: IFNet of RIFE 4.22.lite. Knows nothing of clips, cuts or files.

Flow is estimated from coarse to fine by four blocks. Each sees both frames pulled together by the flow so far, at
an eighth, a quarter, half and all of their size.
"""

from dataclasses import dataclass
from functools import partial
from operator import is_

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.ops.apart import cell_means, cells_apart, convolve_apart, doubled_apart, places_apart
from LTX_2_MLX.ops.convolve import Taps, convolve_3x3
from LTX_2_MLX.ops.resize import resize
from LTX_2_MLX.ops.streams import Steps, finished
from LTX_2_MLX.ops.transposed import doubled_planes
from LTX_2_MLX.ops.warp import Slopes, sample, slopes, warp

# One estimate: two flows (x, y), a mask, features for the next block.
_FLOW, _MASK, _FEATURES = 4, 1, 8
_ESTIMATE = _FLOW + _MASK + _FEATURES
# The blocks' sizes relative to the frame are the inverse of these.
_BLOCK_SCALES = (8, 4, 2, 1)
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
# Tensors that only training used, left in some published files.
_TRAINING_ONLY = ("teacher.", "caltime.")


@dataclass(frozen=True)
class IFNetConfig:
    """Sizes of the network, read from names and shapes.

    Attributes:
        block_channels: Width of each block, coarse to fine.
        num_residuals: Residual convolutions in a block (``num_resconv``).
        encoder_width: Channels inside the encoder of frames.
        encoder_channels: Features that it gives (``encode_channels``).
    """

    block_channels: tuple[int, ...] = (192, 128, 64, 32)
    num_residuals: int = 8
    encoder_width: int = 16
    encoder_channels: int = 4

    @classmethod
    def from_header(cls, header: Header) -> "IFNetConfig | None":
        """The published sizes if this is RIFE 4.22.lite, else None."""
        shapes = {name.removeprefix("module."): info.shape for name, info in header.tensors.items()}
        config = cls()
        blocks = range(len(config.block_channels))
        signs = {f"block{i}.conv0.1.0.weight": (c, c // 2, 3, 3) for i, c in zip(blocks, config.block_channels)}  # noqa: B905
        signs["encode.cnn3.weight"] = (config.encoder_width, config.encoder_channels, 4, 4)
        signs[f"block0.convblock.{config.num_residuals - 1}.beta"] = (1, config.block_channels[0], 1, 1)
        return config if all(shapes.get(name) == shape for name, shape in signs.items()) else None


class IFNet(nn.Module):
    """Frame at a place between two frames.

    Shape:
        first, second ``(B, H, W, 3)`` in [0, 1] -> ``(B, H, W, 3)``, about [0, 1], not clamped.

    Source: sgl-project/sglang, python/sglang/multimodal_gen/runtime/postprocess/rife_interpolator.py at 0bfc0102;
    HolyWu/vs-rife, vsrife/IFNet_HDv3_v4_22_lite.py at 2a7f2c8d (same network).
    """

    Config = IFNetConfig

    def __init__(self, config: IFNetConfig):
        super().__init__()
        pair = 2 * (3 + config.encoder_channels) + 1
        self.encode = FrameEncoder(config)
        for i, channels in enumerate(config.block_channels):
            inputs = pair if i == 0 else pair + _MASK + _FEATURES + _FLOW
            setattr(self, f"block{i}", FlowBlock(inputs, channels, config.num_residuals))
        self.num_blocks = len(config.block_channels)

    @property
    def dtype(self) -> mx.Dtype:
        """What the convolutions compute in; flow and coordinates are float32 always."""
        return self.encode.cnn0.weight.dtype

    def __call__(self, first: mx.array, second: mx.array, fraction: float = 0.5, *, scale: float = 1.0) -> mx.array:
        """The frame at ``fraction``, 0 to 1. A ``scale`` below 1 finds larger motion at less cost."""
        height, width = first.shape[1:3]
        first, second = (pad_for(frames, scale).astype(self.dtype) for frames in (first, second))
        return self.between(self.seen(first), self.seen(second), fraction, scale)[:, :height, :width]

    def seen(self, frames: mx.array) -> Slopes:
        """Padded frames ``(B, H, W, 3)`` as the blocks look at them: four of ``(B, 3 + 4, H, W)``.

        Planes of colours, then of the encoder's features, with their ``slopes`` for sampling. They serve the pairs
        before and after a frame.
        """
        return finished(self.seeing(frames))

    def seeing(self, frames: mx.array) -> Steps[Slopes]:
        """The steps of ``seen``, for several frames ``side_by_side``."""
        features = yield from self.encode(frames)
        return slopes(mx.concatenate([frames.transpose(0, 3, 1, 2), features], axis=1))

    def between(self, first: Slopes, second: Slopes, fraction: float, scale: float) -> mx.array:
        """The frame at ``fraction`` between two results of ``seen``, at their padded size: ``(B, H, W, 3)``."""
        return finished(self.making(first, second, fraction, scale))

    def making(self, first: Slopes, second: Slopes, fraction: float, scale: float) -> Steps[mx.array]:
        """The steps of ``between``, for several pairs ``side_by_side``."""
        *_, (flow, mask) = yield from self.estimating(first, second, fraction, scale)
        share = mx.sigmoid(_resized(mask, *flow.shape[2:]))
        first_colours, second_colours = ([part[:, :3] for part in seen] for seen in (first, second))
        from_first, from_second = warp(first_colours, flow[:, :2]), warp(second_colours, flow[:, 2:])
        return (from_second + (from_first - from_second) * share).transpose(0, 2, 3, 1)

    def estimating(
        self, first: Slopes, second: Slopes, fraction: float, scale: float
    ) -> Steps[list[tuple[mx.array, mx.array]]]:
        """What each block ends with: flow ``(B, 4, H, W)`` in pixels, and mask ``(B, 1, h, w)`` at the block's size.

        The flow holds x and y for the first frame, then for the second; the mask is before its sigmoid.
        """
        height, width = first[0].shape[2:]
        flow, rest, estimates = None, None, []
        for i in range(self.num_blocks):
            step = _BLOCK_SCALES[i] / scale
            first_pulled, second_pulled, *known = looked_at = _looked_at(first, second, flow, rest, step)
            yield looked_at
            fractions = mx.full_like(first_pulled[:, :1], fraction)
            parts = [first_pulled[:, :3], second_pulled[:, :3], first_pulled[:, 3:], second_pulled[:, 3:], fractions]
            # Nobody looks at the last block's features.
            outputs = _ESTIMATE if i + 1 < self.num_blocks else _FLOW + _MASK
            estimate = yield from self[f"block{i}"]([*parts, *known], outputs)
            yield estimate
            change = _resized(estimate[:, :_FLOW].astype(mx.float32), height, width) * step
            flow = change if flow is None else flow + change
            yield flow
            rest = estimate[:, _FLOW:]
            estimates.append((flow, rest[:, :_MASK]))
        return estimates

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Names stand behind ``module.`` in the published file; tensors that only training used are left out."""
        name = published.removeprefix("module.")
        return None if name.startswith(_TRAINING_ONLY) else name


class FrameEncoder(nn.Module):
    """Features of one frame at its own size, in steps: ``(B, H, W, 3)`` -> ``(B, 4, H, W)``."""

    def __init__(self, config: IFNetConfig):
        super().__init__()
        width = config.encoder_width
        self.cnn0 = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.cnn1 = nn.Conv2d(width, width, 3, padding=1)
        self.cnn2 = nn.Conv2d(width, width, 3, padding=1)
        self.cnn3 = nn.ConvTranspose2d(width, config.encoder_channels, 4, stride=2, padding=1)

    def __call__(self, frames: mx.array) -> Steps[mx.array]:
        hidden = _leaky(self.cnn0(frames))
        for layer in (self.cnn1, self.cnn2):
            yield hidden
            hidden = _leaky(convolve_3x3(hidden, layer.weight, layer.bias))
        yield hidden
        return doubled_planes(self.cnn3, hidden)


class FlowBlock(nn.Module):
    """One estimate at one size: planes apart, together ``(B, inputs, 2, 2, h / 2, w / 2)`` -> ``(B, outputs, h, w)``.

    It is made in steps. h and w are multiples of 4, and there are 13 outputs, of which only the first ones are made if
    fewer are wanted.
    """

    def __init__(self, inputs: int, channels: int, num_residuals: int):
        super().__init__()
        # Published as two sequences of one convolution each, hence the lists.
        self.conv0 = [
            [nn.Conv2d(inputs, channels // 2, 3, stride=2, padding=1)],
            [nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)],
        ]
        self.convblock = [ScaledResidual(channels) for _ in range(num_residuals)]
        self.lastconv = [nn.ConvTranspose2d(channels, 4 * _ESTIMATE, 4, stride=2, padding=1)]

    def __call__(self, inputs: list[mx.array], outputs: int = _ESTIMATE) -> Steps[mx.array]:
        (first,), (second,) = self.conv0
        x = _leaky(convolve_apart(inputs, first.weight, first.bias))
        yield x
        x = _leaky(second(x))
        yield x
        for residual in self.convblock:
            x = residual(x)
            yield x
        return doubled_planes(self.lastconv[0], x, shuffle=2, outputs=outputs)


class ScaledResidual(nn.Module):
    """A convolution scaled per channel and added to its input; the activation comes last."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.beta = mx.ones((1, channels, 1, 1))
        self._ready: _Ready | None = None

    def __call__(self, x: mx.array) -> mx.array:
        # The scale goes into whichever is smaller, the kernel or the picture.
        if self.conv.weight.size < x.size:
            return _added(x, self._scaled_taps()(x))
        return _leaky(convolve_3x3(x, self.conv.weight, self.conv.bias) * self.beta.reshape(-1) + x)

    def _scaled_taps(self) -> Taps:
        """The kernel with the scale in it, made once for each set of weights."""
        weights = [self.conv.weight, self.conv.bias, self.beta]
        if self._ready is None or not all(map(is_, weights, self._ready.weights)):
            scale = self.beta.reshape(-1)
            self._ready = _Ready(weights, Taps(weights[0] * scale[:, None, None, None], weights[1] * scale))
        return self._ready.taps


@dataclass(frozen=True)
class _Ready:
    weights: list[mx.array]
    taps: Taps


def padding_multiple(scale: float) -> int:
    """What the sides of a padded frame are multiples of: the coarsest block reduces by 8 / scale and then by 4.

    Raises:
        RequestError: If the scale is not one of ``SCALES``.
    """
    if scale not in SCALES:
        raise RequestError(f"The scale of frame interpolation is {scale}, it can be {', '.join(map(str, SCALES))}.")
    return max(32, int(32 / scale))


def pad_for(frames: mx.array, scale: float) -> mx.array:
    """Frames ``(B, H, W, C)`` with zeros below and to the right, up to the multiple that ``scale`` needs."""
    multiple = padding_multiple(scale)
    below, right = (-size % multiple for size in frames.shape[1:3])
    return mx.pad(frames, [(0, 0), (0, below), (0, right), (0, 0)]) if below or right else frames


@partial(mx.compile, shapeless=True)
def _leaky(x: mx.array) -> mx.array:
    # 0.2 of what is negative: sizes are taken several at a time, choices one by one.
    return 0.6 * x + 0.4 * mx.abs(x)


@partial(mx.compile, shapeless=True)
def _added(x: mx.array, change: mx.array) -> mx.array:
    return _leaky(x + change)


def _looked_at(
    first: Slopes, second: Slopes, flow: mx.array | None, rest: mx.array | None, step: float
) -> list[mx.array]:
    """Both frames pulled along the flow so far, then what the block before knew and the flow, apart at a block's size.

    A block is ``step`` times smaller than the frames.
    """
    if flow is None:
        return [_reduced(seen[0], step) for seen in (first, second)]
    pulled = [_warp_reduced(*part, step) for part in ((first, flow[:, :2]), (second, flow[:, 2:]))]
    return [*pulled, _twice(rest, step, *flow.shape[2:]), (_reduced(flow, step) / step).astype(first[0].dtype)]


def _reduced(planes: mx.array, step: float) -> mx.array:
    """Planes at a block's size, apart."""
    if step < 1:
        return _enlarged_apart(planes, step)
    return cell_means(cells_apart(planes, int(step)))


def _warp_reduced(seen: Slopes, flow: mx.array, step: float) -> mx.array:
    """A result of ``seen`` pulled along ``flow``, at a block's size and apart.

    A reduction takes the mean of the 2 x 2 pixels in the middle of each cell, so only those are sampled.
    """
    if step < 1:
        return _enlarged_apart(warp(seen, flow), step)
    height, width = flow.shape[2:]
    cells = cells_apart(flow, int(step))
    rows = places_apart(height, int(step))[:, None, :, None, :, None]
    columns = places_apart(width, int(step))[:, None, :, None, :]
    return cell_means(sample(seen, cells[:, 0] + columns, cells[:, 1] + rows))


def _twice(rest: mx.array, step: float, height: int, width: int) -> mx.array:
    """A block's estimate at the next block's size, which is twice its own, apart.

    The reference goes by way of the frame's size. Where that is not smaller than the block's, the detour changes
    nothing: the two pixels which the way down takes the mean of lie on one straight line.
    """
    if 2 * step < 1:
        return _enlarged_apart(_resized(rest, height, width), step)
    return doubled_apart(rest)


def _enlarged_apart(planes: mx.array, step: float) -> mx.array:
    larger = _resized(planes, *(int(size / step) for size in planes.shape[2:]))
    return cell_means(cells_apart(larger, 1))


def _resized(planes: mx.array, height: int, width: int) -> mx.array:
    batch, channels = planes.shape[:2]
    return resize(planes.flatten(0, 1)[..., None], height, width).reshape(batch, channels, height, width)
