"""Recognises what a checkpoint holds by its header: the network, the model's generation, and files that cannot be read.

Sources of the names in unreadable files: Comfy-Org/ComfyUI, comfy/quant_ops.py and comfy/utils.py (``comfy_quant``,
``weight_scale_2``); huggingface/diffusers, transformer_ltx2.py; Lightricks/LTX-Video for 0.9.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from LTX_2_MLX.checkpoints.catalog import ENTRIES
from LTX_2_MLX.checkpoints.entries import Family, ResolvedFile
from LTX_2_MLX.checkpoints.reader import Checkpoint, data_starts
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.models.interfaces import ConfigT, PublishedNetwork
from LTX_2_MLX.outside import parse_json

NetworkT = TypeVar("NetworkT", bound=PublishedNetwork[Any])

_SHOWN = 5
# Metadata fields in which trainers write the base model.
_BASE_FIELDS = (
    "model_version", "base_model", "base_model_name_or_path", "ss_base_model_version", "ss_sd_model_name",
    "modelspec.architecture", "modelspec.implementation",
)  # fmt: skip
# LTX-2 has 19 and LTX-2.3 has 22 billion parameters.
_FAMILY_NAMES: tuple[tuple[Family, re.Pattern[str]], ...] = (
    ("LTX-2.5", re.compile(r"ltx[-_ ]?v?(?:ideo[-_ ]?)?2[._]5", re.IGNORECASE)),
    ("LTX-2.3", re.compile(r"ltx[-_ ]?v?(?:ideo[-_ ]?)?2[._]3|(?<!\d)22b(?![a-z])", re.IGNORECASE)),
    ("LTX-2", re.compile(r"ltx[-_ ]?v?(?:ideo[-_ ]?)?2(?![._]?\d)|ltx[-_ ]?2[._]0|(?<!\d)19b(?![a-z])", re.IGNORECASE)),
)
_COMFY = ".comfy_quant"
_READABLE = "float8_e4m3fn"
# Width of T5's features, which LTX-Video 0.9 reads; Gemma's are 3840 wide.
_T5_WIDTH = 4096
_PREFIX = "model.diffusion_model."
# A setting is a line of JSON; more is none.
_MOST_BYTES = 4096


def recognise(networks: type[NetworkT] | Sequence[type[NetworkT]], checkpoint: Checkpoint) -> type[NetworkT]:
    """The first network class whose config is in the header.

    Raises:
        CheckpointError: If the checkpoint holds none of them.
    """
    refuse_unsupported(checkpoint)
    candidates = [networks] if isinstance(networks, type) else list(networks)
    for network in candidates:
        if network.Config.from_header(checkpoint.header) is not None:
            return network
    raise _not_recognised([network.__name__ for network in candidates], checkpoint)


def config_of(network: type[PublishedNetwork[ConfigT]], checkpoint: Checkpoint) -> ConfigT:
    """The config of a network in a checkpoint.

    Raises:
        CheckpointError: If the checkpoint holds another network.
    """
    refuse_unsupported(checkpoint)
    config = network.Config.from_header(checkpoint.header)
    if config is None:
        raise _not_recognised([network.__name__], checkpoint)
    return config


def build(networks: type[NetworkT] | Sequence[type[NetworkT]], checkpoint: Checkpoint) -> NetworkT:
    """The first network that is in the checkpoint, without its weights. MLX is lazy: this costs nothing.

    Raises:
        CheckpointError: If the checkpoint holds none of them.
    """
    network = recognise(networks, checkpoint)
    return network(config_of(network, checkpoint))


def _not_recognised(names: list[str], checkpoint: Checkpoint) -> CheckpointError:
    first_tensors = ", ".join(sorted(checkpoint.header.tensors)[:_SHOWN]) or "none"
    return CheckpointError(
        f"{checkpoint.path} holds no {' or '.join(names)}. Its first tensors: {first_tensors}. Is it the right file?"
    )


def generation_of(checkpoint: Checkpoint) -> Family | None:
    """Model generation by a file's metadata, else by its name; None if neither tells."""
    metadata = checkpoint.header.metadata
    version = re.match(r"2\.(\d+)", metadata.get("model_version", ""))
    if version:
        minor = int(version[1])
        return "LTX-2.5" if minor >= 5 else "LTX-2.3" if minor >= 3 else "LTX-2"
    stated = " ".join(filter(None, map(metadata.get, _BASE_FIELDS)))
    for text in (stated, Path(checkpoint.path).name):
        for family, pattern in _FAMILY_NAMES:
            if pattern.search(text):
                return family
    return None


