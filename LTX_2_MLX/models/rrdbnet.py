"""Frames to frames of 1, 2, 4 or 8 times the size, by Real-ESRGAN's large network. Knows nothing of tiles or files.

Three generations of published names mean the same network; all are read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.ops.conv import conv2d_3x3, pixel_unshuffle
from LTX_2_MLX.ops.device import eval_if_large

TensorT = TypeVar("TensorT", TensorInfo, mx.array)

# More than any published file has; looking through the names of a large model for old forms takes long.
_MOST_TENSORS = 4000
_WRAPPERS = re.compile(r"^(module|netG)\.")
# Names of 2018's training code: RRDB_trunk.0.RDB1.conv1, trunk_conv, upconv1, HRconv.
_TRUNK_NAMES = [
    (re.compile(r"^RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)\."), r"body.\1.rdb\2.conv\3."),
    (re.compile(r"^trunk_conv\."), "conv_body."),
    (re.compile(r"^upconv(\d)\."), r"conv_up\1."),
    (re.compile(r"^HRconv\."), "conv_hr."),
]
# Names of the first release count layers: model.1.sub.0.RDB1.conv1.0. What a number means depends on how many
# there are.
_COUNTED_BLOCK = re.compile(r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.")
_COUNTED_LAYER = re.compile(r"^model\.(1\.sub\.)?(\d+)\.(weight|bias)$")


@dataclass(frozen=True)
class RRDBNetConfig:
    """Sizes of a large network; published files tell them by names and shapes alone.

    Attributes:
        num_features: Channels between dense blocks (``num_feat``).
        num_blocks: Residual-in-residual blocks (``num_block``).
        growth: Channels that each convolution of a dense block adds (``num_grow_ch``).
        unshuffle: Pixels along each axis folded into channels first; a network of factor 2 is one of 4 with this at 2.
        doublings: Times that features are doubled in size.
    """

    num_features: int = 64
    num_blocks: int = 23
    growth: int = 32
    unshuffle: int = 1
    doublings: int = 2

    @classmethod
    def from_header(cls, header: Header) -> "RRDBNetConfig | None":
        """Sizes read from the tensors, or None if this is another network.

        Raises:
            CheckpointError: If it is a relative of the network with other layers or channels.
        """
        if len(header.tensors) > _MOST_TENSORS:
            return None
        tensors = modern_names({_WRAPPERS.sub("", name): info for name, info in header.tensors.items()})
        first, dense = tensors.get("conv_first.weight"), tensors.get("body.0.rdb1.conv1.weight")
        if first is None or dense is None or len(first.shape) != 4 or len(dense.shape) != 4:
            return None
        if plus := sorted(name for name in tensors if "conv1x1" in name):
            raise CheckpointError(
                f"This is ESRGAN+, whose dense blocks have extra layers ({plus[0]}); use an ESRGAN file."
            )
        folded = {3: 1, 12: 2, 48: 4}.get(first.shape[1])
        if folded is None:
            raise CheckpointError(
                f"conv_first.weight takes {first.shape[1]} channels, expected 3, 12 or 48: RGB images, whole or "
                f"folded by 2 or 4."
            )
        last = tensors.get("conv_last.weight")
        if last is not None and last.shape[:1] != (3,):
            raise CheckpointError(
                f"conv_last.weight has shape {last.shape}, expected 3 channels at its end: RGB images. "
                f"Use an upscaler of colour images."
            )
        doublings = sum(f"conv_up{i}.weight" in tensors for i in (1, 2, 3))
        if 2**doublings < folded:
            raise CheckpointError(
                f"It folds pixels by {folded} and doubles {doublings} times, which reduces the size. "
                f"Is it another kind of network?"
            )
        return cls(
            num_features=first.shape[0],
            num_blocks=len({name.split(".")[1] for name in tensors if name.startswith("body.")}),
            growth=dense.shape[0],
            unshuffle=folded,
            doublings=doublings,
        )


class RRDBNet(nn.Module):
    """Upscale frames, each by itself.

    Shape:
        frames ``(B, H, W, 3)`` in [0, 1], H and W multiples of ``multiple`` ->
        ``(B, scale * H, scale * W, 3)``, about [0, 1], not clamped.

    Source: XPixelGroup/BasicSR, basicsr/archs/rrdbnet_arch.py at 8d56e3a0; the third doubling:
    ai-forever/Real-ESRGAN, RealESRGAN/rrdbnet_arch.py at 362a0316; old names: chaiNNer-org/spandrel,
    libs/spandrel/spandrel/architectures/ESRGAN at b0c3eb2d.
    """

    Config = RRDBNetConfig

    def __init__(self, config: RRDBNetConfig):
        super().__init__()
        width = config.num_features
        self.conv_first = _convolution(3 * config.unshuffle**2, width)
        self.body = [ResidualInResidual(width, config.growth) for _ in range(config.num_blocks)]
        self.conv_body = _convolution(width, width)
        for i in range(config.doublings):
            setattr(self, f"conv_up{i + 1}", _convolution(width, width))
        self.conv_hr = _convolution(width, width)
        self.conv_last = _convolution(width, 3)
        self.multiple = config.unshuffle
        self.doublings = config.doublings
        self.scale = 2**config.doublings // config.unshuffle
        self.width = config.num_features
        # Input pixels to each side that an output pixel depends on: five in each of three dense blocks, four around.
        self.reach = (15 * config.num_blocks + 4) * config.unshuffle

    @property
    def dtype(self) -> mx.Dtype:
        """What the convolutions compute in."""
        return self.conv_first.weight.dtype

    def __call__(self, frames: mx.array) -> mx.array:
        features = convolve(self.conv_first, pixel_unshuffle(frames, (self.multiple, self.multiple)))
        hidden = features
        for block in self.body:
            hidden = block(hidden)
        hidden = features + convolve(self.conv_body, hidden)
        for i in range(self.doublings):
            doubled = mx.repeat(mx.repeat(hidden, 2, axis=1), 2, axis=2)
            hidden = eval_if_large(leaky_relu(convolve(self[f"conv_up{i + 1}"], doubled)))
        hidden = eval_if_large(leaky_relu(convolve(self.conv_hr, hidden)))
        return convolve(self.conv_last, hidden)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Names without training wrappers; the file holds nothing else, so every name is one of ours or wrong."""
        return _WRAPPERS.sub("", published)

    @staticmethod
    def prepare(weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Weights under the names of today, whichever generation they came in."""
        return modern_names(weights)


class ResidualInResidual(nn.Module):
    """Three dense blocks in a row, added to their input at a fifth: ``(B, H, W, C)`` -> the same."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.rdb1 = DenseBlock(width, growth)
        self.rdb2 = DenseBlock(width, growth)
        self.rdb3 = DenseBlock(width, growth)

    def __call__(self, x: mx.array) -> mx.array:
        return 0.2 * self.rdb3(self.rdb2(self.rdb1(x))) + x


class DenseBlock(nn.Module):
    """Five convolutions, each over everything before it, added at a fifth: ``(B, H, W, C)`` -> the same."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        for i in range(4):
            setattr(self, f"conv{i + 1}", _convolution(width + i * growth, growth))
        self.conv5 = _convolution(width + 4 * growth, width)

    def __call__(self, x: mx.array) -> mx.array:
        hidden = x
        for i in range(4):
            added = leaky_relu(convolve(self[f"conv{i + 1}"], hidden))
            hidden = eval_if_large(mx.concatenate([hidden, added], axis=-1))
        return eval_if_large(0.2 * convolve(self.conv5, hidden) + x)


def modern_names(tensors: Mapping[str, TensorT]) -> dict[str, TensorT]:
    """The same tensors, headers or arrays, under today's names."""
    if "model.0.weight" in tensors and "model.1.sub.0.RDB1.conv1.0.weight" in tensors:
        return _named_layers(tensors)
    renamed = dict(tensors)
    for pattern, today in _TRUNK_NAMES:
        renamed = {pattern.sub(today, name): value for name, value in renamed.items()}
    return renamed


def _named_layers(tensors: Mapping[str, TensorT]) -> dict[str, TensorT]:
    """Counted layers by name: the first, those that double, the last two; in the body the one after the blocks."""
    matches = [_COUNTED_LAYER.match(name) for name in tensors]
    numbers = sorted({int(match[2]) for match in matches if match and not match[1]})
    doubling: list[str] = [f"conv_up{i + 1}" for i in range(len(numbers) - 3)]
    outer = dict(zip(numbers, ["conv_first", *doubling, "conv_hr", "conv_last"], strict=False))

    def today(name: str) -> str:
        if match := _COUNTED_LAYER.match(name):
            return f"{'conv_body' if match[1] else outer.get(int(match[2]), match[2])}.{match[3]}"
        return _COUNTED_BLOCK.sub(r"body.\1.rdb\2.conv\3.", name)

    return {today(name): value for name, value in tensors.items()}


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def convolve(layer: nn.Conv2d, x: mx.array) -> mx.array:
    """A layer with a kernel of 3×3, by the backend's form."""
    return conv2d_3x3(x, layer.weight, layer.bias)


def leaky_relu(x: mx.array) -> mx.array:
    """``x`` with its negative values multiplied by 0.2."""
    return mx.maximum(x, 0.2 * x)
