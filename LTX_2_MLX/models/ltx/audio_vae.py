"""LTX-2's audio autoencoder: log-mel spectrogram to latent and back.

Encoder and decoder are networks of their own, so that each loads alone. Both are causal in time.
"""

import math
from dataclasses import dataclass
from typing import Self

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config import ConfigSection
from LTX_2_MLX.ops.activation import silu
from LTX_2_MLX.ops.mel import MelSettings, log_mel

_PREFIX = "audio_vae."
_NORM_EPS = 1e-6
_STATISTICS = {
    "per_channel_statistics.mean-of-means": "statistics.mean",
    "per_channel_statistics.std-of-means": "statistics.std",
}
# Fields with one supported value. Those of _REQUIRED default to another one where a file leaves them out.
_FIXED = {
    "causality_axis": "height",
    "double_z": True,
    "dropout": 0.0,
    "norm_type": "pixel",
}
_REQUIRED = {"attn_resolutions": [], "mid_block_add_attention": False}
_READ = {"ch", "ch_mult", "in_channels", "mel_bins", "num_res_blocks", "out_ch", "z_channels"}
# Published fields that the reference does not read, or that have no effect without attention.
_UNREAD = {"downsample_time", "resolution"}
# Kernel rows in time before the current one.
_CAUSAL_ROWS = 2


@dataclass(frozen=True)
class AudioVAEConfig:
    """The section ``audio_vae`` of the config.

    Attributes:
        channels: Channels next to the spectrogram (ch).
        channel_multipliers: Factor of the channels at each level (ch_mult); levels differ by 2 in time and bins.
        num_res_blocks: Residual blocks of an encoder level; decoder levels have one more.
        audio_channels: 2 for stereo (in_channels, out_ch).
        latent_channels: Channels of the latent (z_channels).
        mel: Sizes of the spectrogram.
    """

    channels: int
    channel_multipliers: tuple[int, ...]
    num_res_blocks: int
    audio_channels: int
    latent_channels: int
    mel: MelSettings

    @property
    def compression(self) -> int:
        """Mel frames per latent frame, and mel bins per latent bin."""
        return 1 << (len(self.channel_multipliers) - 1)

    @property
    def latent_bins(self) -> int:
        """Bins of the latent."""
        return self.mel.num_bins // self.compression

    @classmethod
    def of_network(cls, header: Header, network: str) -> Self | None:
        """The config of the encoder or decoder in a checkpoint; None without it.

        Raises:
            CheckpointError: If the config is missing, does not match the tensors, or has unsupported values.
        """
        if f"{_PREFIX}{network}.conv_in.conv.weight" not in header.tensors:
            return None
        root = ConfigSection("audio_vae", header.config.get("audio_vae"))
        model = ConfigSection("audio_vae.model", root.values.get("model"))
        params = ConfigSection("audio_vae.model.params", model.values.get("params"))
        fields = _READ | _UNREAD | _REQUIRED.keys()
        section = ConfigSection("audio_vae.model.params.ddconfig", params.values.get("ddconfig"), fields, _FIXED)
        for field, value in _REQUIRED.items():
            if section.values.get(field) != value:
                raise CheckpointError(f"config.{section.name} asks for attention ({field}), which is not supported.")
        config = cls(
            channels=section.size("ch", 128),
            channel_multipliers=section.sizes("ch_mult", (1, 2, 4)),
            num_res_blocks=section.size("num_res_blocks", 2),
            audio_channels=section.size("in_channels", 2),
            latent_channels=section.size("z_channels", 8),
            mel=_mel_settings(root, section, params.size("sampling_rate", MelSettings.sample_rate)),
        )
        config.check_sizes(section)
        config.check_tensors(header, network)
        return config

    def check_sizes(self, section: ConfigSection) -> None:
        """Raise ``CheckpointError`` for sizes that contradict one another."""
        if section.size("out_ch", self.audio_channels) != self.audio_channels:
            raise CheckpointError(f"config.{section.name} has other channels in (in_channels) than out (out_ch).")
        if self.mel.num_bins % self.compression or self.latent_channels * self.latent_bins != self.channels:
            raise CheckpointError(
                f"config.{section.name} has {self.latent_channels} latent channels of {self.latent_bins} bins; their "
                f"product has to be ch ({self.channels}), the number of statistics."
            )

    def check_tensors(self, header: Header, network: str) -> None:
        """Raise ``CheckpointError`` where the file has other widths or numbers of blocks than the config."""
        widest = self.channels * self.channel_multipliers[-1]
        first = (self.channels, self.audio_channels) if network == "encoder" else (widest, self.latent_channels)
        expected = {"conv_in.conv.weight": first, "mid.block_1.conv1.conv.weight": (widest, widest)}
        levels = "down" if network == "encoder" else "up"
        num_blocks = self.num_res_blocks if network == "encoder" else self.num_res_blocks + 1
        shapes: dict[str, tuple[int, ...]] = {}
        for name, info in header.tensors.items():
            shapes[name.removeprefix(f"{_PREFIX}{network}.")] = tuple(info.shape)
        fits = all(shapes.get(name, ())[:2] == shape for name, shape in expected.items())
        if not fits or f"{levels}.0.block.{num_blocks - 1}.conv1.conv.weight" not in shapes:
            raise CheckpointError(
                f"config.audio_vae gives the {network} {num_blocks} blocks in a level, a first layer of {first[1]} to "
                f"{first[0]} channels and {widest} channels in the middle, which the file does not have. The config "
                f"belongs to another file."
            )

    @property
    def decoder_context(self) -> int:
        """Latent frames before the current one that a decoded mel frame depends on; an upper bound."""
        frames = _CAUSAL_ROWS + 4 * _CAUSAL_ROWS
        scale = 1
        for level in reversed(range(len(self.channel_multipliers))):
            rows = 2 * _CAUSAL_ROWS * (self.num_res_blocks + 1)
            frames += math.ceil(rows / scale)
            if level > 0:
                scale *= 2
                frames += 1 + math.ceil(_CAUSAL_ROWS / scale)
        return frames + math.ceil(_CAUSAL_ROWS / scale)

    @property
    def encoder_context(self) -> int:
        """Latent frames before the current one that its values depend on; an upper bound."""
        rows = _CAUSAL_ROWS
        scale = 1
        for level in range(len(self.channel_multipliers)):
            rows += 2 * _CAUSAL_ROWS * self.num_res_blocks * scale
            if level < len(self.channel_multipliers) - 1:
                rows += _CAUSAL_ROWS * scale
                scale *= 2
        # The middle's two blocks and the last convolution.
        rows += (4 + 1) * _CAUSAL_ROWS * scale
        return math.ceil(rows / self.compression)


