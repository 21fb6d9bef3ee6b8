"""LTX-2's convolutional video autoencoder, 2.0 and 2.3: its config, the statistics of its latent, and the decoder.

Encoder (``video_vae_encoder``), decoder and statistics are networks of their own, so that each loads alone. Encoder and
decoder run over a clip in pieces of a bounded size with the same result as over the whole, so that memory does not grow
with the clip's length. Each block takes and gives ``(B, T, H, W, C)``, a whole clip or piece by piece (see
``layers.streaming``). Knows nothing of tiles, files or uint8.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.layers.chain import ChainLayer, run_chain
from LTX_2_MLX.layers.streaming import (
    WHOLE_CLIP,
    CausalConv3d,
    Layer,
    Padding,
    SpatialPadding,
    StreamState,
    join_frames,
    stream_layer,
)
from LTX_2_MLX.layers.transformer import SINUSOID_WIDTH, sinusoid
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config import ConfigSection
from LTX_2_MLX.ops.activation import silu
from LTX_2_MLX.ops.collective import ALONE, Group
from LTX_2_MLX.ops.conv import pixel_shuffle
from LTX_2_MLX.ops.device import on_cpu
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
_NOISE_SHARE = 0.025
_DECODE_TIMESTEP = 0.05
_STATISTICS = {"mean-of-means": "mean", "std-of-means": "std"}
_UNUSED_STATISTICS = {"channel", "mean-of-stds", "mean-of-stds_over_std-of-means"}
# The audio autoencoder's pixel norm has 1e-6.
_NORM_EPS = 1e-8
# Rows of a residual block's table: shift and scale before each of its two convolutions.
_ROWS = 4
# One copy of the largest array that a piece of a clip leads to: small enough that a run's memory is small, large
# enough that pieces do not slow it down.
_PIECE_BYTES = 128 * 2**20
_CPU_PIECE_BYTES = 8 * 2**20
# Frames that a convolution over three frames keeps between two pieces.
KEPT_FRAMES = 2


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


@dataclass(frozen=True)
class LatentStatisticsConfig:
    """Number of channels of a latent."""

    channels: int

    @classmethod
    def from_header(cls, header: Header) -> "LatentStatisticsConfig | None":
        """From the shape of the mean."""
        for name, info in header.tensors.items():
            if LatentStatistics.parameter_name(name) == "mean" and len(info.shape) == 1:
                return cls(channels=info.shape[0])
        return None


class LatentStatistics(nn.Module):
    """Mean and standard deviation of every latent channel, which normalise the autoencoder's latent.

    Loads alone: an upscaler works on latents that are not normalised and has no statistics of its own.
    """

    Config = LatentStatisticsConfig

    def __init__(self, config: LatentStatisticsConfig):
        super().__init__()
        self.mean = mx.zeros((config.channels,))
        self.std = mx.ones((config.channels,))

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter name of a tensor; None for the statistics that no release uses."""
        prefix, _, name = published.removeprefix("vae.").partition(".")
        if prefix != "per_channel_statistics" or name in _UNUSED_STATISTICS:
            return None
        return _STATISTICS.get(name, name)

    def normalise(self, latent: mx.array) -> mx.array:
        """The autoencoder's latent to the normalised one that all other networks take; float32."""
        return (latent.astype(mx.float32) - self.mean) / self.std

    def denormalise(self, latent: mx.array) -> mx.array:
        """A normalised latent to the autoencoder's own; float32."""
        return latent.astype(mx.float32) * self.std + self.mean


def activate(x: mx.array, shift: mx.array | None = None, scale: mx.array | None = None) -> mx.array:
    """Channels over their root mean square, modulated by rows ``(B, C)`` if there are any, through SiLU."""
    x = mx.fast.rms_norm(x, None, _NORM_EPS)
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


