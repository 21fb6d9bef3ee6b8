"""Warnings about an adapter that fits a checkpoint's shapes but was made for something else."""

import re
from pathlib import Path

from LTX_2_MLX.checkpoints.entries import Family
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError

# Lightricks/LTX-2, packages/ltx-trainer, training_strategies/ at 400fd31: written into adapters that read a reference
# video through the context. An adapter whose reference is as large and as fast as the video may have none of them.
_REFERENCE_FIELD = "reference_downscale_factor"
_SLOWER_FIELD = "reference_temporal_scale_factor"
_REFERENCE_FIELDS = {_REFERENCE_FIELD, "reference_spatial_scale_factor", _SLOWER_FIELD}
_IC_NAME = re.compile(r"(?<![a-z])ic[-_ ]?lora", re.IGNORECASE)
# Metadata fields in which trainers write the base model.
_BASE_FIELDS = (
    "model_version", "base_model", "base_model_name_or_path", "ss_base_model_version", "ss_sd_model_name",
    "modelspec.architecture", "modelspec.implementation",
)  # fmt: skip
# Parts of the names of layers, with dots for the underscores that some trainers write.
_BLOCKS, _GATE, _FEED_FORWARD = "transformer.blocks.", ".to.gate.logits", ".ff.net."
# LTX-2 has 19 and LTX-2.3 has 22 billion parameters.
_NAMES: tuple[tuple[Family, re.Pattern[str]], ...] = (
    ("LTX-2.5", re.compile(r"ltx[-_ ]?v?(?:ideo[-_ ]?)?2[._]5", re.IGNORECASE)),
    ("LTX-2.3", re.compile(r"ltx[-_ ]?v?(?:ideo[-_ ]?)?2[._]3|(?<!\d)22b(?![a-z])", re.IGNORECASE)),
    ("LTX-2", re.compile(r"ltx[-_ ]?v?(?:ideo[-_ ]?)?2(?![._]?\d)|ltx[-_ ]?2[._]0|(?<!\d)19b(?![a-z])", re.IGNORECASE)),
)


def reads_reference(adapter: Checkpoint) -> bool:
    """Whether an adapter is an IC-LoRA, made for a reference video in the context, by its metadata or its name."""
    in_metadata = bool(adapter.header.metadata.keys() & _REFERENCE_FIELDS)
    return in_metadata or _IC_NAME.search(adapter.path.name) is not None


def reference_downscale(adapter: Checkpoint, unstated: int = 2) -> int:
    """Height and width of a video over those of the reference that an adapter reads.

    Args:
        adapter: The adapter.
        unstated: What it is where the file says nothing: 2 for detailing adapters, 1 for others.

    Raises:
        CheckpointError: If the file says something else than a whole number from 1 on.
    """
    return _factor(adapter, _REFERENCE_FIELD, unstated)


def reference_slower(adapter: Checkpoint) -> int:
    """Frame rate of a video over that of the reference that an adapter reads; 1 where its file says nothing.

    Raises:
        CheckpointError: If the file says something else than a whole number from 1 on.
    """
    return _factor(adapter, _SLOWER_FIELD, 1)


def _factor(adapter: Checkpoint, field: str, unstated: int) -> int:
    text = adapter.header.metadata.get(field, str(unstated)).strip()
    number = re.fullmatch(r"(\d{1,3})(\.0*)?", text)
    if number is None or int(number[1]) < 1:
        raise CheckpointError(f"{adapter.path} gives {field} as {text[:40]!r}, expected a whole number.")
    return int(number[1])


def adapter_warnings(adapter: Checkpoint, model: Checkpoint, *, has_reference: bool = False) -> list[str]:
    """Sentences about an adapter of another generation, or one without the reference video that it needs."""
    warnings = []
    if reads_reference(adapter) and not has_reference:
        warnings.append(
            "It is an IC-LoRA, made for a reference video in the context; without one it does not do what it was "
            "trained for. Give the video with --control."
        )
    own = generation_of(adapter)
    other = generation_of(model)
    if own is not None and other is not None and own != other:
        warnings.append(f"It was trained for {own}, this checkpoint is {other}: expect poor results.")
    if own is None and other is not None:
        warnings += _warning_of_blocks(adapter, model, other)
    return warnings


def _warning_of_blocks(adapter: Checkpoint, model: Checkpoint, generation: Family) -> list[str]:
    """A sentence on an adapter that fits every generation: of the blocks' layers, only the gates differ."""
    names = [name.replace("_", ".") for name in adapter.header.tensors]
    if not all(_BLOCKS in name for name in names) or any(_GATE in name for name in names):
        return []
    has_gates = any(_GATE in name.replace("_", ".") for name in model.header.tensors)
    if has_gates and any(_FEED_FORWARD in name for name in names):
        return [
            f"It changes attention and feed-forward layers, but none of the gates that {generation} has and LTX-2 has "
            f"not. If it was trained for LTX-2, expect poor results."
        ]
    return [
        f"It does not say for which generation it was trained, and its layers are in all of them. If it is not "
        f"{generation}, expect poor results."
    ]


def generation_of(checkpoint: Checkpoint) -> Family | None:
    """Model generation by a file's metadata, else by its name; None if neither tells."""
    metadata = checkpoint.header.metadata
    version = re.match(r"2\.(\d+)", metadata.get("model_version", ""))
    if version:
        minor = int(version[1])
        return "LTX-2.5" if minor >= 5 else "LTX-2.3" if minor >= 3 else "LTX-2"
    stated = " ".join(metadata[field] for field in _BASE_FIELDS if field in metadata)
    return _named(stated) or _named(Path(checkpoint.path).name)


def _named(text: str) -> Family | None:
    return next((name for name, pattern in _NAMES if pattern.search(text)), None)
