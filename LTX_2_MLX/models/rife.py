"""Two frames to the one between them: IFNet of RIFE 4.22.lite. Knows nothing of clips, cuts or files.

Flow is estimated from coarse to fine by four blocks. Each sees both frames pulled together by the flow so far, at
an eighth, a quarter, half and all of their size.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.ops.conv import conv2d_3x3, conv2d_3x3_stride2, conv_transpose2d_2x, pixel_shuffle
from LTX_2_MLX.ops.device import eval_if_large
from LTX_2_MLX.ops.sampling import resize, to_be_warped, warp

_COLORS = 3
# Channels of a block's output: two flows (x, y), a mask, features for the next block.
_FLOW = 4
_MASK = 1
_FEATURES = 8
# The blocks work at the inverse of these sizes, coarse to fine.
BLOCK_SCALES = (8, 4, 2, 1)
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
        config = cls()
        expected: dict[str, tuple[int, ...]] = {
            "encode.cnn3.weight": (config.encoder_width, config.encoder_channels, 4, 4),
            f"block0.convblock.{config.num_residuals - 1}.beta": (1, config.block_channels[0], 1, 1),
        }
        for i, channels in enumerate(config.block_channels):
            expected[f"block{i}.conv0.1.0.weight"] = (channels, channels // 2, 3, 3)
        for name, shape in expected.items():
            info = header.tensors.get(f"module.{name}") or header.tensors.get(name)
            if info is None or info.shape != shape:
                return None
        return config


@dataclass(frozen=True)
class Estimate:
    """Motion between two frames, as one block leaves it.

    Attributes:
        flow: ``(B, H, W, 4)`` in pixels, float32: x and y for the first frame, then for the second.
        mask_and_features: Weight of the first frame before its sigmoid, and what the next block learns from this one,
            ``(B, h, w, 1 + 8)`` at the block's size; of the last block the weight alone.
    """

    flow: mx.array
    mask_and_features: mx.array


class IFNet(nn.Module):
    """Frame at a fraction of the way between two frames.

    Shape:
        first, second ``(B, H, W, 3)`` in [0, 1] -> ``(B, H, W, 3)``, about [0, 1], not clamped.

    Source: sgl-project/sglang, python/sglang/multimodal_gen/runtime/postprocess/rife_interpolator.py at 0bfc0102;
    HolyWu/vs-rife, vsrife/IFNet_HDv3_v4_22_lite.py at 2a7f2c8d (same network).
    """

    Config = IFNetConfig

    def __init__(self, config: IFNetConfig):
        super().__init__()
        frames_and_fraction = 2 * (_COLORS + config.encoder_channels) + 1
        self.encode = FrameEncoder(config)
        for i, channels in enumerate(config.block_channels):
            inputs = frames_and_fraction if i == 0 else frames_and_fraction + _MASK + _FEATURES + _FLOW
            setattr(self, f"block{i}", FlowBlock(inputs, channels, config.num_residuals))
        self.num_blocks = len(config.block_channels)

    def __call__(self, first: mx.array, second: mx.array, fraction: float = 0.5, *, scale: float = 1.0) -> mx.array:
        """The frame at ``fraction``, 0 to 1. A ``scale`` below 1 finds larger motion at less cost."""
        height, width = first.shape[1:3]
        encoded_first = self.encode_frame(pad_for(first, scale))
        encoded_second = self.encode_frame(pad_for(second, scale))
        return self.between(encoded_first, encoded_second, fraction, scale)[:, :height, :width]

    def encode_frame(self, frame: mx.array) -> mx.array:
        """A padded frame ``(B, H, W, 3)`` with its features behind the colours: ``(B, H, W, 3 + 4)``.

        It serves the pairs before and after the frame.
        """
        # The convolutions' dtype; flow and coordinates are always float32.
        frame = frame.astype(self.encode.cnn0.weight.dtype)
        return to_be_warped(mx.concatenate([frame, self.encode(frame)], axis=-1))

    def between(self, first: mx.array, second: mx.array, fraction: float, scale: float) -> mx.array:
        """The frame at ``fraction`` between two results of ``encode_frame``, at their size: ``(B, H, W, 3)``."""
        estimate = self.refine(None, 0, first, second, fraction, scale)
        for index in range(1, self.num_blocks):
            estimate = self.refine(estimate, index, first, second, fraction, scale)
        # Both frames are warped along the flow and mixed by the mask.
        height, width = first.shape[1:3]
        weight = mx.sigmoid(resize(estimate.mask_and_features, height, width))
        from_first = eval_if_large(warp(first[..., :_COLORS], estimate.flow[..., :2]))
        from_second = warp(second[..., :_COLORS], estimate.flow[..., 2:])
        return from_second + (from_first - from_second) * weight

    def refine(
        self,
        estimate: Estimate | None,
        index: int,
        first: mx.array,
        second: mx.array,
        fraction: float,
        scale: float,
    ) -> Estimate:
        """The estimate after block ``index``, which works at ``scale / BLOCK_SCALES[index]`` of the frames' size.

        Args:
            estimate: That of the block before; None for the first block.
            index: Number of the block, from 0.
            first: Result of ``encode_frame`` for the frame before.
            second: The same for the frame after.
            fraction: Position between the two, 0 to 1.
            scale: One of ``SCALES``.
        """
        height, width = first.shape[1:3]
        step = BLOCK_SCALES[index] / scale
        block_size = int(height / step), int(width / step)
        if estimate is None:
            first = resize(first, *block_size)
            second = resize(second, *block_size)
            known = []
        else:
            first = eval_if_large(warp(first, estimate.flow[..., :2], step))
            second = eval_if_large(warp(second, estimate.flow[..., 2:], step))
            flow = resize(estimate.flow, *block_size) / step
            learned = estimate.mask_and_features
            # The reference goes by way of the frame's size. Where that is not smaller than the block's, the detour
            # changes nothing: the two pixels whose mean the way down takes lie on one straight line.
            if 2 * step < 1:
                learned = resize(learned, height, width)
            known = [resize(learned, *block_size), flow.astype(first.dtype)]
        first_colors, first_features = mx.split(first, [_COLORS], axis=-1)
        second_colors, second_features = mx.split(second, [_COLORS], axis=-1)
        fractions = mx.full((*first.shape[:3], 1), fraction, dtype=first.dtype)
        frames = [first_colors, second_colors, first_features, second_features, fractions]
        # The features that the last block makes are not read.
        outputs = _FLOW + _MASK if index == self.num_blocks - 1 else _FLOW + _MASK + _FEATURES
        output = self[f"block{index}"](mx.concatenate([*frames, *known], axis=-1), outputs)
        flow, mask_and_features = mx.split(output, [_FLOW], axis=-1)
        flow = resize(flow.astype(mx.float32), height, width) * step
        if estimate is not None:
            flow = estimate.flow + flow
        return Estimate(eval_if_large(flow), mask_and_features)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Names stand behind ``module.`` in the published file; tensors that only training used are left out."""
        name = published.removeprefix("module.")
        return None if name.startswith(_TRAINING_ONLY) else name


