"""LTX-2's latent upscalers: in space (×2, ×1.5) and in time (×2), of 2.0 and 2.3.

One class; the file's config says which. The norms' statistics run over the whole clip, so the result depends on its
length and size, and the network is never tiled. Its activations are small beside the autoencoder's.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.layers.streaming import convolve_zero_padded
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config import ConfigSection
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics
from LTX_2_MLX.ops.activation import silu
from LTX_2_MLX.ops.conv import pixel_shuffle
from LTX_2_MLX.ops.device import queued_if_large
from LTX_2_MLX.shapes import LatentShape

_CLASS_NAME = "LatentUpsampler"
_NUM_GROUPS = 32
_NORM_EPS = 1e-5
_RATIONAL_SCALES = {scale: Fraction(scale) for scale in (0.75, 1.5, 2.0, 4.0)}
_BLUR_SIZE = 5
# Far above any published size, so that a damaged config cannot ask for an endless number of layers.
_LARGEST_SIZE = 8192


@dataclass(frozen=True)
class LatentUpscalerConfig:
    """The config of an upscaler file; its fields are at the top level, not in a section."""

    in_channels: int = 128
    mid_channels: int = 512
    num_blocks_per_stage: int = 4
    spatial_upsample: bool = True
    temporal_upsample: bool = False
    spatial_scale: float = 2.0
    rational_resampler: bool = False

    @classmethod
    def from_header(cls, header: Header) -> "LatentUpscalerConfig | None":
        """The config of an upscaler; None for files without one.

        Raises:
            CheckpointError: If a value is not supported.
        """
        # Some files leave the class name out; the first layer is in all of them.
        has_name = header.config.get("_class_name", _CLASS_NAME) == _CLASS_NAME
        if not has_name or "initial_conv.weight" not in header.tensors:
            return None
        # A file may hold an autoencoder beside the upscaler, whose config is a section.
        fields = {}
        for name, value in header.config.items():
            if not isinstance(value, dict):
                fields[name] = value
        fixed = {"_class_name": _CLASS_NAME, "dims": 3}
        section = ConfigSection(_CLASS_NAME, fields, cls.__dataclass_fields__.keys(), fixed)
        spatial = section.flag("spatial_upsample", cls.spatial_upsample)
        temporal = section.flag("temporal_upsample", cls.temporal_upsample)
        # The reference ignores the rational resampler with both axes, or with time alone.
        rational = section.flag("rational_resampler", cls.rational_resampler) and spatial and not temporal
        config = cls(
            in_channels=section.size("in_channels", cls.in_channels, most=_LARGEST_SIZE),
            mid_channels=section.size("mid_channels", cls.mid_channels, most=_LARGEST_SIZE),
            num_blocks_per_stage=section.size("num_blocks_per_stage", cls.num_blocks_per_stage, most=_LARGEST_SIZE),
            spatial_upsample=spatial,
            temporal_upsample=temporal,
            spatial_scale=section.number("spatial_scale", cls.spatial_scale),
            rational_resampler=rational,
        )
        if config.mid_channels % _NUM_GROUPS:
            raise CheckpointError(
                f"config.{_CLASS_NAME}.mid_channels is {config.mid_channels}; expected a multiple of {_NUM_GROUPS}."
            )
        if not (spatial or temporal):
            raise CheckpointError(f"config.{_CLASS_NAME} upscales neither space nor time. Use the file as published.")
        if rational and config.spatial_scale not in _RATIONAL_SCALES:
            raise CheckpointError(
                f"config.{_CLASS_NAME}.spatial_scale is {config.spatial_scale:g}; "
                f"supported are {', '.join(f'{scale:g}' for scale in _RATIONAL_SCALES)}."
            )
        return config

    @property
    def scale(self) -> Fraction:
        """Factor of height and width; 1 for an upscaler in time alone."""
        if not self.spatial_upsample:
            return Fraction(1)
        return _RATIONAL_SCALES[self.spatial_scale] if self.rational_resampler else Fraction(2)

    def output_shape(self, latent: LatentShape) -> LatentShape:
        """Size of the upscaled latent."""
        num_frames = 2 * latent.num_frames - 1 if self.temporal_upsample else latent.num_frames
        height = math.ceil(latent.height * self.scale)
        width = math.ceil(latent.width * self.scale)
        return LatentShape(num_frames, height, width)


class LatentUpscaler(nn.Module):
    """A latent to a larger latent.

    Shape:
        ``(B, T, H, W, C)`` -> ``(B, T', H', W', C)``; T' is 2 T - 1 in time, H' and W' are rounded up at ×1.5.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/upsampler/{model,res_block,pixel_shuffle,
    spatial_rational_resampler,blur_downsample}.py at 400fd31.
    """

    Config = LatentUpscalerConfig

    def __init__(self, config: LatentUpscalerConfig):
        super().__init__()
        self.config = config
        channels = config.mid_channels
        self.initial_conv = nn.Conv3d(config.in_channels, channels, kernel_size=3)
        self.initial_norm = ClipGroupNorm(channels)
        self.res_blocks = []
        for _ in range(config.num_blocks_per_stage):
            self.res_blocks.append(UpscalerBlock(channels))
        self.upsampler: SpatialUpsampler | ClipUpsampler
        if config.temporal_upsample:
            self.upsampler = ClipUpsampler(channels, (2, 2, 2) if config.spatial_upsample else (2, 1, 1))
        else:
            self.upsampler = SpatialUpsampler(channels, config.scale, config.rational_resampler)
        self.post_upsample_res_blocks = []
        for _ in range(config.num_blocks_per_stage):
            self.post_upsample_res_blocks.append(UpscalerBlock(channels))
        self.final_conv = nn.Conv3d(channels, config.in_channels, kernel_size=3)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Name of the parameter that a published tensor holds; None for an autoencoder in the same file."""
        if published.startswith("vae."):
            return None
        return published.replace("upsampler.0.", "upsampler.conv.")

    def __call__(self, latent: mx.array) -> mx.array:
        """Upscale a latent that is not normalised."""
        x = latent.astype(self.initial_conv.weight.dtype)
        x = silu(self.initial_norm(convolve_zero_padded(self.initial_conv, x)))
        for block in self.res_blocks:
            x = queued_if_large(block(x))
        x = queued_if_large(self.upsampler(x))
        for block in self.post_upsample_res_blocks:
            x = queued_if_large(block(x))
        return convolve_zero_padded(self.final_conv, x)

    def upscale(self, latent: mx.array, statistics: LatentStatistics) -> mx.array:
        """Upscale a normalised latent; normalised again, float32.

        Args:
            latent: Normalised, as the transformer and the samplers have it.
            statistics: Statistics of the autoencoder of the same generation.

        Raises:
            RequestError: If the upscaler takes latents with another number of channels.
        """
        if latent.shape[-1] != self.config.in_channels:
            raise RequestError(
                f"The latent has {latent.shape[-1]} channels, the latent upscaler takes {self.config.in_channels}. "
                f"Use the upscaler that was published with this model."
            )
        return statistics.normalise(self(statistics.denormalise(latent)))


class UpscalerBlock(nn.Module):
    """Residual block of two convolutions with group norms; the last SiLU comes after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, kernel_size=3)
        self.norm1 = ClipGroupNorm(channels)
        self.conv2 = nn.Conv3d(channels, channels, kernel_size=3)
        self.norm2 = ClipGroupNorm(channels)

    def __call__(self, x: mx.array) -> mx.array:
        update = silu(self.norm1(convolve_zero_padded(self.conv1, x)))
        output: mx.array = silu(x + self.norm2(convolve_zero_padded(self.conv2, update)))
        return output


class ClipGroupNorm(nn.Module):
    """Group norm with statistics over a group's channels and all of time, height and width.

    They are computed in float32, the variance from the differences to the mean: each averages millions of values.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = mx.ones((channels,))
        self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        grouped = x.reshape(*x.shape[:-1], _NUM_GROUPS, x.shape[-1] // _NUM_GROUPS).astype(mx.float32)
        grouped = grouped - _group_mean(grouped)
        grouped = grouped * mx.rsqrt(_group_mean(mx.square(grouped)) + _NORM_EPS)
        scaled = grouped.reshape(x.shape) * self.weight.astype(mx.float32) + self.bias.astype(mx.float32)
        return scaled.astype(x.dtype)


def _group_mean(grouped: mx.array) -> mx.array:
    # Axis by axis: where values are far from zero, one long sum would lose three decimal digits of a float32.
    for axis in (-1, 3, 2, 1):
        grouped = grouped.mean(axis=axis, keepdims=True)
    return grouped


class SpatialUpsampler(nn.Module):
    """Convolution and pixel shuffle of each frame; a fraction such as 3/2 adds a blur with subsampling."""

    def __init__(self, channels: int, scale: Fraction, rational: bool):
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(channels, scale.numerator**2 * channels, kernel_size=3, padding=1)
        if rational:
            self.blur_down = BlurDown()

    def __call__(self, x: mx.array) -> mx.array:
        frames = x.reshape(-1, *x.shape[2:])
        frames = pixel_shuffle(self.conv(frames), (self.scale.numerator, self.scale.numerator))
        # With a whole factor the stored kernel is unused, as in the reference.
        if self.scale.denominator > 1:
            frames = self.blur_down(frames, self.scale.denominator)
        return frames.reshape(*x.shape[:2], *frames.shape[1:])


class BlurDown(nn.Module):
    """Blur each channel by the stored 5×5 kernel with zero padding, and take every n-th pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = mx.zeros((1, 1, _BLUR_SIZE, _BLUR_SIZE))

    def __call__(self, frames: mx.array, stride: int) -> mx.array:
        kernel = self.kernel.astype(frames.dtype).reshape(_BLUR_SIZE, _BLUR_SIZE)
        reach = _BLUR_SIZE // 2
        padded = mx.pad(frames, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
        height = -(-frames.shape[1] // stride)
        width = -(-frames.shape[2] // stride)
        total = mx.zeros((), frames.dtype)
        for row in range(_BLUR_SIZE):
            for column in range(_BLUR_SIZE):
                rows = slice(row, row + (height - 1) * stride + 1, stride)
                columns = slice(column, column + (width - 1) * stride + 1, stride)
                total = total + kernel[row, column] * padded[:, rows, columns]
        return total


class ClipUpsampler(nn.Module):
    """3-D convolution and pixel shuffle over time, or time and space, without the first frame of the result."""

    def __init__(self, channels: int, factors: tuple[int, int, int]):
        super().__init__()
        self.factors = factors
        self.conv = nn.Conv3d(channels, math.prod(factors) * channels, kernel_size=3)

    def __call__(self, x: mx.array) -> mx.array:
        return pixel_shuffle(convolve_zero_padded(self.conv, x), self.factors)[:, 1:]
