"""Recognises what a checkpoint holds by its header: networks, their tensors, the model's generation, unreadable files.

Sources of the names in unreadable files: Comfy-Org/ComfyUI, comfy/quant_ops.py and comfy/utils.py (``comfy_quant``,
``weight_scale_2``); huggingface/diffusers, transformer_ltx2.py; Lightricks/LTX-Video for 0.9.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from LTX_2_MLX.checkpoints.catalog import ENTRIES, Family, Role
from LTX_2_MLX.checkpoints.reader import Checkpoint, data_starts
from LTX_2_MLX.checkpoints.resolve import ResolvedFile, resolve
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.files import parse_json
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.models.interfaces import ConfigT, PublishedNetwork

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
# Marks a whole file of ComfyUI's older form; the module's settings, the scales of inputs (not needed: inputs keep
# their precision) and of weights, of its older and newer form and of the published files.
_MARKER = "scaled_fp8"
_SETTINGS = "comfy_quant"
_INPUT_SCALES = ("input_scale", "scale_input")
_WEIGHT_SCALES = ("weight_scale", "scale_weight")
# Last parts of the names of all tensors that only describe how others are stored.
FLOAT8_SETTINGS = (_MARKER, _SETTINGS, *_INPUT_SCALES, *_WEIGHT_SCALES)
# A setting is a line of JSON; more is none.
_MOST_BYTES = 4096


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
    """The first network whose config is in the header, without its weights. MLX is lazy: this costs nothing.

    Raises:
        CheckpointError: If the checkpoint holds none of them.
    """
    refuse_unsupported(checkpoint)
    candidates = [networks] if isinstance(networks, type) else list(networks)
    for network in candidates:
        config = network.Config.from_header(checkpoint.header)
        if config is not None:
            return network(config)
    raise _not_recognised([network.__name__ for network in candidates], checkpoint)


def _not_recognised(names: list[str], checkpoint: Checkpoint) -> CheckpointError:
    first_tensors = ", ".join(sorted(checkpoint.header.tensors)[:_SHOWN]) or "none"
    return CheckpointError(
        f"{checkpoint.path} holds no {' or '.join(names)}. Its first tensors: {first_tensors}. Is it the right file?"
    )


def parameter_names(network: type[PublishedNetwork[Any]], checkpoint: Checkpoint) -> dict[str, str]:
    """Published name -> parameter name of the network's tensors, without the scales of 8-bit floats."""
    names = {}
    for name in checkpoint.header.tensors:
        if name.rpartition(".")[2] in FLOAT8_SETTINGS:
            continue
        parameter = network.parameter_name(name)
        if parameter is not None:
            names[name] = parameter
    return names


def with_scales(names: Mapping[str, str] | list[str], scales: Mapping[str, str | None]) -> list[str]:
    """Published names, followed by the scales that their 8-bit floats have."""
    with_their_scales = list(names)
    for name in names:
        scale = scales.get(name)
        if scale is not None:
            with_their_scales.append(scale)
    return with_their_scales


def float8_scales(checkpoint: Checkpoint) -> dict[str, str | None]:
    """Names of the tensors in 8-bit floats, and the name of each one's scale; None without one.

    Raises:
        CheckpointError: If a scale is more than one number, or belongs to a tensor of another precision.
    """
    tensors = checkpoint.header.tensors
    names: dict[str, str | None] = {}
    for name, info in tensors.items():
        if info.dtype == "F8_E4M3" and name.rpartition(".")[2] != _MARKER:
            names[name] = None
    for scale_name in tensors:
        module, dot, last = scale_name.rpartition(".")
        if last not in _WEIGHT_SCALES:
            continue
        name = f"{module}{dot}weight"
        if name not in names:
            raise CheckpointError(
                f"{checkpoint.path}: {scale_name} is the scale of a weight that is not in 8-bit floats (E4M3), which "
                f"is not supported. Use the published 8-bit file or the 16-bit one."
            )
        scale = tensors[scale_name]
        if scale.num_bytes == 0 or any(size != 1 for size in scale.shape):
            raise CheckpointError(
                f"{checkpoint.path}: {scale_name} has shape {scale.shape}, but only one scale per tensor is supported. "
                f"Use the published 8-bit file or the 16-bit one."
            )
        names[name] = scale_name
    return names


def generation_of(checkpoint: Checkpoint) -> Family | None:
    """Model generation by a file's metadata, else by its name; None if neither tells."""
    metadata = checkpoint.header.metadata
    version = re.match(r"2\.(\d+)", metadata.get("model_version", ""))
    if version:
        minor = int(version[1])
        return "LTX-2.5" if minor >= 5 else "LTX-2.3" if minor >= 3 else "LTX-2"
    stated = []
    for field in _BASE_FIELDS:
        stated.append(metadata.get(field, ""))
    for text in (" ".join(stated), checkpoint.path.name):
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


def open_upscaler(spec: str, role: Role, model: ResolvedFile, note: Callable[[str], None]) -> Checkpoint:
    """The latent upscaler that ``spec`` means, as for ``resolve``; a line where its generation is not certain.

    Raises:
        CheckpointError: If it is missing or cannot be read, or is of another generation than the model.
    """
    file = resolve(spec, role, model=model)
    upscaler = Checkpoint(file.path)
    expected = model.family or generation_of(Checkpoint(model.path))
    if expected is None or "demo" in (file.family, expected):
        return upscaler
    possible = _generations(file, upscaler)
    name = file.path.name
    if not possible:
        note(f"{name} does not say for which model it was made; {model.path.name} is {expected}.")
    elif expected not in possible:
        raise CheckpointError(
            f"{file.path} was made for {' or '.join(possible)}, but {model.path.name} is {expected}: the result "
            f"would be a mosaic. Use the upscaler of {expected}."
        )
    elif len(possible) > 1:
        note(f"{name} was made for {' or '.join(possible)}, by its size; {model.path.name} is {expected}.")
    return upscaler


def _generations(file: ResolvedFile, upscaler: Checkpoint) -> list[Family]:
    """Generations that an upscaler may be of: by its name, its exact size, else by what it says of itself.

    The temporal upscalers of LTX-2.3 and LTX-2.5 have the same size.
    """
    if file.family is not None:
        return [file.family]
    by_size = _families_of_size(file.path.stat().st_size) if file.path.is_file() else []
    if len(by_size) == 1:
        return by_size
    stated = generation_of(upscaler)
    return by_size if stated is None else [stated]


def _families_of_size(num_bytes: int) -> list[Family]:
    families = []
    for entry in ENTRIES:
        if entry.family and len(entry.files) == 1 and entry.files[0].num_bytes == num_bytes:
            families.append(entry.family)
    return families