class FrameEncoder(nn.Module):
    """Features of one frame at its own size: ``(B, H, W, 3)`` -> ``(B, H, W, 4)``."""

    def __init__(self, config: IFNetConfig):
        super().__init__()
        width = config.encoder_width
        self.cnn0 = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.cnn1 = nn.Conv2d(width, width, 3, padding=1)
        self.cnn2 = nn.Conv2d(width, width, 3, padding=1)
        self.cnn3 = nn.ConvTranspose2d(width, config.encoder_channels, 4, stride=2, padding=1)

    def __call__(self, frame: mx.array) -> mx.array:
        x = leaky_relu(conv2d_3x3_stride2(frame, self.cnn0.weight, self.cnn0.bias))
        x = leaky_relu(conv2d_3x3(x, self.cnn1.weight, self.cnn1.bias))
        x = eval_if_large(leaky_relu(conv2d_3x3(x, self.cnn2.weight, self.cnn2.bias)))
        return conv_transpose2d_2x(x, self.cnn3.weight, self.cnn3.bias)


class FlowBlock(nn.Module):
    """Flow, mask and features at one size: ``(B, h, w, inputs)`` -> ``(B, h, w, outputs)``; h and w are multiples of 4.

    Only the first ``outputs`` of the 13 channels are computed.
    """

    def __init__(self, inputs: int, channels: int, num_residuals: int):
        super().__init__()
        # Published as two sequences of one convolution each, hence the lists.
        self.conv0 = [
            [nn.Conv2d(inputs, channels // 2, 3, stride=2, padding=1)],
            [nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)],
        ]
        self.convblock = []
        for _ in range(num_residuals):
            self.convblock.append(ScaledResidual(channels))
        self.lastconv = [nn.ConvTranspose2d(channels, 4 * (_FLOW + _MASK + _FEATURES), 4, stride=2, padding=1)]

    def __call__(self, x: mx.array, outputs: int) -> mx.array:
        for (convolution,) in self.conv0:
            x = eval_if_large(leaky_relu(conv2d_3x3_stride2(x, convolution.weight, convolution.bias)))
        for residual in self.convblock:
            x = eval_if_large(residual(x))
        last = self.lastconv[0]
        x = conv_transpose2d_2x(x, last.weight[: 4 * outputs], last.bias[: 4 * outputs])
        return eval_if_large(pixel_shuffle(x, (2, 2)))


class ScaledResidual(nn.Module):
    """A convolution scaled per channel and added to its input; the activation comes last."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.beta = mx.ones((1, channels, 1, 1))

    def __call__(self, x: mx.array) -> mx.array:
        beta = self.beta.reshape(-1)
        scaled_weight = self.conv.weight * beta[:, None, None, None]
        return leaky_relu(conv2d_3x3(x, scaled_weight, self.conv.bias * beta) + x)


def leaky_relu(x: mx.array) -> mx.array:
    """``x`` with its negative values multiplied by 0.2."""
    return mx.maximum(x, 0.2 * x)


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
    below = -frames.shape[1] % multiple
    right = -frames.shape[2] % multiple
    return mx.pad(frames, [(0, 0), (0, below), (0, right), (0, 0)]) if below or right else frames
