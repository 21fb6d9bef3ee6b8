"""Video to latent and back with the Wan autoencoders: 2.1, 2.2 and the pruned light one.

One network each way serves all three; widths come from the tensors' shapes. All layers look only back in time, so a
clip in pieces gives exactly what the whole clip gives. Knows nothing of tiles or files.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.layers.channel_norm import ChannelNorm
from LTX_2_MLX.layers.streaming import WHOLE_CLIP, StreamState, convolve_each, is_one_launch, join_frames, stream_layer
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.ops.activation import silu
from LTX_2_MLX.shapes import Compression, VideoShape

# Mean and standard deviation of each latent channel: Wan-Video/Wan2.1, wan/modules/vae.py (16 channels) and
# Wan-Video/Wan2.2, wan/modules/vae2_2.py at 42bf4cf (48 channels).
_LATENT_16 = (
    (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
     0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
     3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)  # fmt: skip
_LATENT_48 = (
    (-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
     0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
     -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
     -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
    (0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
     0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
     0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
     0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)  # fmt: skip
# Elements of one attention score matrix; more query rows than fit are taken in groups.
_MAX_SCORES = 1 << 26


@dataclass(frozen=True)
class WanVAEConfig:
    """One autoencoder of the family.

    Attributes:
        latent_channels: ``z_dim``.
        encoder_width: Channels of the encoder's first level, ``dim``.
        decoder_width: Channels of the decoder's last level, ``dec_dim`` (``dim`` in 2.1).
        patch_size: Pixels folded into channels along each side before the encoder and after the decoder.
        level_shortcuts: Every level adds its averaged or repeated input to its output (2.2).
        width_multipliers: ``dim_mult``.
        num_blocks: Residual blocks of an encoder level, ``num_res_blocks``; a decoder level has one more.
        temporal_downsample: Which of the encoder's resampling steps halve time too, ``temperal_downsample``.
        latent_mean, latent_std: Statistics of each latent channel.
    """

    latent_channels: int
    encoder_width: int
    decoder_width: int
    patch_size: int
    level_shortcuts: bool
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    width_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)

    @property
    def compression(self) -> Compression:
        """Pixels per latent step."""
        space = self.patch_size * 2 ** (len(self.width_multipliers) - 1)
        return Compression(time=2 ** sum(self.temporal_downsample), height=space, width=space)

    @classmethod
    def from_header(cls, header: Header) -> "WanVAEConfig | None":
        """The preset that fits the latent channels and the nesting of the levels, with the widths of the tensors."""
        shapes = {_bare(name): info.shape for name, info in header.tensors.items()}
        first, last = shapes.get("decoder.conv1.weight"), shapes.get("decoder.head.2.weight")
        if first is None or last is None or len(first) != 5 or len(last) != 5:
            return None
        nested = any(name.startswith("decoder.upsamples.0.upsamples.") for name in shapes)
        for preset in PRESETS.values():
            if preset.latent_channels == first[1] and preset.level_shortcuts == nested:
                encoder = shapes.get("encoder.conv1.weight", (last[1],))
                config = replace(preset, encoder_width=encoder[0], decoder_width=last[1])
                return _with_published(config, header)
        return None


PRESETS = {
    "wan2.1": WanVAEConfig(16, 96, 96, 1, False, *_LATENT_16),
    "light": WanVAEConfig(16, 24, 24, 1, False, *_LATENT_16),
    "wan2.2": WanVAEConfig(48, 160, 256, 2, True, *_LATENT_48),
}


def _with_published(config: WanVAEConfig, header: Header) -> WanVAEConfig:
    """``config`` with what the file's own metadata says; widths follow from the tensors already."""
    known = {"dim", "dec_dim", "z_dim", "pruning_rate", "dim_mult", "num_res_blocks", "temperal_downsample"}
    if unknown := sorted(header.config.keys() - known):
        raise CheckpointError(
            f"The config of this Wan autoencoder has the unknown field {unknown[0]!r}. "
            f"Known are {', '.join(sorted(known))}."
        )
    return replace(
        config,
        width_multipliers=tuple(header.config.get("dim_mult", config.width_multipliers)),
        num_blocks=header.config.get("num_res_blocks", config.num_blocks),
        temporal_downsample=tuple(header.config.get("temperal_downsample", config.temporal_downsample)),
    )


