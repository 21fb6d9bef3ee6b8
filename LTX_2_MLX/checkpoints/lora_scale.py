"""The scale that an adapter was trained at, from wherever its trainer wrote it.

A module's update is ``scale * up @ down`` with scale = alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA.
Tensors named ``.alpha`` come first, then the file's metadata, then the ``adapter_config.json`` of a PEFT folder.

Source: huggingface/peft, src/peft/tuners/lora/layer.py (update_layer) and src/peft/utils/other.py (get_pattern_key).
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.outside import parse_json

_DIFFUSERS_KEY = "lora_adapter_metadata"
_PEFT_FILE = "adapter_config.json"
_PEFT_WEIGHTS = "adapter_model.safetensors"
# Networks whose settings diffusers and SimpleTuner put in front of a field's name.
_NETWORK = "transformer."
_FIELDS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
# PEFT compiles patterns as regular expressions; trainers write plain module paths, some with ^ or $.
_MODULE_PATH = re.compile(r"\^?[\w.\\]+\$?")


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
    own = {name: value for name, value in metadata.items() if name.removeprefix(_NETWORK) in _FIELDS}
    if own:
        fields = {name: _json_value(checkpoint, value) for name, value in own.items()}
        return _settings(checkpoint, fields, "the file's metadata")
    config_file = _peft_config(checkpoint.path)
    if config_file is not None:
        try:
            text = config_file.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{config_file} cannot be read: {error.strerror}.") from error
        return _settings(checkpoint, _json(checkpoint, text), _PEFT_FILE)
    return ScaleSettings()


def _peft_config(path: Path) -> Path | None:
    """Settings of a PEFT folder, given as the folder or its file of weights."""
    if path.name == _PEFT_WEIGHTS:
        path = path.parent
    config_file = path / _PEFT_FILE
    return config_file if config_file.is_file() else None


def _json(checkpoint: Checkpoint, text: str | bytes) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise _unreadable(checkpoint) from error
    if not isinstance(value, dict):
        raise _unreadable(checkpoint)
    return value


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


def scale_line(scales: Iterable[float], origin: str) -> str:
    """One sentence on the scales that were taken."""
    values = sorted(set(scales))
    if not origin:
        return "The file states no alpha: scale 1."
    shown = f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
    return f"Scale {shown}, from {origin}."
