"""Frames to frames of 2 to 4 times the size, by the compact Real-ESRGAN network. Knows nothing of tiles or files."""

import re
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.ops.conv import Convolution, conv3x3_chain, pixel_shuffle

# Training wrappers that some published files keep before every name.
_WRAPPERS = re.compile(r"^(module|netG)\.")
_WEIGHT = re.compile(r"body\.(0|[1-9]\d{0,4})\.weight")


@dataclass(frozen=True)
class SRVGGConfig:
    """Sizes of a compact network; published files tell them by names and shapes alone.

    Attributes:
        num_features: Channels inside (``num_feat``).
        num_convolutions: Convolutions between the first and the last (``num_conv``).
        scale: Factor of the output's sides (``upscale``).
    """

    num_features: int
    num_convolutions: int
    scale: int

    @classmethod
    def from_header(cls, header: Header) -> "SRVGGConfig | None":
        """Sizes read from the tensors, or None if this is another network.

        Raises:
            CheckpointError: If it does not take RGB images, or the last convolution's channels are no scale.
        """
        shapes = {_WRAPPERS.sub("", name): info.shape for name, info in header.tensors.items()}
        if "conv_first.weight" in shapes or len(shapes.get("body.0.weight", ())) != 4 or "body.1.weight" not in shapes:
            return None
        if shapes["body.0.weight"][1:] != (3, 3, 3):
            raise CheckpointError(
                f"body.0.weight has shape {shapes['body.0.weight']}: its first convolution takes "
                f"{shapes['body.0.weight'][1]} channels, expected RGB images and windows of 3x3. Use an upscaler of "
                f"colour images."
            )
        numbers = {int(match[1]) for name in shapes if (match := _WEIGHT.fullmatch(name))}
        last = max(numbers)
        channels = shapes[f"body.{last}.weight"][0] if shapes[f"body.{last}.weight"] else 0
        scale = isqrt(channels // 3)
        if len(numbers) != last + 1 or last % 2 or scale == 0 or 3 * scale * scale != channels:
            raise CheckpointError(
                f"It has {len(numbers)} layers body.0 to body.{last}, the last one of {channels} channels. A compact "
                f"network has an odd number of them and ends with 3 * scale * scale channels. Is it another upscaler?"
            )
        return cls(num_features=shapes["body.0.weight"][0], num_convolutions=(last - 2) // 2, scale=scale)


class SRVGG(nn.Module):
    """Upscale frames, each by itself: convolutions at input size, then the difference to repeated pixels.

    Shape:
        frames ``(B, H, W, 3)`` in [0, 1] -> ``(B, scale * H, scale * W, 3)``, about [0, 1], not clamped.

    Source: xinntao/Real-ESRGAN, realesrgan/archs/srvgg_arch.py at a4abfb2979.
    """

    Config = SRVGGConfig
    # Sides of the input must be multiples of this.
    multiple = 1

    def __init__(self, config: SRVGGConfig):
        super().__init__()
        widths = [3] + [config.num_features] * (config.num_convolutions + 1)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.PReLU(outputs)]
        self.body = [*layers, nn.Conv2d(widths[-1], 3 * config.scale**2, 3, padding=1)]
        self.scale = config.scale
        self.width = config.num_features
        # Input pixels to each side that an output pixel depends on.
        self.reach = config.num_convolutions + 2

    @property
    def dtype(self) -> mx.Dtype:
        """What the convolutions compute in."""
        return self.body[0].weight.dtype

    def __call__(self, frames: mx.array) -> mx.array:
        hidden = conv3x3_chain(frames, self._layers())
        # A copy of the pixel at each position that the shuffle gives it: nearest upsampling.
        base = mx.repeat(frames, self.scale**2, axis=-1)
        return pixel_shuffle(hidden + base, (self.scale, self.scale))

    def _layers(self) -> list[Convolution]:
        """Weight, bias and slopes of each convolution; the last one has no activation behind it."""
        layers = []
        for convolution, activation in zip(self.body[:-1:2], self.body[1::2], strict=True):
            layers.append((convolution.weight, convolution.bias, activation.weight))
        return [*layers, (self.body[-1].weight, self.body[-1].bias, None)]

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """The file holds nothing else, so every name is one of ours or wrong."""
        return _WRAPPERS.sub("", published)
