"""LTX-2's vocoders: log-mel spectrogram to waveform, 24 kHz (2.0) or 48 kHz by bandwidth extension (2.3, 2.5)."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.models.ltx.vocoder_config import PREFIX, BandwidthExtensionConfig, GeneratorConfig, VocoderConfig
from LTX_2_MLX.ops.antialias import downsample_2x, upsample_2x
from LTX_2_MLX.ops.conv import pad_edge
from LTX_2_MLX.ops.device import fused

_SLOPE = 0.1
# The last activation has the default slope of the reference's framework.
_FINAL_SLOPE = 0.01
_FILTER_TAPS = 12
_BETA_EPS = 1e-9
_MAGNITUDE_FLOOR = 1e-5
# Half width of the skip path's sinc in zero crossings, and its cutoff over the lower Nyquist frequency.
_SINC_WIDTH = 6
_ROLLOFF = 0.99


class AntialiasedSnakeBeta(nn.Module):
    """``x + sin(x * alpha)^2 / beta`` of each channel, computed at twice the sampling rate.

    The file holds the logarithms of alpha and beta, and the two low-pass filters.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = mx.zeros((channels,))
        self.beta = mx.zeros((channels,))
        self.upsample_filter = mx.zeros((1, 1, _FILTER_TAPS))
        self.downsample_filter = mx.zeros((1, 1, _FILTER_TAPS))

    def __call__(self, x: mx.array) -> mx.array:
        x = upsample_2x(x, self.upsample_filter.reshape(-1))
        x = snake_beta(x, self.alpha, self.beta)
        return downsample_2x(x, self.downsample_filter.reshape(-1))


@fused
def snake_beta(x: mx.array, log_alpha: mx.array, log_beta: mx.array) -> mx.array:
    """``x + sin(x * alpha)^2 / beta``."""
    return x + mx.square(mx.sin(x * mx.exp(log_alpha))) / (mx.exp(log_beta) + _BETA_EPS)


class ResBlock(nn.Module):
    """``x + conv2(act(conv1(act(x))))`` for each dilation of the first convolution."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], *, antialiased: bool):
        super().__init__()
        self.convs1 = [_same_conv(channels, kernel, dilation) for dilation in dilations]
        self.convs2 = [_same_conv(channels, kernel, 1) for _ in dilations]
        if antialiased:
            self.acts1 = [AntialiasedSnakeBeta(channels) for _ in dilations]
            self.acts2 = [AntialiasedSnakeBeta(channels) for _ in dilations]

    def __call__(self, x: mx.array) -> mx.array:
        for number, (conv1, conv2) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            if "acts1" in self:
                update = conv2(self.acts2[number](conv1(self.acts1[number](x))))
            else:
                update = conv2(_leaky(conv1(_leaky(x))))
            x = x + update
        return x


class Generator(nn.Module):
    """Spectrogram to waveform by upsampling, each followed by the mean of several residual blocks.

    Shape:
        ``(B, T, bins of both audio channels)`` -> ``(B, T * samples_per_frame, 2)``.
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        channels = config.initial_channels
        self.conv_pre = nn.Conv1d(config.in_channels, channels, kernel_size=7, padding=3)
        self.ups = []
        self.resblocks = []
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernels, strict=True):
            padding = (kernel - rate) // 2
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, stride=rate, padding=padding))
            channels //= 2
            for block_kernel, dilations in zip(config.block_kernels, config.block_dilations, strict=True):
                self.resblocks.append(ResBlock(channels, block_kernel, dilations, antialiased=config.antialiased))
        if config.antialiased:
            self.act_post = AntialiasedSnakeBeta(channels)
        self.conv_post = nn.Conv1d(channels, 2, kernel_size=7, padding=3, bias=config.final_bias)

    def __call__(self, spectrogram: mx.array) -> mx.array:
        x = self.conv_pre(spectrogram)
        for level, upsample in enumerate(self.ups):
            if not self.config.antialiased:
                x = _leaky(x)
            x = self._averaged_blocks(upsample(x), level)
            # One graph of all levels would hold the activations of each.
            mx.eval(x)
        x = self.act_post(x) if self.config.antialiased else _leaky(x, _FINAL_SLOPE)
        x = self.conv_post(x)
        if self.config.final_activation == "tanh":
            return mx.tanh(x)
        return mx.clip(x, -1, 1) if self.config.final_activation == "clamp" else x

    def _averaged_blocks(self, x: mx.array, level: int) -> mx.array:
        count = len(self.config.block_kernels)
        total = mx.zeros((), dtype=x.dtype)
        for block in self.resblocks[level * count : (level + 1) * count]:
            total = total + block(x)
            mx.eval(total)
        return total / count