def _bare(published: str) -> str:
    # FlashVSR's wrapper around the network puts this in front of every name.
    return published.removeprefix("model.")


def _parameter_name(published: str, prefixes: tuple[str, ...]) -> str | None:
    name = _bare(published)
    if not name.startswith(prefixes):
        return None
    for pattern, ours in (
        (r"\bresidual\.0\.", "norm1."),
        (r"\bresidual\.2\.", "conv1."),
        (r"\bresidual\.3\.", "norm2."),
        (r"\bresidual\.6\.", "conv2."),
        (r"\bresample\.1\.", "conv."),
        (r"\bhead\.0\.", "head_norm."),
        (r"\bhead\.2\.", "head_conv."),
        (r"\.(up|down)samples\.", ".layers."),
    ):
        name = re.sub(pattern, ours, name)
    return name


def causal_conv(conv: nn.Conv3d, x: mx.array, state: StreamState) -> mx.array:
    """``conv`` over time without looking ahead: kept frames in front, zeros before the clip's start."""
    kernel = conv.weight.shape[1]
    window = state.window(x, kernel, before=kernel - 1, padding="zeros")
    num_frames = window.shape[1] - kernel + 1
    if num_frames < 2 or is_one_launch(conv, window):
        return state.checkpoint(_convolve(conv, window))
    frames = [state.checkpoint(_convolve(conv, window[:, i : i + kernel])) for i in range(num_frames)]
    return mx.concatenate(frames, axis=1)


def _convolve(conv: nn.Conv3d, window: mx.array) -> mx.array:
    # MLX's convolution refuses an array without frames.
    return conv(window) if window.shape[1] else mx.zeros((*window.shape[:-1], conv.weight.shape[0]), window.dtype)


class ResidualBlock(nn.Module):
    """Two normed causal convolutions around a shortcut; ``(B, T, H, W, C)`` to the same with C' channels."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.norm1 = ChannelNorm(channels, 1, 1, 1)
        self.conv1 = nn.Conv3d(channels, out_channels, 3, padding=(0, 1, 1))
        self.norm2 = ChannelNorm(out_channels, 1, 1, 1)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=(0, 1, 1))
        if channels != out_channels:
            self.shortcut = nn.Conv3d(channels, out_channels, 1)

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        y = causal_conv(self.conv1, silu(self.norm1(x)), state["conv1"])
        y = causal_conv(self.conv2, silu(self.norm2(y)), state["conv2"])
        shortcut = _convolve(self.shortcut, x) if "shortcut" in self else x
        return state.checkpoint(y + shortcut)


class AttentionBlock(nn.Module):
    """Every pixel of a frame attends to the whole frame, one head; the result is added to the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels, 1, 1)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        batch, frames, height, width, channels = x.shape
        images = x.reshape(batch * frames, height, width, channels)
        qkv = self.to_qkv(self.norm(images)).reshape(batch * frames, 1, height * width, 3 * channels)
        y = _attend(*mx.split(qkv, 3, axis=-1)).reshape(images.shape)
        return state.checkpoint(x + self.proj(y).reshape(x.shape))