class VideoDecoder(nn.Module):
    """Latent to frames.

    Shape:
        normalised latent ``(B, T', H', W', C)`` -> frames ``(B, T, H, W, 3)``, about [-1, 1], in the weights' dtype.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/conv_video_decoder.py at 400fd31.
    """

    Config = VideoVAEConfig

    def __init__(self, config: VideoVAEConfig):
        super().__init__()
        if not config.decoder_blocks:
            raise CheckpointError("config.vae.decoder_blocks is empty: this file holds no video decoder.")
        self.config = config
        self.compression = config.decoder_compression
        padding = Padding(causal=config.causal_decoder, spatial=config.spatial_padding_mode)
        width = config.bottleneck_channels
        self.conv_in = CausalConv3d(config.latent_channels, width, padding)
        self.up_blocks: list[ResGroup | Upsample] = []
        for block in reversed(config.decoder_blocks):
            if block.stride is None:
                self.up_blocks.append(ResGroup(width, block.num_layers, config.timestep_conditioning, padding))
            else:
                self.up_blocks.append(Upsample(width, block.stride, block.multiplier, block.residual, padding))
            width = self.up_blocks[-1].out_channels
        self.conv_out = CausalConv3d(width, config.out_channels * config.patch_size**2, padding)
        self.per_channel_statistics = LatentStatistics(LatentStatisticsConfig(config.latent_channels))
        if config.timestep_conditioning:
            self.timestep_scale_multiplier = mx.array(1000.0)
            self.last_time_embedder = TimeEmbedder(2 * width)
            self.last_scale_shift_table = mx.zeros((2, width))

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter name of a tensor of the decoder or the statistics; split files lack the prefix ``vae.``."""
        return autoencoder_name(published, "decoder")

    def __call__(self, latent: mx.array, state: StreamState = WHOLE_CLIP, timestep: mx.array | None = None) -> mx.array:
        """Frames of a latent, or of the next latent frames of one, with no noise added.

        ``timestep`` is ``(B,)``, 0.05 unless given; without effect unless the network is conditioned on it.
        """
        scaled = self.scale_timestep(timestep, len(latent))
        x = self.input_layer(latent, state["conv_in"])
        for number, block in enumerate(self.up_blocks):
            x = self.up_block(block, x, state[number], scaled)
        return self.output_layer(x, state["conv_out"], scaled)

    def input_layer(self, latent: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        """The first layer: the autoencoder's own latent, then ``conv_in``."""
        x = self.per_channel_statistics.denormalise(latent)
        return self.conv_in(x.astype(self.conv_in.conv.weight.dtype), state)

    @staticmethod
    def up_block(
        block: ResGroup | Upsample, x: mx.array, state: StreamState = WHOLE_CLIP, timestep: mx.array | None = None
    ) -> mx.array:
        """One block; ``timestep`` is scaled, and only residual blocks take it."""
        return block(x, state) if isinstance(block, Upsample) else block(x, state, timestep)

    def output_layer(self, x: mx.array, state: StreamState = WHOLE_CLIP, timestep: mx.array | None = None) -> mx.array:
        """The last layer: norm, SiLU and ``conv_out``, then channels to patches of pixels; ``timestep`` is scaled."""
        shift = scale = None
        if timestep is not None:
            embedding = self.last_time_embedder(timestep)
            rows = embedding.reshape(len(embedding), 2, -1) + self.last_scale_shift_table
            shift = rows[:, 0]
            scale = rows[:, 1]
        x = self.conv_out(activate(x, shift, scale), state)
        patch = (1, self.config.patch_size, self.config.patch_size)
        return pixel_shuffle(x.swapaxes(2, 3), patch).swapaxes(2, 3)

    def scale_timestep(self, timestep: mx.array | None, batch: int) -> mx.array | None:
        """What the layers take for a timestep ``(B,)``; None unless the network is conditioned on it."""
        if not self.config.timestep_conditioning:
            return None
        if timestep is None:
            timestep = mx.full((batch,), _DECODE_TIMESTEP)
        return timestep * self.timestep_scale_multiplier

    def decode(
        self,
        latent: mx.array,
        *,
        noise: mx.array | None = None,
        timestep: mx.array | None = None,
        key: mx.array | None = None,
        piece_bytes: int | None = None,
    ) -> mx.array:
        """Frames of a latent.

        Args:
            latent: Normalised.
            noise: What a timestep-conditioned decoder mixes in, shaped as the latent; drawn from ``key`` unless given.
            timestep: ``(B,)``; 0.05 unless given.
            key: Key of the noise; key 0 unless given.
            piece_bytes: Bound on one copy of the largest array; chosen by the backend unless given.

        Raises:
            RequestError: If the latent is too small for the decoder's padding.
        """
        noisy = self.add_noise([latent], key) if noise is None else [_mix(latent, noise)]
        return join_frames(*self.stream(noisy, timestep=timestep, piece_bytes=piece_bytes, noisy=True))

    def stream(
        self,
        latents: Iterable[mx.array],
        *,
        timestep: mx.array | None = None,
        key: mx.array | None = None,
        piece_bytes: int | None = None,
        group: Group = ALONE,
        noisy: bool = False,
    ) -> Iterator[mx.array]:
        """Consecutive pieces of a latent to consecutive chunks of frames; joined, they are :meth:`decode` of the whole.

        Memory does not depend on the length of the clip. The processes of ``group`` share the layers out, and the
        first one has the frames (see ``layers.chain``). ``noisy`` latents already went through :meth:`add_noise`.
        """
        latents = iter(latents) if noisy else self.add_noise(latents, key)
        first = next(latents, None)
        if first is None:
            return
        height, width = first.shape[2:4]
        check_borders(self.config.spatial_padding_mode, (height, width), self.compression)
        scaled = self.scale_timestep(timestep, len(first))
        layers: list[Layer] = [self.input_layer]
        for block in self.up_blocks:
            layers.append(partial(block, timestep=scaled) if isinstance(block, ResGroup) else block)
        layers.append(partial(self.output_layer, timestep=scaled))
        latents = chain([first], latents)
        del first
        dtype = self.conv_in.conv.weight.dtype
        yield from stream_layers(layers, decoder_layers(self.config), latents, dtype, piece_bytes, group)

    def add_noise(self, latents: Iterable[mx.array], key: mx.array | None = None) -> Iterator[mx.array]:
        """Latents with the noise that a timestep-conditioned decoder expects; unchanged for any other.

        Each latent frame draws from a key of its own, so the pieces' lengths do not matter.
        """
        key = mx.random.key(0) if key is None else key
        for latent in latents:
            if self.config.timestep_conditioning:
                frames = []
                for _ in range(latent.shape[1]):
                    key, frame_key = mx.random.split(key)
                    frames.append(mx.random.normal((latent.shape[0], 1, *latent.shape[2:]), key=frame_key))
                latent = _mix(latent, join_frames(*frames))
            yield latent


