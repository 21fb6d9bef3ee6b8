"""Adapters' files as their trainers write them: names of tensors, the scale of the training, single numbers.

A module's update is ``scale * up @ down`` with scale = alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA.
Tensors named ``.alpha`` come first, then the file's metadata, then the ``adapter_config.json`` of a PEFT folder.

Source: huggingface/peft, src/peft/tuners/lora/layer.py (update_layer) and src/peft/utils/other.py (get_pattern_key).
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.reader import Checkpoint, data_starts
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.files import parse_json, parse_object

_DOWN = r"\.(?:lora_A|lora_down|lora\.down|lora_linear_layer\.down)(?:\.\w+)?\.weight$"
_UP = r"\.(?:lora_B|lora_up|lora\.up|lora_linear_layer\.up)(?:\.\w+)?\.weight$"
_ALPHA = r"\.(?:lora_)?alpha$"
# First component of a module path in huggingface/diffusers -> the published one
# (scripts/convert_ltx2_to_diffusers.py at 58eb52c).
_DIFFUSERS_NAMES = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
}
# Text connectors in diffusers' naming -> the published one; their blocks are numbered alike.
_CONNECTORS = {
    "connectors.video_connector.transformer_blocks": "video_embeddings_connector.transformer_1d_blocks",
    "connectors.audio_connector.transformer_blocks": "audio_embeddings_connector.transformer_1d_blocks",
    "connectors.video_connector": "video_embeddings_connector",
    "connectors.audio_connector": "audio_embeddings_connector",
    "connectors.text_proj_in": "text_embedding_projection.aggregate_embed",
}
_DIFFUSERS_KEY = "lora_adapter_metadata"
_PEFT_FILE = "adapter_config.json"
_PEFT_WEIGHTS = "adapter_model.safetensors"
# Networks whose settings diffusers and SimpleTuner put in front of a field's name.
_NETWORK = "transformer."
_FIELDS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
# PEFT compiles patterns as regular expressions; trainers write plain module paths, some with ^ or $.
_MODULE_PATH = re.compile(r"\^?[\w.\\]+\$?")
# NumPy has no bfloat16: its values are the upper halves of float32.
_NUMPY = {
    "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


def is_lora_tensor(name: str) -> bool:
    """Whether a tensor belongs to an adapter, by its name."""
    return ".lora" in name and bool(re.search(_DOWN, name) or re.search(_UP, name))


def sort_tensors(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str], dict[str, str], list[str]]:
    """Names of down, up and alpha tensors by their module's path, and all other names."""
    downs: dict[str, str] = {}
    ups: dict[str, str] = {}
    alphas: dict[str, str] = {}
    others = []
    for name in names:
        for pattern, group in ((_DOWN, downs), (_UP, ups), (_ALPHA, alphas)):
            match = re.search(pattern, name)
            if match:
                group[name[: match.start()]] = name
                break
        else:
            others.append(name)
    return downs, ups, alphas, others


def published_paths(path: str) -> list[str]:
    """What a path without a trainer's prefix may mean in the checkpoint, the path itself first.

    Some trainers write dots as underscores, so both forms of a renamed component are tried.
    """
    paths = [path]
    for names in (_DIFFUSERS_NAMES, _CONNECTORS):
        for theirs, published in names.items():
            for separator in (".", "_"):
                start = theirs.replace(".", separator)
                if path == start or path.startswith(f"{start}{separator}"):
                    paths.append(published.replace(".", separator) + path[len(start) :])
    return paths


