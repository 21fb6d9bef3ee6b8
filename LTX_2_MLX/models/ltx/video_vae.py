"""Video to latent and back: LTX-2's convolutional autoencoder, 2.0 and 2.3.

Encoder, decoder and the statistics of the latent are networks of their own, so that each loads alone. Both networks
run over a clip in pieces of a bounded size with the same result as over the whole, so memory does not grow with the
clip's length. Knows nothing of tiles, files or uint8.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.layers.conv import CausalConv3d, SpatialPadding
from LTX_2_MLX.layers.streaming import Push, each_frame, in_turn, join_frames, run_frames
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.video_vae_blocks import Downsample, ResGroup, TimeEmbedder, Upsample, activate
from LTX_2_MLX.models.ltx.video_vae_config import VideoEncoderConfig, VideoVAEConfig
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.ops.resample import pixel_shuffle, pixel_unshuffle
from LTX_2_MLX.shapes import Compression, check_multiple

# One copy of the largest array that a piece of a clip may lead to, and how many such copies live at once (measured on
# the CPU; counted from the arrays of a residual block on the GPU). On the CPU a convolution unfolds its input 27 times.
_PIECE_BYTES, _CPU_PIECE_BYTES = 128 * 2**20, 8 * 2**20
_COPIES, _CPU_COPIES = 8, 60
_NOISE_SHARE = 0.025
_DECODE_TIMESTEP = 0.05
_STATISTICS = {"mean-of-means": "mean", "std-of-means": "std"}
_UNUSED_STATISTICS = {"channel", "mean-of-stds", "mean-of-stds_over_std-of-means"}


def _own_name(published: str, network: str) -> str | None:
    name = published.removeprefix("vae.")
    if name.startswith(f"{network}."):
        return name.removeprefix(f"{network}.")
    parameter = LatentStatistics.parameter_name(published)
    return None if parameter is None else f"per_channel_statistics.{parameter}"


@dataclass(frozen=True)
class LatentStatisticsConfig:
    """How many channels a latent has."""

    channels: int

    @classmethod
    def from_header(cls, header: Header) -> "LatentStatisticsConfig | None":
        """Told by the tensors alone."""
        for name, info in header.tensors.items():
            if LatentStatistics.parameter_name(name) == "mean" and len(info.shape) == 1:
                return cls(channels=info.shape[0])
        return None


class LatentStatistics(nn.Module):
    """Mean and deviation of every latent channel: what lies between the autoencoder's latent and the normalised one.

    Loads alone: an upscaler works on latents that are not normalised and has no statistics of its own.
    """

    Config = LatentStatisticsConfig

    def __init__(self, config: LatentStatisticsConfig):
        super().__init__()
        self.mean = mx.zeros((config.channels,))
        self.std = mx.ones((config.channels,))

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter name of a tensor; the statistics that no release uses are left alone."""
        prefix, _, name = published.removeprefix("vae.").partition(".")
        if prefix != "per_channel_statistics" or name in _UNUSED_STATISTICS:
            return None
        return _STATISTICS.get(name, name)

    def normalise(self, latent: mx.array) -> mx.array:
        """The autoencoder's latent to the normalised one that everybody else sees; float32."""
        return (latent.astype(mx.float32) - self.mean) / self.std

    def denormalise(self, latent: mx.array) -> mx.array:
        """A normalised latent to the autoencoder's own; float32."""
        return latent.astype(mx.float32) * self.std + self.mean


@dataclass(frozen=True)
class Level:
    """A part of a network at one resolution.

    Attributes:
        push: Its run.
        elements: Of its widest array, per frame that goes in and per H × W of the network's input.
        held: Elements that the run keeps between two pushes, per H × W of the network's input.
        frames_late: How far its result lags behind its input until the last push.
    """

    push: Push
    elements: float
    held: float
    frames_late: int = 0

    def frames_at_once(self, shape: tuple[int, ...], item_bytes: int, piece_bytes: int) -> int:
        """Frames that keep the widest array within ``piece_bytes``, at least one; ``shape`` is the network's input."""
        return max(1, int(piece_bytes / (shape[0] * math.prod(shape[2:4]) * self.elements * item_bytes)))