class AudioEncoderConfig(AudioVAEConfig):
    """Config of a checkpoint that holds the encoder."""

    @classmethod
    def from_header(cls, header: Header) -> Self | None:
        """The config; None without the encoder. Raises as ``of_network`` does."""
        return cls.of_network(header, "encoder")


class AudioDecoderConfig(AudioVAEConfig):
    """Config of a checkpoint that holds the decoder."""

    @classmethod
    def from_header(cls, header: Header) -> Self | None:
        """The config; None without the decoder. Raises as ``of_network`` does."""
        return cls.of_network(header, "decoder")


def _mel_settings(root: ConfigSection, ddconfig: ConfigSection, sample_rate: int) -> MelSettings:
    preprocessing = ConfigSection("audio_vae.preprocessing", root.values.get("preprocessing", {}))
    stft = ConfigSection("audio_vae.preprocessing.stft", preprocessing.values.get("stft", {}))
    mel = ConfigSection("audio_vae.preprocessing.mel", preprocessing.values.get("mel", {}))
    fft_length = stft.size("filter_length", MelSettings.fft_length)
    if stft.size("win_length", fft_length) != fft_length:
        raise CheckpointError(f"config.{stft.name} has other values for win_length and filter_length.")
    min_hz = mel.values.get("mel_fmin", 0)
    if min_hz != 0:
        raise CheckpointError(f"config.{mel.name}.mel_fmin is {min_hz!r}; only 0 is supported.")
    return MelSettings(
        sample_rate=sample_rate,
        fft_length=fft_length,
        hop_length=stft.size("hop_length", MelSettings.hop_length),
        num_bins=ddconfig.size("mel_bins", mel.size("n_mel_channels", MelSettings.num_bins)),
        max_hz=mel.number("mel_fmax", MelSettings.max_hz),
    )