def autoencoder_name(published: str, network: str) -> str | None:
    name = published.removeprefix("vae.")
    if name.startswith(f"{network}."):
        return name.removeprefix(f"{network}.")
    parameter = LatentStatistics.parameter_name(published)
    return None if parameter is None else f"per_channel_statistics.{parameter}"


@dataclass(frozen=True)
class LayerMemory:
    """Sizes of one layer, in values per row and column of the network's input.

    Attributes:
        widest: Values of its largest array, per frame that goes in.
        kept: Values that it keeps between two pieces.
        frames_late: Frames by which its result lags behind its input until the last piece.
        products: Of each of its steps, per frame that goes in.
        num_steps: Residual blocks of a group; 1 for other layers.
        rate: Frames that go in, per frame of the network's input.
    """

    widest: float
    kept: float
    frames_late: int = 0
    products: float = 0.0
    num_steps: int = 1
    rate: float = 1.0


def decoder_layers(config: VideoVAEConfig) -> list[LayerMemory]:
    """Layers of a ``VideoDecoder`` in order: ``conv_in``, each block, ``conv_out``."""
    width = config.bottleneck_channels
    area = 1.0
    rate = 1.0
    layers = [LayerMemory(width, KEPT_FRAMES * config.latent_channels, products=config.latent_channels * width)]
    for block in reversed(config.decoder_blocks):
        if block.stride is None:
            layers.append(res_group_memory(block, width, area, rate, config.causal_decoder))
            continue
        # The convolution's frames, and one of the shortcut.
        kept = (KEPT_FRAMES + block.residual) * width * area
        frames_late = 0 if config.causal_decoder else 1
        made = math.prod(block.stride) * (width // block.multiplier)
        layers.append(LayerMemory(made * area, kept, frames_late, products=width * made * area, rate=rate))
        area *= math.prod(block.stride[1:])
        rate *= block.stride[0]
        width //= block.multiplier
    written = config.out_channels * config.patch_size**2
    kept = KEPT_FRAMES * width * area
    layers.append(LayerMemory(max(width, written) * area, kept, products=width * written * area, rate=rate))
    return layers


def res_group_memory(block: Block, width: int, area: float, rate: float, causal: bool) -> LayerMemory:
    # Of each residual block two convolutions keep frames, and the shortcut if they look ahead.
    branches = 2 if causal else 3
    kept = block.num_layers * branches * KEPT_FRAMES * width * area
    frames_late = 0 if causal else 2 * block.num_layers
    products = 2 * width * width * area
    return LayerMemory(width * area, kept, frames_late, products=products, num_steps=block.num_layers, rate=rate)


def default_piece_bytes() -> int:
    """The bound on one copy of a piece's largest array that keeps memory small and costs no time."""
    return _CPU_PIECE_BYTES if on_cpu() else _PIECE_BYTES


def frames_at_once(layer: LayerMemory, shape: tuple[int, ...], item_bytes: int, piece_bytes: int | None = None) -> int:
    """Frames of a piece that keep the widest array within ``piece_bytes``, at least one.

    ``shape`` is that of the network's input, ``(B, T, H, W, C)``, for any T.
    """
    frame_bytes = shape[0] * shape[2] * shape[3] * layer.widest * item_bytes
    return max(1, int((piece_bytes or default_piece_bytes()) / frame_bytes))


def stream_layers(
    layers: list[Layer],
    memory: list[LayerMemory],
    chunks: Iterable[mx.array],
    dtype: mx.Dtype,
    piece_bytes: int | None,
    group: Group,
) -> Iterator[mx.array]:
    """Run a clip through ``layers``, each in pieces of as many frames as its memory allows."""
    chunks = iter(chunks)
    first = next(chunks, None)
    if first is None:
        return
    shape = first.shape
    frames: Iterator[mx.array] = chain([first], chunks)
    del first
    links = []
    for layer, sizes in zip(layers, memory, strict=True):
        most = frames_at_once(sizes, shape, dtype.size, piece_bytes)
        if group.size == 1:
            frames = stream_layer(layer, frames, most)
            continue
        late = sizes.frames_late / (sizes.num_steps * sizes.rate * shape[1])
        links.append(ChainLayer(_steps(layer), most, sizes.products * sizes.rate, late))
    for chunk in run_chain(links, frames, group) if links else frames:
        if chunk.shape[1]:
            yield chunk


def _steps(layer: Layer) -> list[Layer]:
    """The blocks of a residual group; any other layer itself."""
    if isinstance(layer, ResGroup):
        return layer.steps()
    if isinstance(layer, partial) and isinstance(layer.func, ResGroup):
        return layer.func.steps(**layer.keywords)
    return [layer]


def _mix(latent: mx.array, noise: mx.array) -> mx.array:
    return noise * _NOISE_SHARE + (1 - _NOISE_SHARE) * latent


def check_borders(padding: SpatialPadding, cells: tuple[int, int], compression: Compression) -> None:
    if padding == "reflect" and min(cells) < 2:
        raise RequestError(
            f"The latent is {cells[0]}×{cells[1]} cells, but this network mirrors its borders and needs two on each "
            f"side. Use frames of at least {2 * compression.height}×{2 * compression.width} pixels."
        )