class Vocoder(nn.Module):
    """Log-mel spectrogram to waveform (2.0).

    Shape:
        ``(B, T, M, 2)`` -> ``(B, 240 * T, 2)`` in (-1, 1) at 24 kHz, with the published rates.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/audio_vae/{vocoder,resnet}.py at 400fd31
    (golden case ``ltx2/vocoder_2_0``).
    """

    Config = VocoderConfig

    def __init__(self, config: VocoderConfig):
        super().__init__()
        self.config = config
        self.generator = Generator(config.generator)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveform."""
        return self.config.sample_rate

    @property
    def samples_per_frame(self) -> int:
        """Samples for each mel frame."""
        return self.config.generator.samples_per_frame

    @property
    def context(self) -> int:
        """Mel frames on each side that a frame's samples depend on; an upper bound."""
        return self.config.generator.context

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Name of the parameter that a published tensor holds; None for tensors of other networks."""
        if not published.startswith(PREFIX):
            return None
        return f"generator.{_generator_name(published.removeprefix(PREFIX))}"

    def __call__(self, mel: mx.array) -> mx.array:
        return self.generator(_merge_channels(mel).astype(self.generator.conv_pre.weight.dtype))


class MelBasis(nn.Module):
    """Waveform to log-mel spectrogram by the file's own Fourier and mel matrices."""

    def __init__(self, config: BandwidthExtensionConfig):
        super().__init__()
        self.config = config
        num_frequencies = config.fft_length // 2 + 1
        self.mel_basis = mx.zeros((config.num_bins, num_frequencies))
        self.forward_basis = mx.zeros((2 * num_frequencies, 1, config.fft_length))
        # Published, but without a use.
        self.inverse_basis = mx.zeros((2 * num_frequencies, 1, config.fft_length))

    def __call__(self, waveform: mx.array) -> mx.array:
        """``(B, S, 2)`` to ``(B, S / hop_length, bins of both audio channels)``."""
        batch, length, channels = waveform.shape
        samples = waveform.swapaxes(1, 2).reshape(batch * channels, length, 1)
        # Windows end with the current samples; nothing lies ahead.
        samples = mx.pad(samples, [(0, 0), (self.config.fft_length - self.config.hop_length, 0), (0, 0)])
        spectrum = mx.conv1d(samples, self.forward_basis.swapaxes(1, 2), stride=self.config.hop_length)
        real, imaginary = mx.split(spectrum, 2, axis=-1)
        magnitude = mx.sqrt(mx.square(real) + mx.square(imaginary))
        mel = mx.log(mx.maximum(magnitude @ self.mel_basis.T, _MAGNITUDE_FLOOR))
        return mel.reshape(batch, channels, -1, self.config.num_bins).swapaxes(1, 2).flatten(2)


