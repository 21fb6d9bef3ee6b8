"""Names of tensors in files of other tools, turned into the published names."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from LTX_2_MLX.models.interfaces import TensorInfo

MLX_VIDEO = "mlx-video"
_TRANSFORMER_PREFIX = "model.diffusion_model."
# Only LTX's transformer as published has this layer; diffusers' conversion names it proj_in.
_TRANSFORMER_PROBE = "patchify_proj.weight"
# A name that each part of a pack of mlx-forge has, and no published file.
_PACK_PROBE = re.compile(
    r"(transformer(?=\.patchify_proj\.weight$)|connector(?=\.video_embeddings_connector\.)|text_encoder(?=\.model\.)|"
    r"vae_decoder\w*(?=\.per_channel_statistics\.mean$)|"
    r"(?:vae_encoder\w*|audio_vae)(?=\.per_channel_statistics\._mean_of_means$)|"
    r"(?:spatial|temporal)_upscaler_\w+(?=\.initial_conv\.weight$))"
)
_VOCODER_PROBES = {"vocoder.conv_pre.weight", "vocoder.bwe_generator.conv_pre.weight"}
# Names that only parts of a pack of mlx-video have.
_MLX_VIDEO_PROBES = {
    "transformer_blocks.0.attn1.to_out.weight", "bwe_generator.conv_pre.weight", "per_channel_statistics.mean",
    "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_out.weight", "per_channel_statistics.mean_of_means",
}  # fmt: skip
# A layer of the language model of Gemma 3 and 4 that no other network here has.
_LANGUAGE_MODEL_PROBE = ".layers.0.pre_feedforward_layernorm.weight"


@dataclass(frozen=True)
class StoredTensor:
    """Where a published tensor lies in a file.

    Attributes:
        name: Its name there.
        axes: Order of the stored axes that gives the published shape; None where it is the stored one.
        is_copy: Whether another file of the same model may hold it as well.
    """

    name: str
    axes: tuple[int, ...] | None = None
    is_copy: bool = False

    def published(self, info: TensorInfo) -> TensorInfo:
        """The stored tensor's description with the published shape."""
        if self.axes is None:
            return info
        return TensorInfo(tuple(info.shape[axis] for axis in self.axes), info.dtype, info.num_bytes)

    def turned(self, arrays: Mapping[str, mx.array]) -> mx.array:
        """The tensor among those of its file, in published axis order; lazy."""
        array = arrays[self.name]
        return array if self.axes is None else array.transpose(self.axes)


def published_layout(
    file: Path, tensors: Mapping[str, TensorInfo], metadata: dict[str, str]
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Where each published tensor lies in a file, and the file's metadata with those of a pack that lie beside it.

    A transformer file of ComfyUI (``diffusion_models/``) leaves out the prefix ``model.diffusion_model.``.

    Raises:
        CheckpointError: If the file is part of a pack for MLX that cannot be read.
    """
    part = pack_part(tensors.keys())
    if part is not None:
        # Few files are.
        from LTX_2_MLX.checkpoints.mlx_packs import read_part

        layout, beside = read_part(file, part, tensors)
        return layout, metadata | beside
    prefix = _TRANSFORMER_PREFIX if _TRANSFORMER_PROBE in tensors else ""
    return {f"{prefix}{name}": StoredTensor(name) for name in tensors}, metadata


def holds_language_model(names: Collection[str]) -> bool:
    """Whether tensors are those of a text encoder, whose config and tokenizer may lie beside its file."""
    return any(name.endswith(_LANGUAGE_MODEL_PROBE) for name in names)


def pack_part(names: Collection[str]) -> str | None:
    """The part of a pack for MLX that a file is, such as ``vae_decoder``; ``MLX_VIDEO``; None for other files."""
    stored = set(names)
    if stored >= _VOCODER_PROBES:
        return "vocoder"
    if stored & _MLX_VIDEO_PROBES:
        return MLX_VIDEO
    return next((match[1] for match in map(_PACK_PROBE.match, names) if match), None)
