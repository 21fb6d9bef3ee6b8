"""One call of each LTX-2 network: the network with stand-in weights, its input, and the operations in it.

Stand-in weights are random; time and memory depend on shapes alone.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map_with_path

from LTX_2_MLX.bench.operations import Attention, Convolution, Matmul, Operation
from LTX_2_MLX.diffusion.state import AudioClock, VideoGrid
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.ltx.config import StreamConfig, TransformerConfig
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler, LatentUpscalerConfig
from LTX_2_MLX.models.ltx.text_features import ConnectorConfig, TextFeatures, TextFeaturesConfig
from LTX_2_MLX.models.ltx.transformer import StreamInput, Transformer
from LTX_2_MLX.models.ltx.video_vae import Block, LatentStatistics, LatentStatisticsConfig, VideoDecoder, VideoVAEConfig
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.shapes import Compression, LatentShape, VideoShape

_COMPRESSION, _FRAME_RATE = Compression(8, 32, 32), 24.0
_SPACE, _TIME, _ALL = (1, 2, 2), (2, 1, 1), (2, 2, 2)
# Gemma 3 12B: the embedding and 48 layers.
_STATES = 49
# As in the published 2.0 files (config.vae, config.transformer, and the upscalers' own).
_ENCODER_BLOCKS = (
    Block(None, 4), Block(_SPACE, 0, 2), Block(None, 6), Block(_TIME, 0, 2), Block(None, 6), Block(_ALL, 0, 2),
    Block(None, 2), Block(_ALL, 0, 2), Block(None, 2),
)  # fmt: skip
_DECODER_BLOCKS = tuple(Block(_ALL, 0, 2, residual=True) if i % 2 else Block(None, 5) for i in range(7))


@dataclass(frozen=True)
class Widths:
    """How wide and deep the networks are. The defaults run in seconds on two CPU cores.

    Attributes:
        heads, audio_head_dim: Of the transformer, whose video heads have 128 features as published.
        layers: Blocks of the transformer.
        text: Width of the language model's states.
        latent: Channels of a latent; the video encoder's first width.
        vae: Width of the video autoencoder next to the pixels.
        spatial, temporal: Width of the latent upscalers.
        registers, connector_layers: Of the text connectors.
    """

    heads: int = 6
    audio_head_dim: int = 64
    layers: int = 2
    text: int = 256
    latent: int = 32
    vae: int = 32
    spatial: int = 128
    temporal: int = 128
    registers: int = 128
    connector_layers: int = 2


# The published ones, but for the number of the transformer's blocks, 48, which are all alike.
PUBLISHED = Widths(heads=32, layers=1, text=3840, latent=128, vae=128, spatial=1024, temporal=512)


@dataclass(frozen=True)
class Workload:
    """One network's call.

    Attributes:
        name: The network.
        size: What it is given, in words.
        build: The network, its weights not yet evaluated.
        call: The network to its evaluated result.
        operations: How often each operation comes in one call.
    """

    name: str
    size: str
    build: Callable[[], nn.Module]
    call: Callable[[Any], object]
    operations: Counter[Operation]

    @property
    def flops(self) -> int:
        """Floating-point operations of one call."""
        return sum(operation.flops * count for operation, count in self.operations.items())


def workloads(shape: VideoShape, text_tokens: int, widths: Widths, dtype: mx.Dtype) -> dict[str, Workload]:
    """Every network at one size, by name. Nothing is computed until a workload's parts are called.

    Args:
        shape: Size of the video.
        text_tokens: Tokens of the prompt, padded: a multiple of ``widths.registers``.
        widths: Of the networks.
        dtype: Of weights and, where the network takes it, input.
    """
    made = [
        _text_features(text_tokens, widths, dtype),
        _transformer(shape, text_tokens, widths, dtype),
        _upscaler("spatial_upscaler", shape, LatentUpscalerConfig(widths.latent, widths.spatial), dtype),
        _upscaler(
            "temporal_upscaler",
            shape,
            LatentUpscalerConfig(widths.latent, widths.temporal, spatial_upsample=False, temporal_upsample=True),
            dtype,
        ),
        _encoder(shape, widths, dtype),
        _decoder(shape, widths, dtype),
    ]
    return {workload.name: workload for workload in made}


NAMES = ("text_features", "transformer", "spatial_upscaler", "temporal_upscaler", "video_encoder", "video_decoder")


def checked_names(names: list[str] | None) -> list[str]:
    """The networks that were named, or all.

    Raises:
        RequestError: For a name that stands for none.
    """
    for name in names or ():
        if name not in NAMES:
            raise RequestError(f"Unknown network {name!r}. Use one of {', '.join(NAMES)}.")
    return names or list(NAMES)


def stand_in(network: nn.Module, dtype: mx.Dtype) -> nn.Module:
    """The network with random weights, those of norms and biases as they were made."""

    def value(path: str, like: mx.array) -> mx.array:
        if like.ndim < 2:
            # Norms, statistics and biases as the network was made with them.
            return like.astype(dtype)
        key = mx.random.key(sum(path.encode()))
        return (mx.random.normal(like.shape, key=key) * math.prod(like.shape[1:]) ** -0.5).astype(dtype)

    network.update(tree_map_with_path(value, network.parameters()))
    return network


def _random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(1))


def _text_features(tokens: int, widths: Widths, dtype: mx.Dtype) -> Workload:
    connector = ConnectorConfig(
        max(1, widths.text // 128), min(widths.text, 128), widths.connector_layers, widths.registers
    )
    config = TextFeaturesConfig(
        states_width=widths.text * _STATES, video=connector, audio=connector, per_token_norm=False,
        gated_attention=False, ff_bias=True, max_position=4096.0, rotary_pairing="split", rotary_precision="float64",
    )  # fmt: skip
    width = connector.width
    operations: Counter[Operation] = Counter({Matmul(tokens, widths.text, width): _STATES})
    for _ in range(2 * connector.num_layers):
        operations += _attention(tokens, tokens, width, width, connector.heads) + _feed_forward(tokens, width)

    def call(network: TextFeatures) -> None:
        states = [_random(1, tokens, widths.text).astype(dtype)] * _STATES
        mx.eval(network(states, np.ones((1, tokens), bool)))

    return Workload(
        "text_features", f"{tokens} text tokens of {widths.text}", partial(_built, TextFeatures, config, dtype), call,
        operations,
    )  # fmt: skip


def transformer_config(widths: Widths, *, audio: bool = True) -> TransformerConfig:
    """The transformer with the flags of 2.0."""
    common: dict[str, Any] = {
        "in_channels": widths.latent,
        "out_channels": widths.latent,
        "heads": widths.heads,
        "ff_bias": True,
    }
    video = StreamConfig(head_dim=128, max_positions=(20, 2048, 2048), **common)
    sound = StreamConfig(head_dim=widths.audio_head_dim, max_positions=(20,), **common)
    return TransformerConfig(
        num_layers=widths.layers, video=video, audio=sound if audio else None,
        caption_channels=widths.text, norm_eps=1e-6,
        rotary_theta=10000.0, rotary_pairing="split", rotary_precision="float64", timestep_scale=1000,
        cross_modal_gate_scale=1000, gated_attention=False, text_modulation=False, prompt_modulation=False,
        keyframe_embedding=False,
    )  # fmt: skip


def _transformer(shape: VideoShape, text_tokens: int, widths: Widths, dtype: mx.Dtype) -> Workload:
    return transformer_workload(transformer_config(widths), shape, text_tokens, dtype)


def transformer_workload(config: TransformerConfig, shape: VideoShape, text_tokens: int, dtype: mx.Dtype) -> Workload:
    """One pass of a transformer with an audio stream over the tokens of a video."""
    assert config.audio is not None
    grid, clock = VideoGrid(shape.latent(_COMPRESSION), _COMPRESSION, _FRAME_RATE), AudioClock()
    tokens, sounds = grid.shape.num_tokens, clock.num_latents(shape.num_frames, _FRAME_RATE)
    sigma = mx.array([0.7])

    def given(count: int, stream: StreamConfig, positions: mx.array) -> StreamInput:
        context = _random(1, text_tokens, config.caption_channels or stream.width).astype(dtype)
        return StreamInput(_random(1, count, stream.in_channels), sigma, positions, context)

    def call(network: Transformer) -> None:
        assert config.audio is not None
        inputs = (
            given(tokens, config.video, grid.positions()),
            given(sounds, config.audio, clock.positions(sounds)),
        )
        mx.eval(network(*inputs, evaluate_blocks=True))

    blocks = f"{config.num_layers} blocks of {config.video.width}"
    return Workload(
        "transformer",
        f"{tokens} video, {sounds} audio, {text_tokens} text tokens; {blocks}",
        partial(_built, Transformer, config, dtype),
        call,
        transformer_operations(config, tokens, sounds, text_tokens),
    )


def transformer_operations(config: TransformerConfig, tokens: int, sounds: int, text_tokens: int) -> Counter[Operation]:
    """What the blocks of one call multiply; the layers around them are left out, a thousandth of the whole."""
    block: Counter[Operation] = Counter()
    counts = {"video": tokens, "audio": sounds}
    streams = {name: getattr(config, name) for name in counts if getattr(config, name) is not None}
    for name, stream in streams.items():
        count, width = counts[name], stream.width
        block += _attention(count, count, width, width, stream.heads)
        block += _attention(count, text_tokens, width, width, stream.heads) + _feed_forward(count, width)
    if config.audio is not None:
        heads, between = config.audio.heads, config.audio.width
        for own, other in (("video", "audio"), ("audio", "video")):
            block += _attention(
                counts[own], counts[other], streams[own].width, between, heads, context_width=streams[other].width
            )
    return Counter({operation: count * config.num_layers for operation, count in block.items()})


def _attention(
    queries: int, keys: int, width: int, inner: int, heads: int, context_width: int | None = None
) -> Counter[Operation]:
    """Four projections and the attention between them."""
    context = Matmul(keys, context_width or width, inner)
    counted = [Matmul(queries, width, inner), context, context, Matmul(queries, inner, width)]
    return Counter([*counted, Attention(queries, keys, heads, inner // heads)])


def _feed_forward(tokens: int, width: int) -> Counter[Operation]:
    return Counter([Matmul(tokens, width, 4 * width), Matmul(tokens, 4 * width, width)])


def _upscaler(name: str, shape: VideoShape, config: LatentUpscalerConfig, dtype: mx.Dtype) -> Workload:
    latent, channels = shape.latent(_COMPRESSION), config.mid_channels
    larger = config.output_shape(latent)
    ends = [_convolution(latent, config.in_channels, channels), _convolution(larger, channels, config.in_channels)]
    if config.temporal_upsample:
        middle = _convolution(latent, channels, 2 * channels)
    else:
        middle = replace(_convolution(latent, channels, 4 * channels), in_time=False)
    operations: Counter[Operation] = Counter([*ends, middle])
    for each in (latent, larger):
        operations[_convolution(each, channels, channels)] += 2 * config.num_blocks_per_stage

    def call(network: LatentUpscaler) -> None:
        statistics = LatentStatistics(LatentStatisticsConfig(config.in_channels))
        mx.eval(network.upscale(_random(1, *_sides(latent), config.in_channels), statistics))

    size = f"latent {'×'.join(map(str, _sides(latent)))} to {'×'.join(map(str, _sides(larger)))}, {channels} channels"
    return Workload(name, size, partial(_built, LatentUpscaler, config, dtype), call, operations)


def vae_config(widths: Widths) -> VideoVAEConfig:
    """The video autoencoder with the published blocks of 2.0."""
    return VideoVAEConfig(
        encoder_blocks=_ENCODER_BLOCKS,
        decoder_blocks=_DECODER_BLOCKS,
        latent_channels=widths.latent,
        decoder_base_channels=widths.vae,
        timestep_conditioning=False,
    )


def _encoder(shape: VideoShape, widths: Widths, dtype: mx.Dtype) -> Workload:
    config = vae_config(widths)
    network = VideoEncoder(config)
    at = LatentShape(shape.num_frames, shape.height // config.patch_size, shape.width // config.patch_size)
    width = config.latent_channels
    operations: Counter[Operation] = Counter({_convolution(at, 3 * config.patch_size**2, width): 1})
    for block, layer in zip(config.encoder_blocks, network.down_blocks, strict=True):
        if block.stride is None:
            operations[_convolution(at, width, width)] += 2 * block.num_layers
        else:
            # A step in time doubles the first frame.
            at = replace(at, num_frames=at.num_frames + block.stride[0] - 1)
            operations[_convolution(at, width, layer.out_channels // math.prod(block.stride))] += 1
            at = LatentShape(*(size // step for size, step in zip(_sides(at), block.stride, strict=True)))
        width = layer.out_channels
    operations[_convolution(at, width, config.latent_channels + 1)] += 1

    def call(network: VideoEncoder) -> None:
        frames = mx.random.uniform(-1, 1, (1, shape.num_frames, shape.height, shape.width, 3), key=mx.random.key(1))
        mx.eval(network.encode(frames))

    size = f"{_pixels(shape)}, {config.latent_channels} to {width} channels"
    return Workload("video_encoder", size, partial(_built, VideoEncoder, config, dtype), call, operations)


def _decoder(shape: VideoShape, widths: Widths, dtype: mx.Dtype) -> Workload:
    config = vae_config(widths)
    network, at = VideoDecoder(config), shape.latent(_COMPRESSION)
    latent, width = _sides(at), config.bottleneck_channels
    operations: Counter[Operation] = Counter({_convolution(at, config.latent_channels, width): 1})
    for block, layer in zip(reversed(config.decoder_blocks), network.up_blocks, strict=True):
        if block.stride is None:
            operations[_convolution(at, width, width)] += 2 * block.num_layers
        else:
            operations[_convolution(at, width, layer.out_channels * math.prod(block.stride))] += 1
            sizes = [size * step for size, step in zip(_sides(at), block.stride, strict=True)]
            at = LatentShape(sizes[0] - block.stride[0] + 1, *sizes[1:])
        width = layer.out_channels
    operations[_convolution(at, width, 3 * config.patch_size**2)] += 1

    def call(network: VideoDecoder) -> None:
        # Chunk by chunk, as a video is written.
        for chunk in network.stream([_random(1, *latent, config.latent_channels)]):
            mx.eval(chunk)

    size = f"{_pixels(shape)}, {config.bottleneck_channels} to {width} channels"
    return Workload("video_decoder", size, partial(_built, VideoDecoder, config, dtype), call, operations)


def _built(network: Callable[[Any], nn.Module], config: object, dtype: mx.Dtype) -> nn.Module:
    return stand_in(network(config), dtype)


def _convolution(at: LatentShape, inputs: int, outputs: int) -> Convolution:
    return Convolution(*_sides(at), inputs, outputs)


def _sides(latent: LatentShape) -> tuple[int, int, int]:
    return latent.num_frames, latent.height, latent.width


def _pixels(shape: VideoShape) -> str:
    return f"{shape.num_frames}×{shape.height}×{shape.width} pixels"
