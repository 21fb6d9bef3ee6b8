"""Config of LTX-2.5's diffusion video decoder, and the sizes that follow from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config import ConfigSection
from LTX_2_MLX.shapes import Compression

CLASS_NAME = "CausalDiffusionVAE"
_DECODER_CLASS_NAME = "NADiffusionDecoder"
_NUM_STAGES = 5
_FIELDS = {
    "in_channels", "out_channels", "patch_size", "head_dim", "stage_channels", "stage_depths", "stage_kernels",
    "upsamples", "stage5_kernel", "t_emb_dim", "timestep_scale_multiplier", "default_num_inference_steps",
}  # fmt: skip
_FIXED = {
    "_class_name": _DECODER_CLASS_NAME,
    "resampler_kind": "linear",
    "spatial_padding_mode": "zeros",
}
# Far above any size in use: a damaged config must not ask for endless layers.
_MOST = 65536
_DEFAULT_TIMESTEP_WIDTH = 384

Axes = tuple[int, int, int]


@dataclass(frozen=True)
class UpsampleSpec:
    """An upsampling layer: factors in time, height and width, and the width before it over the width after it."""

    stride: Axes
    reduction: int


@dataclass(frozen=True)
class DiffusionDecoderConfig:
    """The section ``vae`` of a diffusion video autoencoder: its decoder.

    Attributes:
        stage_channels: Width of each of the five stages.
        stage_depths: Blocks of each stage.
        stage_kernels: Window of neighbourhood attention in the first four stages.
        stage5_kernel: Window in the diffusion stage (a fifth row of the published ``stage_kernels`` is not used).
        upsamples: After each of the first four stages.
        prediction: ``x0``: the last stage gives the clean video; ``v``: its velocity.
        num_steps: Published as ``default_num_inference_steps``.
        timestep_width: Published as ``t_emb_dim``.
    """

    stage_channels: tuple[int, ...]
    stage_depths: tuple[int, ...]
    stage_kernels: tuple[Axes, ...]
    stage5_kernel: Axes
    upsamples: tuple[UpsampleSpec, ...]
    in_channels: int
    out_channels: int
    patch_size: int
    head_dim: int
    prediction: Literal["x0", "v"]
    num_steps: int
    timestep_scale_multiplier: float
    timestep_width: int = _DEFAULT_TIMESTEP_WIDTH

    @classmethod
    def from_header(cls, header: Header) -> "DiffusionDecoderConfig | None":
        """The decoder's config; None where the file has no diffusion decoder.

        Every field that shapes the network has to be there: the defaults of the published class describe another one.

        Raises:
            CheckpointError: If a value is not one that the network has.
        """
        vae = header.config.get("vae")
        if not isinstance(vae, Mapping) or vae.get("_class_name") != CLASS_NAME or "decoder" not in vae:
            return None
        section = ConfigSection("vae.decoder", vae["decoder"], _FIELDS, _FIXED)
        if "timestep_scale_multiplier" not in section:
            raise CheckpointError("config.vae.decoder lacks timestep_scale_multiplier. Use the file as published.")
        channels = _sizes(section, "stage_channels", _NUM_STAGES)
        config = cls(
            stage_channels=channels,
            stage_depths=_sizes(section, "stage_depths", _NUM_STAGES),
            stage_kernels=_kernels(section, "stage_kernels")[: _NUM_STAGES - 1],
            stage5_kernel=_axes("stage5_kernel", section.values.get("stage5_kernel")),
            upsamples=_upsamples(section),
            in_channels=section.size("in_channels"),
            out_channels=section.size("out_channels"),
            patch_size=section.size("patch_size"),
            head_dim=section.size("head_dim"),
            prediction=ConfigSection("vae", vae).choice("model_output_type", ("x0", "v"), "v"),
            num_steps=section.size("default_num_inference_steps"),
            timestep_scale_multiplier=section.number("timestep_scale_multiplier", 1.0),
            timestep_width=section.size("t_emb_dim", _DEFAULT_TIMESTEP_WIDTH),
        )
        config.check()
        return config

    def check(self) -> None:
        """Raise ``CheckpointError`` for widths that do not follow from each other."""
        if any(width % self.head_dim for width in self.stage_channels):
            raise CheckpointError(
                f"config.vae.decoder.stage_channels is {list(self.stage_channels)}, expected multiples of "
                f"head_dim, which is {self.head_dim}."
            )
        for stage, upsample in enumerate(self.upsamples):
            expected = self.stage_channels[stage] // upsample.reduction
            if self.stage_channels[stage + 1] != expected:
                raise CheckpointError(
                    f"config.vae.decoder.stage_channels[{stage + 1}] is {self.stage_channels[stage + 1]}, but "
                    f"upsamples[{stage}] gives {expected}."
                )

    @property
    def compression(self) -> Compression:
        """Pixels per latent step."""
        time, height, width = self.strides_before(_NUM_STAGES - 1)
        return Compression(time, height * self.patch_size, width * self.patch_size)

    @property
    def ghost_frames(self) -> int:
        """Copies of the last latent frame behind it, so that windows shifted at the end fall on them."""
        return self.stage_kernels[0][0] // 2 * 2

    @property
    def smallest_latent(self) -> Axes:
        """Frames, height and width of a latent in which no axis of any stage is shorter than its window."""
        kernels = (*self.stage_kernels, self.stage5_kernel)
        strides = [self.strides_before(stage) for stage in range(_NUM_STAGES)]
        sizes = [max(-(-kernels[i][axis] // strides[i][axis]) for i in range(_NUM_STAGES)) for axis in range(3)]
        return (sizes[0], sizes[1], sizes[2])

    def features_shape(self, frames: int, height: int, width: int) -> Axes:
        """Size of stage 4's input for a latent of this size."""
        for upsample in self.upsamples[:3]:
            frames = frames * upsample.stride[0] - (upsample.stride[0] == 2)
            height *= upsample.stride[1]
            width *= upsample.stride[2]
        return frames, height, width

    @property
    def features_halo(self) -> int:
        """Latent frames on each side that stages 1 to 3 see."""
        halo = 0
        for stage, kernel in enumerate(self.stage_kernels[:3]):
            halo += -(-self.stage_depths[stage] * (kernel[0] // 2) // self.strides_before(stage)[0])
        return halo

    def cells_before(self, frame: int) -> int:
        """Frames of stage 4's input that the latent frames before this one make."""
        return self.frames_before(frame, _NUM_STAGES - 2, starts_clip=True)

    def frames_before(self, frame: int, stage: int, *, starts_clip: bool) -> int:
        """Frames that the latent frames before this one make in a stage, of a part that starts the clip or does not."""
        if not starts_clip:
            return frame * self.strides_before(stage)[0]
        frames = frame
        for upsample in self.upsamples[:stage] if frame else ():
            frames = frames * upsample.stride[0] - (upsample.stride[0] == 2)
        return frames

    def strides_before(self, stage: int) -> Axes:
        """Factors in time, height and width by which a stage's input is finer than the latent."""
        strides = [upsample.stride for upsample in self.upsamples[:stage]]
        time, height, width = (math.prod(stride[axis] for stride in strides) for axis in range(3))
        return time, height, width


def _sizes(section: ConfigSection, field: str, count: int) -> tuple[int, ...]:
    values = section.values.get(field)
    if not isinstance(values, list | tuple) or len(values) != count or not all(map(_is_size, values)):
        raise CheckpointError(f"config.{section.name}.{field} is {values!r:.60}; expected {count} whole numbers.")
    return tuple(values)


def _kernels(section: ConfigSection, field: str) -> tuple[Axes, ...]:
    rows = section.values.get(field)
    if not isinstance(rows, list | tuple) or len(rows) not in (_NUM_STAGES - 1, _NUM_STAGES):
        raise CheckpointError(f"config.{section.name}.{field} is {rows!r:.60}; expected a window for each stage.")
    return tuple(_axes(field, row) for row in rows)


def _upsamples(section: ConfigSection) -> tuple[UpsampleSpec, ...]:
    rows = section.values.get("upsamples")
    if not isinstance(rows, list | tuple) or len(rows) != _NUM_STAGES - 1:
        raise CheckpointError(f"config.{section.name}.upsamples is {rows!r:.60}; expected {_NUM_STAGES - 1} rows.")
    specs = []
    for row in rows:
        if not isinstance(row, list | tuple) or len(row) != 2 or not _is_size(row[1]):
            raise CheckpointError(f"config.{section.name}.upsamples holds {row!r:.60}; expected [stride, reduction].")
        stride = _axes("upsamples", row[0])
        if any(factor not in (1, 2) for factor in stride):
            raise CheckpointError(f"config.{section.name}.upsamples has the stride {stride}; 1 and 2 are supported.")
        specs.append(UpsampleSpec(stride, row[1]))
    return tuple(specs)


def _axes(field: str, value: Any) -> Axes:
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(map(_is_size, value)):
        raise CheckpointError(f"config.vae.decoder.{field} is {value!r:.60}; expected three whole numbers.")
    return (value[0], value[1], value[2])


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value <= _MOST