@dataclass(frozen=True)
class ScaleSettings:
    """Settings of an adapter's scale.

    Attributes:
        alpha: Of all modules without one of their own; None if the file states none.
        alpha_pattern: Alpha of the modules whose path ends in a name.
        rank_stabilised: Divide by the square root of the rank.
        origin: Where they were found, for messages.
    """

    alpha: float | None = None
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False
    origin: str = ""

    def scale(self, module: str, rank: int) -> float:
        """Scale of one module; 1 if nothing is stated for it.

        Args:
            module: Path with dots.
            rank: Of its tensors.
        """
        alpha = self.alpha
        for pattern, value in self.alpha_pattern.items():
            name = pattern.strip("^$").replace("\\", "")
            if module == name or module.endswith(f".{name}"):
                alpha = value
                break
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def scale_settings(checkpoint: Checkpoint) -> ScaleSettings:
    """Settings in an adapter's metadata or beside it; empty ones if there are none.

    Raises:
        CheckpointError: If they cannot be read, or are no numbers.
    """
    metadata = checkpoint.header.metadata
    if _DIFFUSERS_KEY in metadata:
        fields = _json(checkpoint, metadata[_DIFFUSERS_KEY])
        return _settings(checkpoint, fields, "the file's metadata")
    fields = {}
    for name, value in metadata.items():
        if name.removeprefix(_NETWORK) in _FIELDS:
            fields[name] = _json_value(checkpoint, value)
    if fields:
        return _settings(checkpoint, fields, "the file's metadata")
    # A PEFT folder is given as the folder or its file of weights.
    path = checkpoint.path
    config_file = (path.parent if path.name == _PEFT_WEIGHTS else path) / _PEFT_FILE
    if config_file.is_file():
        try:
            text = config_file.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{config_file} cannot be read: {error.strerror}.") from error
        return _settings(checkpoint, _json(checkpoint, text), _PEFT_FILE)
    return ScaleSettings()


def _json(checkpoint: Checkpoint, text: str | bytes) -> dict[str, Any]:
    try:
        return parse_object(text)
    except ValueError as error:
        raise _unreadable(checkpoint) from error


def _json_value(checkpoint: Checkpoint, text: str) -> Any:
    """A metadata value; these are strings, as JSON or as Python prints booleans."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return parse_json(text)
    except ValueError as error:
        raise _unreadable(checkpoint) from error


def _settings(checkpoint: Checkpoint, fields: Mapping[str, Any], origin: str) -> ScaleSettings:
    def value(name: str) -> Any:
        return fields.get(f"{_NETWORK}{name}", fields.get(name))

    alpha = value("lora_alpha")
    patterns = value("alpha_pattern") or {}
    stabilised = value("use_rslora") or False
    if not isinstance(patterns, dict) or not isinstance(stabilised, bool):
        raise _unreadable(checkpoint)
    numbers = [*patterns.values(), *([] if alpha is None else [alpha])]
    if not all(_is_number(number) for number in numbers):
        raise _unreadable(checkpoint)
    for pattern in patterns:
        if not _MODULE_PATH.fullmatch(pattern):
            raise CheckpointError(
                f"{checkpoint.path}: its alpha_pattern {json.dumps(pattern)} is not the path of a module, so the "
                f"strength of its training cannot be determined. Save the adapter again with .alpha tensors."
            )
    if alpha is None and not patterns:
        return ScaleSettings()
    return ScaleSettings(alpha, patterns, stabilised, origin)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _unreadable(checkpoint: Checkpoint) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.path}: the settings of its training (lora_alpha, alpha_pattern, use_rslora) are not readable, so "
        f"its strength cannot be determined. Download it again."
    )


def read_scalars(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, float]:
    """Values of tensors that hold one number each, of any number format.

    Raises:
        CheckpointError: If a tensor is not one finite number.
    """
    values = {}
    for name, array in _numpy_arrays(checkpoint, names).items():
        value = float(array.reshape(-1)[0]) if array.size == 1 else float("nan")
        if not np.isfinite(value):
            raise CheckpointError(f"{checkpoint.path} is damaged: {name} is not one number.")
        values[name] = value
    return values


def read_arrays(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, mx.array]:
    """Arrays of an adapter; lazy, unless a 64-bit float in the file keeps MLX from opening it."""
    for info in checkpoint.header.tensors.values():
        if info.dtype == "F64":
            arrays = _numpy_arrays(checkpoint, names)
            return {name: mx.array(array) for name, array in arrays.items()}
    return checkpoint.arrays(names)


def _numpy_arrays(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Arrays by name; bfloat16 as float32."""
    arrays: dict[str, np.ndarray] = {}
    starts = data_starts(checkpoint)
    for name in names:
        info = checkpoint.header.tensors[name]
        if info.dtype not in _NUMPY:
            raise CheckpointError(f"{checkpoint.path}: {name} is {info.dtype}, expected {', '.join(_NUMPY)}.")
        file, start = starts[name]
        count = info.num_bytes // np.dtype(_NUMPY[info.dtype]).itemsize
        try:
            array = np.fromfile(file, _NUMPY[info.dtype], count, offset=start)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error
        if info.dtype == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = array.reshape(info.shape)
    return arrays
