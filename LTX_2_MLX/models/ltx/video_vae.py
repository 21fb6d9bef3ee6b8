"""LTX-2's convolutional video autoencoder, 2.0 and 2.3: video to latent and back.

Encoder, decoder and the statistics of the latent are networks of their own, so that each loads alone. Both networks
run over a clip in pieces of a bounded size with the same result as over the whole, so that memory does not grow with
the clip's length; ``video_vae_memory`` says how large a piece may be. Knows nothing of tiles, files or uint8.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

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
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.video_vae_blocks import (
    Downsample,
    ResGroup,
    TimeEmbedder,
    Upsample,
    VideoEncoderConfig,
    VideoVAEConfig,
    activate,
)
from LTX_2_MLX.models.ltx.video_vae_memory import LayerMemory, decoder_layers, encoder_layers, frames_at_once
from LTX_2_MLX.ops.collective import ALONE, Group
from LTX_2_MLX.ops.conv import pixel_shuffle, pixel_unshuffle
from LTX_2_MLX.shapes import Compression, check_multiple

_NOISE_SHARE = 0.025
_DECODE_TIMESTEP = 0.05
_STATISTICS = {"mean-of-means": "mean", "std-of-means": "std"}
_UNUSED_STATISTICS = {"channel", "mean-of-stds", "mean-of-stds_over_std-of-means"}


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


class VideoEncoder(nn.Module):
    """Frames to latent.

    Shape:
        frames ``(B, T, H, W, 3)`` in [-1, 1] -> normalised latent ``(B, T', H', W', C)``, float32.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/video_vae.py at 400fd31.
    """

    Config = VideoEncoderConfig

    def __init__(self, config: VideoVAEConfig):
        super().__init__()
        if not config.encoder_blocks:
            raise CheckpointError("config.vae.encoder_blocks is empty: this file holds no video encoder.")
        self.config = config
        self.compression = config.encoder_compression
        padding = Padding(causal=True, spatial=config.encoder_spatial_padding_mode)
        width = config.latent_channels
        self.conv_in = CausalConv3d(config.in_channels * config.patch_size**2, width, padding)
        self.down_blocks: list[ResGroup | Downsample] = []
        for block in config.encoder_blocks:
            if block.stride is None:
                self.down_blocks.append(ResGroup(width, block.num_layers, False, padding))
            else:
                self.down_blocks.append(Downsample(width, block.stride, block.multiplier, padding))
            width = self.down_blocks[-1].out_channels
        # One channel more: a log-variance that all channels share, not used.
        self.conv_out = CausalConv3d(width, config.latent_channels + 1, padding)
        self.per_channel_statistics = LatentStatistics(LatentStatisticsConfig(config.latent_channels))

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter name of a tensor of the encoder or the statistics; split files lack the prefix ``vae.``."""
        return _parameter_name(published, "encoder")

    def __call__(self, frames: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        """The latent of a clip, or of the next frames of one; 8k + 1 in all (of the config's own compression)."""
        x = self.input_layer(frames, state["conv_in"])
        for number, block in enumerate(self.down_blocks):
            x = block(x, state[number])
        return self.output_layer(x, state["conv_out"])

    def input_layer(self, frames: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        """The first layer: patches of pixels to channels, then ``conv_in``."""
        frames = frames.astype(self.conv_in.conv.weight.dtype)
        patch = (1, self.config.patch_size, self.config.patch_size)
        # In this index the offset in width is slower than that in height: axes exchanged, here and in the decoder.
        return self.conv_in(pixel_unshuffle(frames.swapaxes(2, 3), patch).swapaxes(2, 3), state)

    def output_layer(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        """The last layer: norm, SiLU and ``conv_out``, then the normalised mean."""
        x = self.conv_out(activate(x), state)
        return self.per_channel_statistics.normalise(x[..., : self.config.latent_channels])

    def encode(self, frames: mx.array, piece_bytes: int | None = None) -> mx.array:
        """The latent of a clip; frames beyond the last 8k + 1 are left out.

        Raises:
            RequestError: If height or width is not a multiple of the compression.
        """
        return join_frames(*self.stream([frames], piece_bytes))

    def stream(
        self, chunks: Iterable[mx.array], piece_bytes: int | None = None, group: Group = ALONE
    ) -> Iterator[mx.array]:
        """Consecutive chunks of frames to consecutive pieces of the latent.

        ``piece_bytes`` bounds one copy of the largest array; chosen by the backend unless given. The processes of
        ``group`` share the layers out, and the first one has the latent (see ``layers.chain``).
        """
        layers: list[Layer] = [self.input_layer, *self.down_blocks, self.output_layer]
        dtype = self.conv_in.conv.weight.dtype
        return _stream(layers, encoder_layers(self.config), map(self._checked, chunks), dtype, piece_bytes, group)

    def _checked(self, frames: mx.array) -> mx.array:
        height, width = frames.shape[2:4]
        check_multiple("height", height, self.compression.height)
        check_multiple("width", width, self.compression.width)
        cells = (height // self.compression.height, width // self.compression.width)
        _check_borders(self.config.encoder_spatial_padding_mode, cells, self.compression)
        return frames


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
        return _parameter_name(published, "decoder")

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
        _check_borders(self.config.spatial_padding_mode, (height, width), self.compression)
        scaled = self.scale_timestep(timestep, len(first))
        layers: list[Layer] = [self.input_layer]
        for block in self.up_blocks:
            layers.append(partial(block, timestep=scaled) if isinstance(block, ResGroup) else block)
        layers.append(partial(self.output_layer, timestep=scaled))
        latents = chain([first], latents)
        del first
        dtype = self.conv_in.conv.weight.dtype
        yield from _stream(layers, decoder_layers(self.config), latents, dtype, piece_bytes, group)

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


def _parameter_name(published: str, network: str) -> str | None:
    name = published.removeprefix("vae.")
    if name.startswith(f"{network}."):
        return name.removeprefix(f"{network}.")
    parameter = LatentStatistics.parameter_name(published)
    return None if parameter is None else f"per_channel_statistics.{parameter}"


def _stream(
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


def _check_borders(padding: SpatialPadding, cells: tuple[int, int], compression: Compression) -> None:
    if padding == "reflect" and min(cells) < 2:
        raise RequestError(
            f"The latent is {cells[0]}×{cells[1]} cells, but this network mirrors its borders and needs two on each "
            f"side. Use frames of at least {2 * compression.height}×{2 * compression.width} pixels."
        )