def _attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Plain attention ``(B, 1, N, C)``, query rows in groups that keep the scores small."""
    tokens, channels = queries.shape[2:]
    rows = max(1, _MAX_SCORES // tokens)
    groups = [
        mx.fast.scaled_dot_product_attention(queries[:, :, i : i + rows], keys, values, scale=channels**-0.5)
        for i in range(0, tokens, rows)
    ]
    return mx.concatenate(groups, axis=2)


class Downsample(nn.Module):
    """Halve height and width, and time too when ``temporal``; the clip's first frame passes time unchanged."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        if temporal:
            self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1))

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        x = convolve_each(self.conv, mx.pad(x, [(0, 0), (0, 0), (0, 1), (0, 1), (0, 0)]))
        if "time_conv" not in self:
            return state.checkpoint(x)
        first_frame, _ = state.split_start(x, 1)
        halved = _convolve(self.time_conv, state.window(x, 3, stride=2))
        return state.checkpoint(join_frames(first_frame, halved))


class Upsample(nn.Module):
    """Double height and width, and time too when ``temporal``; the clip's first frame stays one frame."""

    def __init__(self, channels: int, out_channels: int, temporal: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        if temporal:
            self.time_conv = nn.Conv3d(channels, 2 * channels, (3, 1, 1))

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        if "time_conv" in self:
            # The second frame's convolution sees zeros before it, not the first frame.
            first_frame, later = state.split_start(x, 1)
            doubled = _halves_to_frames(causal_conv(self.time_conv, later, state["time_conv"]))
            x = join_frames(first_frame, doubled)
        return state.checkpoint(convolve_each(self.conv, mx.repeat(mx.repeat(x, 2, axis=2), 2, axis=3)))


def _halves_to_frames(x: mx.array) -> mx.array:
    """``(B, T, H, W, 2C)`` to ``(B, 2T, H, W, C)``, the first half of the channels before the second."""
    batch, frames, height, width, channels = x.shape
    x = x.reshape(batch, frames, height, width, 2, channels // 2).transpose(0, 1, 4, 2, 3, 5)
    return x.reshape(batch, 2 * frames, height, width, channels // 2)


class Level(nn.Module):
    """The layers of one resolution with 2.2's shortcut from input to output.

    ``factors`` are the level's steps in time and space; ``up`` is true in a decoder. None: no shortcut.
    """

    def __init__(self, layers: list[nn.Module], out_channels: int, factors: tuple[int, int] | None, up: bool):
        super().__init__()
        self.layers = layers
        self.out_channels = out_channels
        self.factors = factors
        self.up = up

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        y = run_layers(self.layers, x, state["layers"])
        if self.factors is None:
            return y
        time, space = self.factors
        if not self.up:
            x = state.window(x, time, stride=time, before=time - 1, padding="zeros")
            return state.checkpoint(y + _averaged(x, self.out_channels, time, space))
        # A clip's first frame stays one frame: of its copies the last.
        _, shortcut = state.split_start(_repeated(x, self.out_channels, time, space), time - 1)
        return state.checkpoint(y + shortcut)


def run_layers(layers: list[nn.Module], x: mx.array, state: StreamState) -> mx.array:
    """``layers`` one after another, each with a state of its own."""
    for number, layer in enumerate(layers):
        x = layer(x, state[number])
    return x


def _averaged(x: mx.array, out_channels: int, time: int, space: int) -> mx.array:
    """Blocks of ``time * space * space`` pixels as channels, averaged in groups to ``out_channels``."""
    batch, frames, height, width, channels = x.shape
    x = x.reshape(batch, frames // time, time, height // space, space, width // space, space, channels)
    x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6)
    group = channels * time * space * space // out_channels
    return x.reshape(*x.shape[:4], out_channels, group).mean(axis=-1)


def _repeated(x: mx.array, out_channels: int, time: int, space: int) -> mx.array:
    """Channels repeated and dealt out to blocks of ``time * space * space`` pixels."""
    batch, frames, height, width, channels = x.shape
    x = mx.repeat(x, out_channels * time * space * space // channels, axis=-1)
    x = x.reshape(batch, frames, height, width, out_channels, time, space, space)
    x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(batch, frames * time, height * space, width * space, out_channels)


def _fold(frames: mx.array, size: int) -> mx.array:
    """Pixels to channels, in the order (channel, column, row)."""
    batch, time, height, width, channels = frames.shape
    x = frames.reshape(batch, time, height // size, size, width // size, size, channels)
    x = x.transpose(0, 1, 2, 4, 6, 5, 3)
    return x.reshape(batch, time, height // size, width // size, channels * size**2)


def _unfold(x: mx.array, size: int) -> mx.array:
    """Channels to pixels, the inverse of ``_fold``."""
    batch, time, height, width, channels = x.shape
    x = x.reshape(batch, time, height, width, channels // size**2, size, size)
    x = x.transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(batch, time, height * size, width * size, channels // size**2)


def _middle(channels: int) -> list[nn.Module]:
    return [ResidualBlock(channels, channels), AttentionBlock(channels), ResidualBlock(channels, channels)]


class Encoder3d(nn.Module):
    """Convolution in, the levels, the middle, norm and convolution out."""

    def __init__(self, config: WanVAEConfig):
        super().__init__()
        width = config.encoder_width
        last = width * config.width_multipliers[-1]
        self.conv1 = nn.Conv3d(3 * config.patch_size**2, width, 3, padding=(0, 1, 1))
        self.layers = _encoder_layers(config)
        self.middle = _middle(last)
        self.head_norm = ChannelNorm(last, 1, 1, 1)
        self.head_conv = nn.Conv3d(last, 2 * config.latent_channels, 3, padding=(0, 1, 1))

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        x = causal_conv(self.conv1, x, state["conv1"])
        x = run_layers(self.layers, x, state["layers"])
        x = run_layers(self.middle, x, state["middle"])
        return causal_conv(self.head_conv, silu(self.head_norm(x)), state["head_conv"])


class Decoder3d(nn.Module):
    """Convolution in, the middle, the levels, norm and convolution out."""

    def __init__(self, config: WanVAEConfig):
        super().__init__()
        width = config.decoder_width
        first = width * config.width_multipliers[-1]
        self.conv1 = nn.Conv3d(config.latent_channels, first, 3, padding=(0, 1, 1))
        self.middle = _middle(first)
        self.layers = _decoder_layers(config)
        self.head_norm = ChannelNorm(width, 1, 1, 1)
        self.head_conv = nn.Conv3d(width, 3 * config.patch_size**2, 3, padding=(0, 1, 1))

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        x = causal_conv(self.conv1, x, state["conv1"])
        x = run_layers(self.middle, x, state["middle"])
        x = run_layers(self.layers, x, state["layers"])
        return causal_conv(self.head_conv, silu(self.head_norm(x)), state["head_conv"])


def _encoder_layers(config: WanVAEConfig) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = config.encoder_width
    # The last level keeps its resolution.
    steps = (*config.temporal_downsample, None)
    for multiplier, temporal in zip(config.width_multipliers, steps, strict=True):
        out_channels = config.encoder_width * multiplier
        level = _residual_blocks(channels, out_channels, config.num_blocks)
        if temporal is not None:
            level.append(Downsample(out_channels, temporal))
        factors = (1, 1) if temporal is None else _factors(temporal)
        layers += [Level(level, out_channels, factors, up=False)] if config.level_shortcuts else level
        channels = out_channels
    return layers


def _decoder_layers(config: WanVAEConfig) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = config.decoder_width * config.width_multipliers[-1]
    steps = (*config.temporal_downsample[::-1], None)
    for multiplier, temporal in zip(config.width_multipliers[::-1], steps, strict=True):
        out_channels = config.decoder_width * multiplier
        level = _residual_blocks(channels, out_channels, config.num_blocks + 1)
        channels = out_channels
        if temporal is not None:
            # In 2.1 the upsampling convolution halves the width; in 2.2 the next level's first block sets it.
            channels = out_channels if config.level_shortcuts else out_channels // 2
            level.append(Upsample(out_channels, channels, temporal))
        factors = None if temporal is None else _factors(temporal)
        layers += [Level(level, out_channels, factors, up=True)] if config.level_shortcuts else level
    return layers


def _residual_blocks(channels: int, out_channels: int, count: int) -> list[nn.Module]:
    blocks: list[nn.Module] = [ResidualBlock(channels, out_channels)]
    for _ in range(count - 1):
        blocks.append(ResidualBlock(out_channels, out_channels))
    return blocks


def _factors(temporal: bool) -> tuple[int, int]:
    """Steps of a level in time and space."""
    return (2, 2) if temporal else (1, 2)


class WanEncoder(nn.Module):
    """Video to latent.

    Shape:
        frames ``(B, T, H, W, 3)`` in [-1, 1], T = 4k + 1 -> ``(B, k + 1, H / 8, W / 8, C)`` (16 in 2.2),
        the posterior's mean, normalised.

    Source: Wan-Video/Wan2.1 wan/modules/vae.py as in Hakaze/wan2gp-flashvsr src/models/wan_video_vae.py at
    4f0afc1; Wan-Video/Wan2.2 wan/modules/vae2_2.py at 42bf4cf; ModelTC/LightX2V
    lightx2v/models/video_encoders/hf/wan/vae.py at f8aee98.
    """

    Config = WanVAEConfig

    def __init__(self, config: WanVAEConfig):
        super().__init__()
        self.config = config
        self.compression = config.compression
        self.encoder = Encoder3d(config)
        self.conv1 = nn.Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter of a published name, None for the decoder's."""
        return _parameter_name(published, ("encoder.", "conv1."))

    def __call__(self, frames: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        """The latent of a clip, or of the next frames of one."""
        x = _fold(frames.astype(self.conv1.weight.dtype), self.config.patch_size)
        mean = _convolve(self.conv1, self.encoder(x, state))[..., : self.config.latent_channels]
        return (mean - mx.array(self.config.latent_mean, mean.dtype)) / mx.array(self.config.latent_std, mean.dtype)

    def encode(self, frames: mx.array) -> mx.array:
        """Frames in [-1, 1] to a normalised latent, a latent frame's worth at a time.

        Raises:
            RequestError: If frame count, height or width do not fit the compression.
        """
        VideoShape(*frames.shape[1:4]).latent(self.compression)
        return join_frames(*stream_layer(self, [frames], self.compression.time))


class WanDecoder(nn.Module):
    """Latent to video.

    Shape:
        a normalised latent ``(B, T, H, W, C)`` -> frames ``(B, 4T - 3, 8H, 8W, 3)`` (16H, 16W in 2.2),
        about [-1, 1], not clipped.

    Source: as ``WanEncoder``. Decoding in pieces equals decoding the whole (golden case ``flashvsr/wan_vae_2_1``).
    """

    Config = WanVAEConfig

    def __init__(self, config: WanVAEConfig):
        super().__init__()
        self.config = config
        self.compression = config.compression
        self.conv2 = nn.Conv3d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder3d(config)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter of a published name, None for the encoder's."""
        return _parameter_name(published, ("decoder.", "conv2."))

    def __call__(self, latent: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        """Frames of a latent, or of the next latent frames of one."""
        latent = latent * mx.array(self.config.latent_std) + mx.array(self.config.latent_mean)
        x = self.conv2(latent.astype(self.conv2.weight.dtype))
        return _unfold(self.decoder(x, state), self.config.patch_size)

    def decode(self, latent: mx.array) -> mx.array:
        """The frames of a whole clip."""
        return join_frames(*self.stream([latent]))

    def stream(self, latents: Iterable[mx.array]) -> Iterator[mx.array]:
        """One chunk of frames per latent frame: the first has one frame, every later one four."""
        return stream_layer(self, latents, 1)