def run_bytes(levels: list[Level], shape: tuple[int, ...], item_bytes: int, piece_bytes: int | None = None) -> int:
    """About what a run over ``(B, T, H, W, C)`` takes in memory beside the weights, for any T.

    What the convolutions hold between pieces, and the copies of the largest piece.
    """
    piece_bytes = piece_bytes or default_piece_bytes()
    frame_bytes = shape[0] * math.prod(shape[2:4]) * item_bytes
    held = sum(level.held for level in levels) * frame_bytes
    # One push works on what has waited, on two frames more of the kernel and on those that the last push brings.
    largest = max(
        (level.frames_at_once(shape, item_bytes, piece_bytes) + 2 + level.frames_late) * level.elements
        for level in levels
    )
    return int(held + largest * frame_bytes * (_CPU_COPIES if on_cpu() else _COPIES))


def default_piece_bytes() -> int:
    """The bound that keeps a run's memory small without slowing it down on the default device."""
    return _CPU_PIECE_BYTES if on_cpu() else _PIECE_BYTES


def _run(
    levels: list[Level], chunks: Iterable[mx.array], dtype: mx.Dtype, piece_bytes: int | None
) -> Iterator[mx.array]:
    chunks = iter(chunks)
    first = next(chunks, None)
    if first is None:
        return
    shape, stream = first.shape, chain([first], chunks)
    del first
    for level in levels:
        most = level.frames_at_once(shape, dtype.size, piece_bytes or default_piece_bytes())
        stream = run_frames(level.push, stream, most)
    yield from stream


