"""Config of LTX-2's vocoders."""

import math
from dataclasses import dataclass
from typing import Literal

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config import ConfigSection

PREFIX = "vocoder."
FinalActivation = Literal["tanh", "clamp", "none"]
_DEFAULT_RATE = 24000
_GENERATOR_FIELDS = {
    "activation", "apply_final_activation", "output_sampling_rate", "resblock", "resblock_dilation_sizes",
    "resblock_kernel_sizes", "upsample_initial_channel", "upsample_kernel_sizes", "upsample_rates",
    "use_bias_at_final", "use_tanh_at_final",
}  # fmt: skip
_EXTENSION_FIELDS = {"hop_length", "input_sampling_rate", "n_fft", "num_mels", "win_size"}
_FIXED = {"stereo": True}
# Samples that an anti-aliased activation looks to each side, at the rate of its input.
_ACTIVATION_REACH = 6
_PRE_POST_REACH = 3


@dataclass(frozen=True)
class GeneratorConfig:
    """A generator: spectrogram to waveform by upsampling and residual blocks.

    Attributes:
        in_channels: Bins of both audio channels.
        initial_channels: Channels before the first upsampling, which halves them as every one does.
        upsample_rates, upsample_kernels: Stride and kernel of each upsampling.
        block_kernels, block_dilations: Kernel and dilations of the residual blocks that each level averages.
        antialiased: Anti-aliased SnakeBeta activations (AMP1, snakebeta) instead of leaky ReLU.
        final_bias: Whether the last convolution has a bias (use_bias_at_final).
        final_activation: From use_tanh_at_final and apply_final_activation.
    """

    in_channels: int
    initial_channels: int
    upsample_rates: tuple[int, ...]
    upsample_kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    block_dilations: tuple[tuple[int, ...], ...]
    antialiased: bool
    final_bias: bool
    final_activation: FinalActivation

    @property
    def samples_per_frame(self) -> int:
        """Output samples for each frame of the spectrogram."""
        return math.prod(self.upsample_rates)

    @property
    def context(self) -> int:
        """Frames on each side that a frame's samples depend on; an upper bound."""
        activation = _ACTIVATION_REACH if self.antialiased else 0
        block = 0
        for kernel, dilations in zip(self.block_kernels, self.block_dilations, strict=True):
            reach = sum((dilation + 1) * (kernel // 2) + 2 * activation for dilation in dilations)
            block = max(block, reach)
        samples = _PRE_POST_REACH + activation
        for rate, kernel in zip(reversed(self.upsample_rates), reversed(self.upsample_kernels), strict=True):
            samples = math.ceil((samples + block + kernel) / rate)
        return samples + _PRE_POST_REACH

    @classmethod
    def from_section(cls, section: ConfigSection, header: Header, prefix: str) -> "GeneratorConfig":
        """The config of the generator whose published names begin with ``prefix``.

        Raises:
            CheckpointError: If it does not match the tensors, or has unsupported values.
        """
        blocks: tuple[Literal["1", "AMP1"], ...] = ("1", "AMP1")
        antialiased = section.choice("resblock", blocks, "1") == "AMP1"
        if antialiased:
            section.choice("activation", ("snakebeta",), "snakebeta")
        shape = tuple(header.tensors[f"{prefix}conv_pre.weight"].shape)
        if len(shape) != 3:
            raise CheckpointError(f"{prefix}conv_pre.weight has {len(shape)} axes; expected 3.")
        kernels = section.sizes("resblock_kernel_sizes", (3, 7, 11))
        config = cls(
            in_channels=shape[1],
            initial_channels=section.size("upsample_initial_channel", 1024),
            upsample_rates=section.sizes("upsample_rates", (6, 5, 2, 2, 2)),
            upsample_kernels=section.sizes("upsample_kernel_sizes", (16, 15, 8, 4, 4)),
            block_kernels=kernels,
            block_dilations=_dilations(section, len(kernels)),
            antialiased=antialiased,
            final_bias=section.flag("use_bias_at_final", True),
            final_activation=_final_activation(section),
        )
        config.check(section, shape)
        return config

    def check(self, section: ConfigSection, conv_pre: tuple[int, ...]) -> None:
        """Raise ``CheckpointError`` for sizes that contradict one another or the tensors."""
        if self.initial_channels != conv_pre[0] or self.initial_channels % 2 ** len(self.upsample_rates):
            raise CheckpointError(
                f"config.{section.name}.upsample_initial_channel is {self.initial_channels}; the file has "
                f"{conv_pre[0]}, and every one of {len(self.upsample_rates)} levels has to halve it."
            )
        pairs = list(zip(self.upsample_rates, self.upsample_kernels, strict=False))
        fits = len(self.upsample_rates) == len(self.upsample_kernels)
        if not fits or any(kernel < rate or (kernel - rate) % 2 for rate, kernel in pairs):
            raise CheckpointError(
                f"config.{section.name} has upsample_rates {list(self.upsample_rates)} and upsample_kernel_sizes "
                f"{list(self.upsample_kernels)}; expected kernels that exceed their rates by an even number."
            )
        if any(kernel % 2 == 0 for kernel in self.block_kernels):
            raise CheckpointError(f"config.{section.name}.resblock_kernel_sizes has an even kernel; expected odd ones.")


@dataclass(frozen=True)
class VocoderConfig:
    """The section ``vocoder`` of a vocoder without bandwidth extension (2.0)."""

    generator: GeneratorConfig
    sample_rate: int

    @classmethod
    def from_header(cls, header: Header) -> "VocoderConfig | None":
        """The config of the vocoder in a checkpoint; None without one, or with bandwidth extension.

        Raises:
            CheckpointError: If the config is missing, does not match the tensors, or has unsupported values.
        """
        if f"{PREFIX}conv_pre.weight" not in header.tensors:
            return None
        section = ConfigSection("vocoder", header.config.get("vocoder"), _GENERATOR_FIELDS, _FIXED)
        return cls(
            generator=GeneratorConfig.from_section(section, header, PREFIX),
            sample_rate=section.size("output_sampling_rate", _DEFAULT_RATE),
        )


@dataclass(frozen=True)
class BandwidthExtensionConfig:
    """The section ``vocoder`` of a vocoder with bandwidth extension (2.3, 2.5).

    Attributes:
        generator: Spectrogram to waveform at ``low_rate``.
        extension: Spectrogram of that waveform to what the waveform at ``sample_rate`` has beyond it.
        fft_length, hop_length, num_bins: Sizes of that spectrogram.
        low_rate, sample_rate: Samples per second before and after the extension.
    """

    generator: GeneratorConfig
    extension: GeneratorConfig
    fft_length: int
    hop_length: int
    num_bins: int
    low_rate: int
    sample_rate: int

    @property
    def rate_factor(self) -> int:
        """``sample_rate`` over ``low_rate``."""
        return self.sample_rate // self.low_rate

    @classmethod
    def from_header(cls, header: Header) -> "BandwidthExtensionConfig | None":
        """The config of the vocoder in a checkpoint; None without one, or without bandwidth extension.

        Raises:
            CheckpointError: If the config is missing, does not match the tensors, or has unsupported values.
        """
        if f"{PREFIX}bwe_generator.conv_pre.weight" not in header.tensors:
            return None
        root = ConfigSection("vocoder", header.config.get("vocoder"), {"vocoder", "bwe"})
        low = ConfigSection("vocoder.vocoder", root.values.get("vocoder"), _GENERATOR_FIELDS, _FIXED)
        fields = _GENERATOR_FIELDS | _EXTENSION_FIELDS
        section = ConfigSection("vocoder.bwe", root.values.get("bwe"), fields, _FIXED)
        if f"{PREFIX}vocoder.conv_pre.weight" not in header.tensors:
            raise CheckpointError("The file has a vocoder's bandwidth extension without the vocoder.")
        config = cls(
            generator=GeneratorConfig.from_section(low, header, f"{PREFIX}vocoder."),
            extension=GeneratorConfig.from_section(section, header, f"{PREFIX}bwe_generator."),
            fft_length=section.size("n_fft", 512),
            hop_length=section.size("hop_length", 80),
            num_bins=section.size("num_mels", 64),
            low_rate=section.size("input_sampling_rate", 16000),
            sample_rate=section.size("output_sampling_rate", 48000),
        )
        config.check(section)
        return config

    def check(self, section: ConfigSection) -> None:
        """Raise ``CheckpointError`` for sizes that contradict one another."""
        if section.size("win_size", self.fft_length) != self.fft_length:
            raise CheckpointError(f"config.{section.name} has other values for win_size and n_fft.")
        if self.generator.samples_per_frame % self.hop_length or self.hop_length > self.fft_length:
            raise CheckpointError(
                f"config.{section.name}.hop_length is {self.hop_length}; expected a divisor of the vocoder's "
                f"{self.generator.samples_per_frame} samples in a frame, at most n_fft."
            )
        if self.hop_length * self.rate_factor != self.extension.samples_per_frame:
            raise CheckpointError(
                f"config.{section.name} makes {self.extension.samples_per_frame} samples of {self.hop_length} at "
                f"{self.low_rate} Hz; expected {self.sample_rate} Hz from it."
            )


def _dilations(section: ConfigSection, num_kernels: int) -> tuple[tuple[int, ...], ...]:
    published = section.values.get("resblock_dilation_sizes", [[1, 3, 5]] * num_kernels)
    if not isinstance(published, list) or len(published) != num_kernels:
        raise CheckpointError(f"config.{section.name}.resblock_dilation_sizes needs one list for each kernel.")
    dilations = []
    for number, values in enumerate(published):
        entry = ConfigSection(section.name, {f"resblock_dilation_sizes[{number}]": values})
        dilations.append(entry.sizes(f"resblock_dilation_sizes[{number}]", ()))
    return tuple(dilations)


def _final_activation(section: ConfigSection) -> FinalActivation:
    uses_tanh = section.flag("use_tanh_at_final", True)
    if not section.flag("apply_final_activation", True):
        return "none"
    return "tanh" if uses_tanh else "clamp"