class LatentStatistics(nn.Module):
    """Mean and standard deviation of each channel and bin of the latent."""

    def __init__(self, config: AudioVAEConfig):
        super().__init__()
        self.latent_channels = config.latent_channels
        self.mean = mx.zeros((config.channels,))
        self.std = mx.ones((config.channels,))

    def normalise(self, latent: mx.array) -> mx.array:
        """``(latent - mean) / std``, float32."""
        return (latent.astype(mx.float32) - self._by_bin(self.mean)) / self._by_bin(self.std)

    def denormalise(self, latent: mx.array) -> mx.array:
        """``latent * std + mean``, float32."""
        return latent.astype(mx.float32) * self._by_bin(self.std) + self._by_bin(self.mean)

    def _by_bin(self, values: mx.array) -> mx.array:
        """Published with bins fastest, as tokens are; here ``(bins, channels)``."""
        return values.astype(mx.float32).reshape(self.latent_channels, -1).T


class CausalConv2d(nn.Module):
    """A convolution by 3×3 with zero padding, in time only before the first frame."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3)

    def __call__(self, x: mx.array) -> mx.array:
        output: mx.array = self.conv(mx.pad(x, [(0, 0), (_CAUSAL_ROWS, 0), (1, 1), (0, 0)]))
        return output


class PointwiseConv2d(nn.Module):
    """A convolution by 1×1."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def __call__(self, x: mx.array) -> mx.array:
        output: mx.array = self.conv(x)
        return output


class ResnetBlock(nn.Module):
    """``shortcut(x) + conv2(silu(norm(conv1(silu(norm(x))))))``."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = CausalConv2d(in_channels, out_channels)
        self.conv2 = CausalConv2d(out_channels, out_channels)
        if in_channels != out_channels:
            self.nin_shortcut = PointwiseConv2d(in_channels, out_channels)

    def __call__(self, x: mx.array) -> mx.array:
        update = self.conv1(activate(x))
        update = self.conv2(activate(update))
        if "nin_shortcut" in self:
            x = self.nin_shortcut(x)
        return x + update


class MidBlock(nn.Module):
    """Two residual blocks at the lowest resolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.block_2 = ResnetBlock(channels, channels)

    def __call__(self, x: mx.array) -> mx.array:
        return self.block_2(self.block_1(x))


class Downsample(nn.Module):
    """Halve frames and bins by a strided convolution, causal in time."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def __call__(self, x: mx.array) -> mx.array:
        output: mx.array = self.conv(mx.pad(x, [(0, 0), (_CAUSAL_ROWS, 0), (0, 1), (0, 0)]))
        return output


class Upsample(nn.Module):
    """Double frames and bins by repetition and a convolution, without the first frame: T becomes 2 T - 1."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = CausalConv2d(channels, channels)

    def __call__(self, x: mx.array) -> mx.array:
        repeated = mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)
        return self.conv(repeated)[:, 1:]


class DownLevel(nn.Module):
    """Residual blocks of one encoder level, and the downsampling after it."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, *, downsample: bool):
        super().__init__()
        self.block = _res_blocks(in_channels, out_channels, num_blocks)
        if downsample:
            self.downsample = Downsample(out_channels)

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.block:
            x = block(x)
        return self.downsample(x) if "downsample" in self else x


class UpLevel(nn.Module):
    """Residual blocks of one decoder level, and the upsampling after it."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, *, upsample: bool):
        super().__init__()
        self.block = _res_blocks(in_channels, out_channels, num_blocks)
        if upsample:
            self.upsample = Upsample(out_channels)

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.block:
            x = block(x)
        return self.upsample(x) if "upsample" in self else x


