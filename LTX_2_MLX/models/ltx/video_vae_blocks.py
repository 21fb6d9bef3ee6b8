"""Config of the video autoencoder, and its blocks: residual groups, and the steps between resolutions.

Each block takes and gives ``(B, T, H, W, C)``, a whole clip or piece by piece (see ``layers.streaming``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.layers.streaming import WHOLE_CLIP, CausalConv3d, Layer, Padding, SpatialPadding, StreamState
from LTX_2_MLX.layers.transformer import SINUSOID_WIDTH, sinusoid
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config import ConfigSection
from LTX_2_MLX.ops.activation import silu
from LTX_2_MLX.ops.conv import pixel_shuffle, pixel_unshuffle
from LTX_2_MLX.shapes import Compression

_CLASS_NAME = "CausalVideoAutoencoder"
_STRIDES = {"space": (1, 2, 2), "time": (2, 1, 1), "all": (2, 2, 2)}
_ENCODER_KINDS = {"res_x": None} | {f"compress_{axes}_res": stride for axes, stride in _STRIDES.items()}
_DECODER_KINDS = {"res_x": None} | {f"compress_{axes}": stride for axes, stride in _STRIDES.items()}
_FIELDS = {
    "latent_channels", "decoder_base_channels", "patch_size", "in_channels", "out_channels", "encoder_blocks",
    "decoder_blocks", "causal_decoder", "timestep_conditioning", "spatial_padding_mode",
    "encoder_spatial_padding_mode",
    # The reference does not read it: the encoder's first width is latent_channels.
    "encoder_base_channels",
}  # fmt: skip
_FIXED = {
    "_class_name": _CLASS_NAME,
    "dims": 3,
    "norm_layer": "pixel_norm",
    "latent_log_var": "uniform",
    "normalize_latent_channels": False,
    "scaling_factor": 1.0,
    "use_quant_conv": False,
}
# The encoder's own section in a file whose decoder is a diffusion decoder.
_DIFFUSION_CLASS_NAME = "CausalDiffusionVAE"
_NESTED_FIELDS = {
    "blocks", "out_channels", "in_channels", "patch_size", "spatial_padding_mode",
    # Not read, as in the reference.
    "base_channels", "latent_log_var_value",
}  # fmt: skip
# The log-variance that "constant" leaves out still has its channel in conv_out, as with "uniform".
_NESTED_FIXED = {"dims": 3, "norm_layer": "pixel_norm", "latent_log_var": "constant"}
# Far above any size in use: a damaged config must not ask for endless layers.
_MOST = 8192
_PADDINGS: tuple[SpatialPadding, ...] = ("zeros", "reflect")
# The audio autoencoder's pixel norm has 1e-6.
NORM_EPS = 1e-8
# Rows of a residual block's table: shift and scale before each of its two convolutions.
_ROWS = 4


@dataclass(frozen=True)
class Block:
    """One entry of a block list.

    Attributes:
        stride: Factors in time, height and width of a block that resamples; None for residual blocks.
        num_layers: Residual blocks in a row; 0 for a block that resamples.
        multiplier: Width after an encoder block over the width before it, the inverse in a decoder.
        residual: A decoder block that adds its rearranged input.
    """

    stride: tuple[int, int, int] | None
    num_layers: int = 0
    multiplier: int = 1
    residual: bool = False


@dataclass(frozen=True)
class VideoVAEConfig:
    """The section ``vae`` of the config; defaults are those of the reference for fields a file leaves out.

    ``decoder_blocks`` is kept as published, from the pixels to the latent: the decoder runs it backwards.
    """

    encoder_blocks: tuple[Block, ...]
    decoder_blocks: tuple[Block, ...]
    latent_channels: int = 128
    decoder_base_channels: int = 128
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int = 4
    causal_decoder: bool = False
    timestep_conditioning: bool = True
    spatial_padding_mode: SpatialPadding = "reflect"  # of the decoder
    encoder_spatial_padding_mode: SpatialPadding = "zeros"

    @classmethod
    def from_header(cls, header: Header) -> Self | None:
        """The config of a convolutional video autoencoder; None where the file has none.

        Raises:
            CheckpointError: If a value is not one that the network has.
        """
        vae = header.config.get("vae")
        if vae is None or (isinstance(vae, Mapping) and vae.get("_class_name", _CLASS_NAME) != _CLASS_NAME):
            return None
        section = ConfigSection("vae", vae, _FIELDS, _FIXED)
        return cls(
            encoder_blocks=_blocks(section, "encoder_blocks", _ENCODER_KINDS, multiplier=2),
            decoder_blocks=_blocks(section, "decoder_blocks", _DECODER_KINDS, multiplier=1),
            latent_channels=section.size("latent_channels", cls.latent_channels, most=_MOST),
            decoder_base_channels=section.size("decoder_base_channels", cls.decoder_base_channels, most=_MOST),
            in_channels=section.size("in_channels", cls.in_channels, most=_MOST),
            out_channels=section.size("out_channels", cls.out_channels, most=_MOST),
            patch_size=section.size("patch_size", cls.patch_size, most=_MOST),
            causal_decoder=section.flag("causal_decoder", cls.causal_decoder),
            timestep_conditioning=section.flag("timestep_conditioning", cls.timestep_conditioning),
            spatial_padding_mode=section.choice("spatial_padding_mode", _PADDINGS, cls.spatial_padding_mode),
            encoder_spatial_padding_mode=section.choice(
                "encoder_spatial_padding_mode", _PADDINGS, cls.encoder_spatial_padding_mode
            ),
        )

    @property
    def encoder_compression(self) -> Compression:
        """Pixels per latent step of the encoder."""
        return self._compression(self.encoder_blocks)

    @property
    def decoder_compression(self) -> Compression:
        """Pixels per latent step of the decoder."""
        return self._compression(self.decoder_blocks)

    @property
    def bottleneck_channels(self) -> int:
        """Width of the decoder's first layers."""
        channels = self.decoder_base_channels
        for block in self.decoder_blocks:
            channels *= block.multiplier
        return channels

    @property
    def fewest_cells(self) -> int:
        """Height and width that a latent needs at least: borders that are mirrored take two cells."""
        return 2 if "reflect" in (self.spatial_padding_mode, self.encoder_spatial_padding_mode) else 1

    def _compression(self, blocks: tuple[Block, ...]) -> Compression:
        time = 1
        height = width = self.patch_size
        for block in blocks:
            if block.stride is not None:
                time *= block.stride[0]
                height *= block.stride[1]
                width *= block.stride[2]
        return Compression(time, height, width)