class BandwidthExtensionVocoder(nn.Module):
    """Log-mel spectrogram to a waveform of 16 kHz, and that to 48 kHz (2.3, 2.5).

    Shape:
        ``(B, T, M, 2)`` -> ``(B, 480 * T, 2)`` in [-1, 1] at 48 kHz, with the published rates.

    Load it in float32: the reference measures 40 to 90 % worse spectra in bfloat16.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/audio_vae/vocoder.py at 400fd31
    (golden case ``ltx2/vocoder_2_3``).
    """

    Config = BandwidthExtensionConfig

    def __init__(self, config: BandwidthExtensionConfig):
        super().__init__()
        self.config = config
        self.generator = Generator(config.generator)
        self.mel = MelBasis(config)
        self.extension = Generator(config.extension)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveform."""
        return self.config.sample_rate

    @property
    def samples_per_frame(self) -> int:
        """Samples for each mel frame."""
        return self.config.generator.samples_per_frame * self.config.rate_factor

    @property
    def context(self) -> int:
        """Mel frames on each side that a frame's samples depend on; an upper bound."""
        config = self.config
        samples = (config.extension.context + 1) * config.hop_length + config.fft_length
        return config.generator.context + math.ceil(samples / config.generator.samples_per_frame)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Name of the parameter that a published tensor holds; None for tensors of other networks."""
        if not published.startswith(PREFIX):
            return None
        network, _, name = published.removeprefix(PREFIX).partition(".")
        if network == "mel_stft":
            return f"mel.{name.removeprefix('stft_fn.')}"
        networks = {"vocoder": "generator", "bwe_generator": "extension"}
        return f"{networks.get(network, network)}.{_generator_name(name)}"

    def __call__(self, mel: mx.array) -> mx.array:
        low = self.low_rate_waveform(mel)
        return mx.clip(self.residual(low) + self.skip(low), -1, 1)

    def low_rate_waveform(self, mel: mx.array) -> mx.array:
        """The waveform before the bandwidth extension, ``(B, 160 * T, 2)``."""
        return self.generator(_merge_channels(mel).astype(self.generator.conv_pre.weight.dtype))

    def residual(self, low: mx.array) -> mx.array:
        """What the full waveform has beyond the resampled low-rate one."""
        return self.extension(self.mel(low))

    def skip(self, low: mx.array) -> mx.array:
        """The low-rate waveform resampled to the full rate by a windowed sinc."""
        factor = self.config.rate_factor
        taps = _sinc_filter(factor)
        width = math.ceil(_SINC_WIDTH / _ROLLOFF)
        batch, length, channels = low.shape
        samples = low.swapaxes(1, 2).reshape(batch * channels, length, 1)
        padded = pad_edge(samples, 1, before=width, after=width)
        kernel = mx.array(factor * taps, dtype=low.dtype).reshape(1, -1, 1)
        full = mx.conv_transpose1d(padded, kernel, stride=factor)
        start = 2 * width * factor
        full = full[:, start : start + factor * length]
        return full.reshape(batch, channels, -1).swapaxes(1, 2)


VOCODERS: tuple[type[BandwidthExtensionVocoder] | type[Vocoder], ...] = (BandwidthExtensionVocoder, Vocoder)


def _sinc_filter(factor: int) -> np.ndarray:
    """Hann-windowed sinc that raises the sampling rate by ``factor``."""
    width = math.ceil(_SINC_WIDTH / _ROLLOFF)
    t = (np.arange(2 * width * factor + 1) / factor - width) * _ROLLOFF
    window = np.cos(np.pi * np.clip(t, -_SINC_WIDTH, _SINC_WIDTH) / (2 * _SINC_WIDTH)) ** 2
    return np.asarray(np.sinc(t) * window * _ROLLOFF / factor, dtype=np.float32)


def _merge_channels(mel: mx.array) -> mx.array:
    """``(B, T, M, C)`` to ``(B, T, C * M)``, bins fastest."""
    return mel.swapaxes(2, 3).flatten(2)


def _leaky(x: mx.array, slope: float = _SLOPE) -> mx.array:
    return mx.maximum(x, slope * x)


def _same_conv(channels: int, kernel: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel, padding=dilation * (kernel - 1) // 2, dilation=dilation)


def _generator_name(published: str) -> str:
    name = published.replace(".act.", ".").replace(".upsample.filter", ".upsample_filter")
    return name.replace(".downsample.lowpass.filter", ".downsample_filter")