class AudioEncoder(nn.Module):
    """Log-mel spectrogram to latent.

    Shape:
        ``(B, T, M, C)`` -> ``(B, ceil(ceil(T / 2) / 2), M / 4, C')``, normalised, float32.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/audio_vae/{audio_vae,causal_conv_2d,resnet,
    downsample}.py at 400fd31 (golden cases ``ltx2/audio_vae_2_0/encode``, ``ltx2/audio_encode_2_0``).
    """

    Config = AudioEncoderConfig

    def __init__(self, config: AudioEncoderConfig):
        super().__init__()
        self.config = config
        widths = [config.channels * factor for factor in config.channel_multipliers]
        self.conv_in = CausalConv2d(config.audio_channels, config.channels)
        self.down = []
        for level, width in enumerate(widths):
            in_channels = config.channels if level == 0 else widths[level - 1]
            last = level == len(widths) - 1
            self.down.append(DownLevel(in_channels, width, config.num_res_blocks, downsample=not last))
        self.mid = MidBlock(widths[-1])
        # Means, then log-variances, which are dropped.
        self.conv_out = CausalConv2d(widths[-1], 2 * config.latent_channels)
        self.statistics = LatentStatistics(config)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Name of the parameter that a published tensor holds; None for tensors of other networks."""
        return _parameter_name(published, "encoder.")

    def __call__(self, mel: mx.array) -> mx.array:
        x = self.conv_in(mel.astype(self.conv_in.conv.weight.dtype))
        for level in self.down:
            x = level(x)
        x = self.conv_out(activate(self.mid(x)))
        return self.statistics.normalise(x[..., : self.config.latent_channels])

    def encode(self, waveform: np.ndarray, sample_rate: int) -> mx.array:
        """A waveform ``(B, S, C)`` in [-1, 1] to a normalised latent. Raises as ``log_mel`` does."""
        return self(mx.array(log_mel(waveform, sample_rate, self.config.mel)))


class AudioDecoder(nn.Module):
    """Normalised latent to log-mel spectrogram.

    Shape:
        ``(B, T, M / 4, C')`` -> ``(B, 4 * T - 3, M, C)``.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/audio_vae/{audio_vae,causal_conv_2d,resnet,
    upsample}.py at 400fd31 (golden cases ``ltx2/audio_vae_2_0/decode*``).
    """

    Config = AudioDecoderConfig

    def __init__(self, config: AudioDecoderConfig):
        super().__init__()
        self.config = config
        widths = [config.channels * factor for factor in config.channel_multipliers]
        self.conv_in = CausalConv2d(config.latent_channels, widths[-1])
        self.mid = MidBlock(widths[-1])
        self.up = []
        for level, width in enumerate(widths):
            in_channels = widths[min(level + 1, len(widths) - 1)]
            self.up.append(UpLevel(in_channels, width, config.num_res_blocks + 1, upsample=level > 0))
        self.conv_out = CausalConv2d(widths[0], config.audio_channels)
        self.statistics = LatentStatistics(config)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Name of the parameter that a published tensor holds; None for tensors of other networks."""
        return _parameter_name(published, "decoder.")

    def __call__(self, latent: mx.array) -> mx.array:
        x = self.statistics.denormalise(latent).astype(self.conv_in.conv.weight.dtype)
        x = self.mid(self.conv_in(x))
        # Levels are numbered from the spectrogram to the latent.
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(activate(x))


def activate(x: mx.array) -> mx.array:
    """SiLU of each pixel's channels over their root mean square."""
    activated: mx.array = silu(mx.fast.rms_norm(x, None, _NORM_EPS))
    return activated


def _res_blocks(in_channels: int, out_channels: int, num_blocks: int) -> list[ResnetBlock]:
    blocks = [ResnetBlock(in_channels, out_channels)]
    for _ in range(num_blocks - 1):
        blocks.append(ResnetBlock(out_channels, out_channels))
    return blocks


def _parameter_name(published: str, network: str) -> str | None:
    if not published.startswith(_PREFIX):
        return None
    name = published.removeprefix(_PREFIX)
    if name in _STATISTICS:
        return _STATISTICS[name]
    return name.removeprefix(network) if name.startswith(network) else None
