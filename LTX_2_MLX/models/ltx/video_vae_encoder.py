"""The encoder of LTX-2's convolutional video autoencoder, of all generations: video to latent."""

import math
from collections.abc import Iterable, Iterator

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.layers.streaming import (
    WHOLE_CLIP,
    CausalConv3d,
    Layer,
    Padding,
    StreamState,
    join_frames,
)
from LTX_2_MLX.models.ltx.video_vae import (
    KEPT_FRAMES,
    LatentStatistics,
    LatentStatisticsConfig,
    LayerMemory,
    ResGroup,
    VideoEncoderConfig,
    VideoVAEConfig,
    activate,
    autoencoder_name,
    check_borders,
    res_group_memory,
    stream_layers,
)
from LTX_2_MLX.ops.collective import ALONE, Group
from LTX_2_MLX.ops.conv import pixel_unshuffle
from LTX_2_MLX.shapes import check_size


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
        return autoencoder_name(published, "encoder")

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
        return stream_layers(layers, encoder_layers(self.config), map(self._checked, chunks), dtype, piece_bytes, group)

    def _checked(self, frames: mx.array) -> mx.array:
        height, width = frames.shape[2:4]
        check_size("height", height, self.compression.height)
        check_size("width", width, self.compression.width)
        cells = (height // self.compression.height, width // self.compression.width)
        check_borders(self.config.encoder_spatial_padding_mode, cells, self.compression)
        return frames


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


def encoder_layers(config: VideoVAEConfig) -> list[LayerMemory]:
    """Layers of a ``VideoEncoder`` in order: ``conv_in``, each block, ``conv_out``."""
    width = config.latent_channels
    area = 1 / config.patch_size**2
    rate = 1.0
    widest = max(width * area, config.in_channels)
    products = config.in_channels * config.patch_size**2 * width * area
    layers = [LayerMemory(widest, KEPT_FRAMES * config.in_channels, products=products)]
    for block in config.encoder_blocks:
        if block.stride is None:
            layers.append(res_group_memory(block, width, area, rate, causal=True))
            continue
        made = width * block.multiplier / math.prod(block.stride)
        # The convolution's frames, and those of a group that is not complete.
        kept = 2 * KEPT_FRAMES * width * area
        layers.append(LayerMemory(width * area, kept, products=width * made * area, rate=rate))
        area /= math.prod(block.stride[1:])
        rate /= block.stride[0]
        width *= block.multiplier
    products = width * (config.latent_channels + 1) * area
    layers.append(LayerMemory(width * area, KEPT_FRAMES * width * area, products=products, rate=rate))
    return layers