class VideoEncoder(nn.Module):
    """Frames to latent.

    Shape:
        frames ``(B, T, H, W, 3)`` in [-1, 1] -> normalised latent ``(B, T', H', W', C)``, float32.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/video_vae.py at 400fd31.
    """

    Config = VideoEncoderConfig

    def __init__(self, config: VideoEncoderConfig):
        super().__init__()
        if not config.encoder_blocks:
            raise CheckpointError("config.vae.encoder_blocks is empty: this file holds no video encoder.")
        self.config, self.compression = config, config.encoder_compression
        padding = {"causal": True, "spatial_padding": config.encoder_spatial_padding_mode}
        width = config.latent_channels
        self.conv_in = CausalConv3d(config.in_channels * config.patch_size**2, width, **padding)
        self.down_blocks = []
        for block in config.encoder_blocks:
            if block.stride is None:
                layer = ResGroup(width, block.num_layers, **padding)
            else:
                layer = Downsample(width, block.stride, block.multiplier, **padding)
            self.down_blocks.append(layer)
            width = layer.out_channels
        # One channel more: a log-variance that all channels share, not used.
        self.conv_out = CausalConv3d(width, config.latent_channels + 1, **padding)
        self.per_channel_statistics = LatentStatistics(LatentStatisticsConfig(config.latent_channels))

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter name of a tensor of the encoder or the statistics; split files lack the prefix ``vae.``."""
        return _own_name(published, "encoder")

    def __call__(self, frames: mx.array) -> mx.array:
        """The latent of a whole clip, all at once; 8k + 1 frames (of the config's own compression)."""
        x = frames
        for level in self.levels(evaluate=False):
            x = level.push(x, True)
        return x

    def encode(self, frames: mx.array, piece_bytes: int | None = None) -> mx.array:
        """The latent of a clip; frames beyond the last 8k + 1 are left out.

        Raises:
            RequestError: If height or width is not a multiple of the compression.
        """
        return join_frames(*self.stream([frames], piece_bytes))

    def stream(self, chunks: Iterable[mx.array], piece_bytes: int | None = None) -> Iterator[mx.array]:
        """Consecutive chunks of frames to consecutive pieces of the latent."""
        yield from _run(self.levels(), map(self._checked, chunks), self.conv_in.conv.weight.dtype, piece_bytes)

    def _checked(self, frames: mx.array) -> mx.array:
        check_multiple("height", frames.shape[2], self.compression.height)
        check_multiple("width", frames.shape[3], self.compression.width)
        cells = frames.shape[2] // self.compression.height, frames.shape[3] // self.compression.width
        _check_borders(self.config.encoder_spatial_padding_mode, cells, self.compression)
        return frames

    def levels(self, *, evaluate: bool = True) -> list[Level]:
        """Begin a run: the parts of the network in order, from conv_in over each block to conv_out.

        ``evaluate=False`` leaves what is pushed to one graph, which MLX can compile.
        """
        area = 1 / self.config.patch_size**2
        dtype, conv_in = self.conv_in.conv.weight.dtype, self.conv_in.start()
        fold = each_frame(lambda frames: _fold(frames.astype(dtype), self.config.patch_size))
        channels = self.config.latent_channels
        widest = max(channels * area, self.config.in_channels)
        levels = [Level(in_turn(fold, conv_in), widest, 2 * self.config.in_channels)]
        for block in self.down_blocks:
            push = block.start() if isinstance(block, Downsample) else block.start(evaluate=evaluate)
            levels.append(Level(push, block.widest_channels * area, block.held_channels * area))
            if isinstance(block, Downsample):
                area /= math.prod(block.stride[1:])
        head = in_turn(each_frame(activate), self.conv_out.start(), each_frame(self._normalised))
        channels = self.down_blocks[-1].out_channels
        return [*levels, Level(head, channels * area, 2 * channels * area)]

    def _normalised(self, x: mx.array) -> mx.array:
        return self.per_channel_statistics.normalise(x[..., : self.config.latent_channels])


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
        self.config, self.compression = config, config.decoder_compression
        padding = {"causal": config.causal_decoder, "spatial_padding": config.spatial_padding_mode}
        width = config.bottleneck_channels
        self.conv_in = CausalConv3d(config.latent_channels, width, **padding)
        self.up_blocks = []
        for block in reversed(config.decoder_blocks):
            if block.stride is None:
                layer = ResGroup(width, block.num_layers, config.timestep_conditioning, **padding)
            else:
                layer = Upsample(width, block.stride, block.multiplier, block.residual, **padding)
            self.up_blocks.append(layer)
            width = layer.out_channels
        self.conv_out = CausalConv3d(width, config.out_channels * config.patch_size**2, **padding)
        self.per_channel_statistics = LatentStatistics(LatentStatisticsConfig(config.latent_channels))
        if config.timestep_conditioning:
            self.timestep_scale_multiplier = mx.array(1000.0)
            self.last_time_embedder = TimeEmbedder(2 * width)
            self.last_scale_shift_table = mx.zeros((2, width))

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter name of a tensor of the decoder or the statistics; split files lack the prefix ``vae.``."""
        return _own_name(published, "decoder")

    def __call__(self, latent: mx.array, timestep: mx.array | None = None) -> mx.array:
        """Frames of a whole latent, all at once, with no noise added; ``timestep`` is ``(B,)``, 0.05 unless given."""
        x = latent
        for level in self.levels(len(latent), timestep, evaluate=False):
            x = level.push(x, True)
        return x

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
            piece_bytes: Bound on one copy of the largest array; chosen by the device unless given.

        Raises:
            RequestError: If the latent is too small for the decoder's padding.
        """
        noisy = [self._mixed(latent, noise)] if noise is not None else self.add_noise([latent], key)
        return join_frames(*self.stream_noisy(noisy, timestep, piece_bytes))

    def stream(
        self,
        latents: Iterable[mx.array],
        *,
        timestep: mx.array | None = None,
        key: mx.array | None = None,
        piece_bytes: int | None = None,
    ) -> Iterator[mx.array]:
        """Consecutive pieces of a latent to consecutive chunks of frames; joined, they are :meth:`decode` of the whole.

        Memory does not depend on the length of the clip.
        """
        yield from self.stream_noisy(self.add_noise(latents, key), timestep, piece_bytes)

    def add_noise(self, latents: Iterable[mx.array], key: mx.array | None = None) -> Iterator[mx.array]:
        """Latents as a timestep-conditioned decoder wants them; any other gets them as they are.

        Each latent frame draws from a key of its own, so the pieces' lengths do not matter.
        """
        key = mx.random.key(0) if key is None else key
        for latent in latents:
            if self.config.timestep_conditioning:
                frames = []
                for _ in range(latent.shape[1]):
                    key, frame_key = mx.random.split(key)
                    frames.append(mx.random.normal((latent.shape[0], 1, *latent.shape[2:]), key=frame_key))
                latent = self._mixed(latent, join_frames(*frames))
            yield latent

    def _mixed(self, latent: mx.array, noise: mx.array) -> mx.array:
        return noise * _NOISE_SHARE + (1 - _NOISE_SHARE) * latent

    def stream_noisy(
        self, latents: Iterable[mx.array], timestep: mx.array | None = None, piece_bytes: int | None = None
    ) -> Iterator[mx.array]:
        """:meth:`stream` of latents that :meth:`add_noise` has seen already."""
        latents = iter(latents)
        first = next(latents, None)
        if first is None:
            return
        _check_borders(self.config.spatial_padding_mode, first.shape[2:4], self.compression)
        levels, latents = self.levels(len(first), timestep), chain([first], latents)
        del first
        yield from _run(levels, latents, self.conv_in.conv.weight.dtype, piece_bytes)

    def levels(self, batch: int, timestep: mx.array | None = None, *, evaluate: bool = True) -> list[Level]:
        """Begin a run: the parts of the network in order, from conv_in over each block to conv_out.

        ``evaluate=False`` leaves what is pushed to one graph, which MLX can compile.
        """
        if self.config.timestep_conditioning:
            timestep = mx.full((batch,), _DECODE_TIMESTEP) if timestep is None else timestep
            timestep = timestep * self.timestep_scale_multiplier
        else:
            timestep = None
        dtype, area = self.conv_in.conv.weight.dtype, 1.0
        denormalise = each_frame(lambda latent: self.per_channel_statistics.denormalise(latent).astype(dtype))
        first = in_turn(denormalise, self.conv_in.start())
        levels = [Level(first, self.config.bottleneck_channels, 2 * self.config.latent_channels)]
        for block in self.up_blocks:
            up = isinstance(block, Upsample)
            push = block.start(timestep) if up else block.start(timestep, evaluate=evaluate)
            levels.append(Level(push, block.widest_channels * area, block.held_channels * area, block.frames_late))
            if up:
                area *= math.prod(block.stride[1:])
        channels, out_channels = self.up_blocks[-1].out_channels, self.conv_out.conv.weight.shape[0]
        return [*levels, Level(self._head(timestep), max(channels, out_channels) * area, 2 * channels * area)]

    def _head(self, timestep: mx.array | None) -> Push:
        shift = scale = None
        if timestep is not None:
            embedding = self.last_time_embedder(timestep)
            rows = embedding.reshape(len(embedding), 2, -1) + self.last_scale_shift_table
            shift, scale = rows[:, 0], rows[:, 1]
        return in_turn(
            each_frame(lambda x: activate(x, shift, scale)),
            self.conv_out.start(),
            each_frame(lambda x: _unfold(x, self.config.patch_size)),
        )


def _check_borders(padding: SpatialPadding, cells: tuple[int, int], compression: Compression) -> None:
    if padding == "reflect" and min(cells) < 2:
        raise RequestError(
            f"The latent is {cells[0]}×{cells[1]} cells, but this network mirrors its borders and needs two on each "
            f"side. Use frames of at least {2 * compression.height}×{2 * compression.width} pixels."
        )


def _fold(frames: mx.array, patch: int) -> mx.array:
    # In this index the offset in width is slower than that in height: pixel_unshuffle with the axes exchanged.
    return pixel_unshuffle(frames.swapaxes(2, 3), (1, patch, patch)).swapaxes(2, 3)


def _unfold(x: mx.array, patch: int) -> mx.array:
    return pixel_shuffle(x.swapaxes(2, 3), (1, patch, patch)).swapaxes(2, 3)