@dataclass(frozen=True)
class VideoEncoderConfig(VideoVAEConfig):
    """The same config as the encoder needs it: files with a diffusion decoder have this encoder too."""

    @classmethod
    def from_header(cls, header: Header) -> Self | None:
        """The encoder's config; None where the file has no video autoencoder.

        Raises:
            CheckpointError: If a value is not one that the network has.
        """
        vae = header.config.get("vae")
        if not isinstance(vae, Mapping) or vae.get("_class_name") != _DIFFUSION_CLASS_NAME:
            return super().from_header(header)
        if "encoder" not in vae:
            return None
        section = ConfigSection("vae.encoder", vae["encoder"], _NESTED_FIELDS, _NESTED_FIXED)
        return cls(
            encoder_blocks=_blocks(section, "blocks", _ENCODER_KINDS, multiplier=2),
            decoder_blocks=(),
            latent_channels=section.size("out_channels", most=_MOST),
            in_channels=section.size("in_channels", cls.in_channels, most=_MOST),
            patch_size=section.size("patch_size", cls.patch_size, most=_MOST),
            encoder_spatial_padding_mode=section.choice(
                "spatial_padding_mode", _PADDINGS, cls.encoder_spatial_padding_mode
            ),
        )


def _blocks(section: ConfigSection, field: str, kinds: Mapping[str, Any], multiplier: int) -> tuple[Block, ...]:
    entries = section.values.get(field, [])
    if not isinstance(entries, list):
        raise CheckpointError(f"config.vae.{field} is {entries!r:.60}; expected a list of blocks.")
    if len(entries) > _MOST:
        raise CheckpointError(f"config.vae.{field} has {len(entries)} blocks; at most {_MOST} are supported.")
    blocks = []
    for entry in entries:
        pair = isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[0], str)
        if not pair or entry[0] not in kinds:
            raise CheckpointError(f"config.vae.{field} has the block {entry!r:.60}; supported are {', '.join(kinds)}.")
        name, values = entry
        # The oldest configs give the number of layers alone.
        values = {"num_layers": values} if isinstance(values, int) else values
        if name == "res_x":
            options = ConfigSection(f"vae.{field}.{name}", values, {"num_layers"}, {"inject_noise": False})
            blocks.append(Block(stride=None, num_layers=options.size("num_layers", most=_MOST)))
            continue
        options = ConfigSection(f"vae.{field}.{name}", values, {"multiplier", "residual"})
        width = options.size("multiplier", multiplier, most=_MOST)
        # The reference passes this switch on in compress_all alone.
        residual = name == "compress_all" and options.flag("residual", False)
        blocks.append(Block(stride=kinds[name], multiplier=width, residual=residual))
    return tuple(blocks)


def activate(x: mx.array, shift: mx.array | None = None, scale: mx.array | None = None) -> mx.array:
    """Channels over their root mean square, modulated by rows ``(B, C)`` if there are any, through SiLU."""
    x = mx.fast.rms_norm(x, None, NORM_EPS)
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

    def steps(self, timestep: mx.array | None = None) -> list[Layer]:
        """The blocks one by one, each with the embedding of a scaled timestep ``(B,)``."""
        embedding = None if timestep is None else self.time_embedder(timestep)
        return [partial(block, embedding=embedding) for block in self.res_blocks]


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
