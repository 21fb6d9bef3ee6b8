"""Files of other tools that cannot be read, recognised by their headers, with the file to use instead.

Sources of the names: Comfy-Org/ComfyUI, comfy/quant_ops.py and comfy/utils.py (``comfy_quant``, ``weight_scale_2``);
huggingface/diffusers, transformer_ltx2.py; Lightricks/LTX-Video for 0.9.
"""

from collections.abc import Mapping
from pathlib import Path

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.scalars import read_bytes
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.models.interfaces import TensorInfo
from LTX_2_MLX.outside import parse_json

_COMFY = ".comfy_quant"
_READABLE = "float8_e4m3fn"
# Width of T5's features, which LTX-Video 0.9 reads; Gemma's are 3840 wide.
_T5_WIDTH = 4096
_PREFIX = "model.diffusion_model."


def refuse_unsupported(checkpoint: Checkpoint) -> None:
    """Raise if a file is of a kind that cannot be read.

    Raises:
        CheckpointError: Names the kind, and the file to use instead.
    """
    tensors = checkpoint.header.tensors
    kind = _quantisation(checkpoint) or _other_model(tensors)
    if kind is not None:
        raise CheckpointError(
            f"{checkpoint.path} {kind}, which is not supported. Use the published file instead: "
            f"{command_line('download_weights')} {_replacement(checkpoint.path)}"
        )


def _quantisation(checkpoint: Checkpoint) -> str | None:
    tensors = checkpoint.header.tensors
    if any(name.endswith(".weight_scale_2") for name in tensors):
        return "holds weights in 4-bit floats (nvfp4)"
    for name, info in tensors.items():
        if info.dtype == "I8" and name.endswith(".weight"):
            return "holds weights in 8-bit integers (int8)"
    settings = [name for name in tensors if name.endswith(_COMFY)]
    for text in set(read_bytes(checkpoint, settings).values()):
        kind = _comfy_format(text)
        if kind != _READABLE:
            return f"holds weights in the format {kind!r:.40} of ComfyUI"
    return None


def _comfy_format(text: bytes) -> str:
    try:
        fields = parse_json(text.rstrip(b"\0"))
    except ValueError:
        return "unreadable"
    return str(fields.get("format")) if isinstance(fields, dict) else "unreadable"


def _other_model(tensors: Mapping[str, TensorInfo]) -> str | None:
    if "proj_in.weight" in tensors and any(name.startswith("time_embed.") for name in tensors):
        return "is a transformer of diffusers, whose tensors have other names"
    caption = tensors.get(f"{_PREFIX}caption_projection.linear_1.weight")
    has_audio = any(name.startswith(f"{_PREFIX}audio_") for name in tensors)
    if caption is not None and not has_audio and caption.shape[-1:] == (_T5_WIDTH,):
        return "is of LTX-Video 0.9, an earlier model with another text encoder"
    return None


def _replacement(path: Path) -> str:
    """Catalogue name of the published file that is nearest to a file, by its name."""
    name = path.name.lower()
    generation = "ltx-2.3-22b" if "2.3" in name or "22b" in name else "ltx-2-19b"
    if "dev" in name:
        return f"{generation}-dev"
    return f"{generation}-distilled"
