"""Config of the video autoencoder, from a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.layers.streaming import SpatialPadding
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config_section import ConfigSection
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
        section = ConfigSection("vae", vae)
        section.check_fields(_FIELDS, _FIXED)
        return cls(
            encoder_blocks=_blocks(section, "encoder_blocks", _ENCODER_KINDS, multiplier=2),
            decoder_blocks=_blocks(section, "decoder_blocks", _DECODER_KINDS, multiplier=1),
            latent_channels=_size(section, "latent_channels", cls.latent_channels),
            decoder_base_channels=_size(section, "decoder_base_channels", cls.decoder_base_channels),
            in_channels=_size(section, "in_channels", cls.in_channels),
            out_channels=_size(section, "out_channels", cls.out_channels),
            patch_size=_size(section, "patch_size", cls.patch_size),
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
        section = ConfigSection("vae.encoder", vae["encoder"])
        section.check_fields(_NESTED_FIELDS, _NESTED_FIXED)
        return cls(
            encoder_blocks=_blocks(section, "blocks", _ENCODER_KINDS, multiplier=2),
            decoder_blocks=(),
            latent_channels=_size(section, "out_channels"),
            in_channels=_size(section, "in_channels", cls.in_channels),
            patch_size=_size(section, "patch_size", cls.patch_size),
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
        blocks.append(_block(field, entry, kinds, multiplier))
    return tuple(blocks)


def _size(section: ConfigSection, field: str, default: int | None = None) -> int:
    value = section.size(field, default)
    if value > _MOST:
        raise CheckpointError(f"config.{section.name}.{field} is {value}; at most {_MOST} is supported.")
    return value


def _block(field: str, entry: Any, kinds: Mapping[str, Any], multiplier: int) -> Block:
    pair = isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[0], str)
    if not pair or entry[0] not in kinds:
        raise CheckpointError(f"config.vae.{field} has the block {entry!r:.60}; supported are {', '.join(kinds)}.")
    name, values = entry
    # The oldest configs give the number of layers alone.
    options = ConfigSection(f"vae.{field}.{name}", {"num_layers": values} if isinstance(values, int) else values)
    if name == "res_x":
        options.check_fields({"num_layers"}, {"inject_noise": False})
        return Block(stride=None, num_layers=_size(options, "num_layers"))
    options.check_fields({"multiplier", "residual"}, {})
    # The reference passes this switch on in compress_all alone.
    residual = name == "compress_all" and options.flag("residual", False)
    return Block(stride=kinds[name], multiplier=_size(options, "multiplier", multiplier), residual=residual)