def refuse_unsupported(checkpoint: Checkpoint) -> None:
    """Raise if a file is of a kind that cannot be read.

    Raises:
        CheckpointError: Names the kind, and the file to use instead.
    """
    tensors = checkpoint.header.tensors
    settings = []
    has_audio = False
    for name, info in tensors.items():
        if name.endswith(".weight_scale_2"):
            raise _unsupported(checkpoint, "holds weights in 4-bit floats (nvfp4)")
        if info.dtype == "I8" and name.endswith(".weight"):
            raise _unsupported(checkpoint, "holds weights in 8-bit integers (int8)")
        if name.startswith("time_embed.") and "proj_in.weight" in tensors:
            raise _unsupported(checkpoint, "is a transformer of diffusers, whose tensors have other names")
        if name.endswith(_COMFY):
            settings.append(name)
        has_audio = has_audio or name.startswith(f"{_PREFIX}audio_")
    for kind in _comfy_formats(checkpoint, settings) if settings else ():
        if kind != _READABLE:
            raise _unsupported(checkpoint, f"holds weights in the format {kind!r:.40} of ComfyUI")
    caption = tensors.get(f"{_PREFIX}caption_projection.linear_1.weight")
    if caption is not None and not has_audio and caption.shape[-1:] == (_T5_WIDTH,):
        raise _unsupported(checkpoint, "is of LTX-Video 0.9, an earlier model with another text encoder")


def _unsupported(checkpoint: Checkpoint, kind: str) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.path} {kind}, which is not supported. Use the published file instead: "
        f"{command_line('download_weights')} {_replacement(checkpoint.path)}"
    )


def _comfy_formats(checkpoint: Checkpoint, names: Sequence[str]) -> set[str]:
    """Formats of layers, from the settings that ComfyUI writes as text into small tensors."""
    starts = data_starts(checkpoint)
    formats = set()
    for name in names:
        file, start = starts[name]
        count = min(checkpoint.header.tensors[name].num_bytes, _MOST_BYTES)
        formats.add(_comfy_format(np.fromfile(file, np.uint8, count, offset=start).tobytes()))
    return formats


def _comfy_format(text: bytes) -> str:
    try:
        fields = parse_json(text.rstrip(b"\0"))
    except ValueError:
        return "unreadable"
    return str(fields.get("format")) if isinstance(fields, dict) else "unreadable"


def _replacement(path: Path) -> str:
    """Catalogue name of the published file that is nearest to a file, by its name."""
    name = path.name.lower()
    generation = "ltx-2.3-22b" if "2.3" in name or "22b" in name else "ltx-2-19b"
    if "dev" in name:
        return f"{generation}-dev"
    return f"{generation}-distilled"


def check_generation(upscaler: ResolvedFile, model: ResolvedFile, note: Callable[[str], None]) -> None:
    """Refuse an upscaler of another generation than the model; one line where its generation is not certain.

    Raises:
        CheckpointError: If they are of two generations.
    """
    if "demo" in (upscaler.family, model.family):
        return
    expected = model.family or generation_of(Checkpoint(model.path))
    if expected is None:
        return
    possible = _generations(upscaler)
    if not possible:
        note(f"{upscaler.path.name} does not say for which model it was made; {model.path.name} is {expected}.")
    elif expected not in possible:
        raise CheckpointError(
            f"{upscaler.path} was made for {' or '.join(possible)}, but {model.path.name} is {expected}: the result "
            f"would be a mosaic. Use the upscaler of {expected}."
        )
    elif len(possible) > 1:
        note(
            f"{upscaler.path.name} was made for {' or '.join(possible)}, by its size; {model.path.name} is {expected}."
        )


def _generations(file: ResolvedFile) -> list[Family]:
    """Generations that an upscaler may be of: by its name, its exact size, else by what it says of itself.

    The temporal upscalers of LTX-2.3 and LTX-2.5 have the same size.
    """
    if file.family is not None:
        return [file.family]
    by_size = _families_of_size(file.path.stat().st_size) if file.path.is_file() else []
    if len(by_size) == 1:
        return by_size
    stated = generation_of(Checkpoint(file.path))
    return by_size if stated is None else [stated]


def _families_of_size(num_bytes: int) -> list[Family]:
    families = []
    for entry in ENTRIES:
        if entry.family and not entry.is_folder and entry.files[0].num_bytes == num_bytes:
            families.append(entry.family)
    return families
