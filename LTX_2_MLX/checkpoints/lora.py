"""Low-rank adapters (LoRA), merged into a network's weights while they load.

Accepts the published naming and those of common trainers, matches them to the checkpoint's tensors by the headers
alone, and refuses an adapter that was made for another model.

A module's update is ``scale * up @ down`` with scale = alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA.
Tensors named ``.alpha`` come first, then the file's metadata, then the ``adapter_config.json`` of a PEFT folder.

Source: huggingface/peft, src/peft/tuners/lora/layer.py (update_layer) and src/peft/utils/other.py (get_pattern_key).
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.catalog import Family
from LTX_2_MLX.checkpoints.reader import Checkpoint, data_starts
from LTX_2_MLX.checkpoints.resolve import generation_of
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.files import parse_json, parse_object
from LTX_2_MLX.models.interfaces import PublishedNetwork

_CHECKPOINT_PREFIX = "model.diffusion_model."
# Those of trainers before a module's path, longer ones first. The published files have "diffusion_model.".
_PREFIXES = (
    "base_model.model.", _CHECKPOINT_PREFIX, "diffusion_model.", "transformer.",
    "lora_unet_", "lora_transformer_", "lycoris_",
)  # fmt: skip
# Text networks that adapters may change; the reference merges into the transformer alone.
_TEXT_SIDE = ("text_embedding_projection", "video_embeddings_connector", "audio_embeddings_connector")
_DTYPES = ("F32", "F16", "BF16")
_SHOWN = 3
# Lightricks/LTX-2, packages/ltx-trainer, training_strategies/ at 400fd31: written into adapters that read a reference
# video through the context. An adapter whose reference is as large and as fast as the video may have none of them.
_REFERENCE_FIELD = "reference_downscale_factor"
_SLOWER_FIELD = "reference_temporal_scale_factor"
_REFERENCE_FIELDS = {_REFERENCE_FIELD, "reference_spatial_scale_factor", _SLOWER_FIELD}
_IC_NAME = re.compile(r"(?<![a-z])ic[-_ ]?lora", re.IGNORECASE)
# Parts of the names of layers, with dots for the underscores that some trainers write.
_BLOCKS, _GATE, _FEED_FORWARD = "transformer.blocks.", ".to.gate.logits", ".ff.net."
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
_SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
# PEFT compiles patterns as regular expressions; trainers write plain module paths, some with ^ or $.
_MODULE_PATH = re.compile(r"\^?[\w.\\]+\$?")
# NumPy has no bfloat16: its values are the upper halves of float32.
_NUMPY = {
    "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


@dataclass(frozen=True)
class Lora:
    """An adapter file and its strength.

    Attributes:
        checkpoint: The file.
        strength: 1 is the strength of its training.
        has_reference: Whether the run gives it the reference video that some adapters read.
    """

    checkpoint: Checkpoint
    strength: float = 1.0
    has_reference: bool = False

    @classmethod
    def open(cls, path: str | Path, strength: float = 1.0) -> "Lora":
        """Read the header of an adapter.

        Raises:
            CheckpointError: If the file cannot be read.
            RequestError: If the strength is not a finite number.
        """
        if not math.isfinite(strength):
            raise RequestError(f"The strength of {path} is {strength}, but it must be a finite number, such as 0.8.")
        return cls(Checkpoint(path), float(strength))


def split_strength(text: str) -> tuple[str, float]:
    """Split ``PATH[:STRENGTH]``; the strength is 1 by default.

    Raises:
        RequestError: If the strength is not a finite number.
    """
    path, colon, last = text.rpartition(":")
    try:
        strength = float(last)
    except ValueError:
        return text, 1.0
    if not colon or not path:
        return text, 1.0
    if not math.isfinite(strength):
        raise RequestError(f"{text!r} has the strength {last}, but it must be a finite number, such as 0.8.")
    return path, strength


@dataclass(frozen=True)
class _Pair:
    """The update of one module, ``scale * up @ down``: its path, and the names of its tensors in the file."""

    module: str
    down: str
    up: str
    scale: float
    scale_origin: str


class LoraMerge:
    """The changes of several adapters to one network of a checkpoint.

    Attributes:
        notes: One line for each adapter: how many tensors it changes, at which scale, and what it was not made for.
        changed: Published names of the weights that change.
    """

    def __init__(self, network: type[PublishedNetwork[Any]], checkpoint: Checkpoint, loras: Sequence[Lora]):
        """Match each adapter's updates to the checkpoint's weights; only headers are read.

        Raises:
            CheckpointError: If an adapter changes nothing, is of another kind, or was made for another model.
        """
        self.notes: list[str] = []
        self._loras = tuple(loras)
        # By the published name of the weight: index of the adapter, and its pair.
        self._pairs: dict[str, list[tuple[int, _Pair]]] = {}
        # Names of the tensors that each adapter's pairs are made of, and those that are open and not yet used.
        self._names: list[list[str]] = []
        self._open: list[dict[str, mx.array]] = []
        weight_names = {}
        for name in checkpoint.header.tensors:
            if name.endswith(".weight"):
                module = name.removeprefix(_CHECKPOINT_PREFIX).removesuffix(".weight")
                weight_names[module.replace(".", "_")] = name
        for index, lora in enumerate(loras):
            matched, unmatched = _match(lora, network, checkpoint, weight_names)
            names = []
            for name, pair in matched.items():
                self._pairs.setdefault(name, []).append((index, pair))
                names += [pair.down, pair.up]
            self._names.append(names)
            self._open.append({})
            self.notes.append(_note(lora, network, checkpoint, list(matched.values()), unmatched))
        self.changed = frozenset(self._pairs)

    def apply(self, name: str, weight: mx.array, on_disk: list[mx.array] | None = None) -> mx.array:
        """``weight`` plus all its updates, summed in float32; lazy.

        The adapters' tensors are dropped after use: if a weight is asked for again, they are read again. They are
        appended to ``on_disk``.

        Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/loader/fuse_loras.py at 400fd31, which forms the
        product in bfloat16 where this stays exact.
        """
        total = weight.astype(mx.float32)
        for index, pair in self._pairs.get(name, []):
            lora, opened = self._loras[index], self._open[index]
            if not opened.keys() >= {pair.down, pair.up}:
                # All of an adapter's tensors together: that takes as long as opening one.
                opened = self._open[index] = read_arrays(lora.checkpoint, self._names[index])
            down, up = opened.pop(pair.down), opened.pop(pair.up)
            if on_disk is not None:
                on_disk += [down, up]
            scale = mx.array(lora.strength * pair.scale, mx.float32)
            total = total + (up.astype(mx.float32) * scale) @ down.astype(mx.float32)
        return total


def _match(
    lora: Lora, network: type[PublishedNetwork[Any]], checkpoint: Checkpoint, weight_names: dict[str, str]
) -> tuple[dict[str, _Pair], list[str]]:
    """Pairs by the published name of the weight that they change, and the modules of other networks.

    Raises:
        CheckpointError: If nothing matches, or the checkpoint lacks modules.
    """
    matched: dict[str, _Pair] = {}
    path = lora.checkpoint.path
    unmatched = []
    unknown = []
    for pair in _pairs(lora):
        # Some trainers write the dots of a path as underscores, so paths are compared in that form.
        name = weight_names.get(pair.module.replace(".", "_"))
        if name is None:
            name = _renamed_weight(pair.module, weight_names)
        if name is None or network.parameter_name(name) is None:
            unmatched.append(pair.module)
            if name is None and not pair.module.startswith(_TEXT_SIDE):
                unknown.append(pair.module)
            continue
        _check(pair, lora, name, checkpoint)
        if name in matched:
            raise CheckpointError(f"{path} holds two updates of {pair.module}.")
        matched[name] = pair
    num_modules = len(matched) + len(unmatched)
    if not matched:
        raise CheckpointError(
            f"{path} changes nothing in the {network.__name__} of {checkpoint.path}, which has none of its "
            f"{num_modules} modules ({', '.join(unmatched[:_SHOWN])}). It was made for another model."
        )
    if unknown:
        raise CheckpointError(
            f"{path} was made for another model than {checkpoint.path}, which lacks {len(unknown)} of its "
            f"{num_modules} modules ({', '.join(unknown[:_SHOWN])})."
        )
    return matched, unmatched


def _pairs(lora: Lora) -> list[_Pair]:
    """The updates in one file."""
    path = lora.checkpoint.path
    downs, ups, alphas, others = sort_tensors(lora.checkpoint.header.tensors)
    if not downs or not ups:
        raise CheckpointError(
            f"{path} is not a LoRA: no tensor in it is named lora_A or lora_B (or lora_down, lora_up)."
        )
    if others:
        raise CheckpointError(
            f"{path} holds {len(others)} tensors that do not belong to a plain LoRA ({', '.join(others[:_SHOWN])}). "
            f"Other kinds of adapter, such as DoRA or LoKr, are not supported."
        )
    if incomplete := sorted(downs.keys() ^ ups.keys()):
        raise CheckpointError(
            f"{path} is incomplete: it holds only one half of {len(incomplete)} updates ({incomplete[0]}, ...)."
        )
    settings = scale_settings(lora.checkpoint)
    numbers = read_scalars(lora.checkpoint, alphas.values()) if alphas else {}
    pairs = []
    for module, down in downs.items():
        shape = lora.checkpoint.header.tensors[down].shape
        # A down matrix without rows is refused later, by its shape.
        rank = shape[0] if shape and shape[0] else 1
        name = module
        for prefix in _PREFIXES:
            # A block's own name begins with "transformer_", not "transformer.".
            name = name.removeprefix(prefix)
        scale, origin = 1.0, ""
        if module in alphas:
            # LyCORIS scales the alpha that it writes for rank-stabilised LoRA, so that this division holds.
            scale, origin = numbers[alphas[module]] / rank, "its alpha tensors"
        elif settings is not None:
            scale, origin = settings.scale(name, rank), settings.origin
        pairs.append(_Pair(name, down, ups[module], scale, origin))
    return pairs


def _check(pair: _Pair, lora: Lora, name: str, checkpoint: Checkpoint) -> None:
    """Raise unless the update has the shape of the weight and a dtype that can be read."""
    path = lora.checkpoint.path
    tensors = lora.checkpoint.header.tensors
    down = tensors[pair.down].shape
    up = tensors[pair.up].shape
    weight = checkpoint.header.tensors[name].shape
    for tensor_name in (pair.down, pair.up):
        dtype = tensors[tensor_name].dtype
        if dtype not in _DTYPES:
            raise CheckpointError(f"{path}: {tensor_name} is {dtype}, expected {', '.join(_DTYPES)}.")
    if len(down) != 2 or len(up) != 2 or down[0] != up[1] or down[0] == 0:
        raise CheckpointError(f"{path} is damaged: {pair.up} {up} and {pair.down} {down} do not belong together.")
    if (up[0], down[1]) != weight:
        raise CheckpointError(
            f"{path} was made for another model than {checkpoint.path}: its update of {pair.module} is "
            f"{(up[0], down[1])}, the weight is {weight}."
        )


def _note(
    lora: Lora,
    network: type[PublishedNetwork[Any]],
    checkpoint: Checkpoint,
    pairs: Sequence[_Pair],
    unmatched: Sequence[str],
) -> str:
    """One line on what an adapter changes, and at which scale."""
    name = lora.checkpoint.path.name
    text = f"{name} at strength {lora.strength:g} changes {len(pairs)} tensors of {network.__name__}"
    if unmatched:
        names = ", ".join(unmatched[:_SHOWN])
        ellipsis = ", ..." if len(unmatched) > _SHOWN else ""
        text += f"; {len(unmatched)} of other networks are not changed ({names}{ellipsis}), as in the reference"
    scales = set()
    origins: dict[str, None] = {}
    for pair in pairs:
        scales.add(pair.scale)
        if pair.scale_origin:
            origins[pair.scale_origin] = None
    scale = "The file states no alpha: scale 1."
    if origins:
        shown = f"{min(scales):g}" if len(scales) == 1 else f"{min(scales):g} to {max(scales):g}"
        scale = f"Scale {shown}, from {' and '.join(origins)}."
    return " ".join([f"{text}.", scale, *_warnings(lora, checkpoint)])


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


def _warnings(lora: Lora, model: Checkpoint) -> list[str]:
    """Sentences about an adapter of another generation, or one without the reference video that it needs."""
    adapter = lora.checkpoint
    warnings = []
    if not lora.has_reference and reads_reference(adapter):
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


def _renamed_weight(module: str, weight_names: Mapping[str, str]) -> str | None:
    """Published name of the weight of a module in the naming of diffusers, by paths with underscores for dots."""
    path = module.replace(".", "_")
    for names in (_DIFFUSERS_NAMES, _CONNECTORS):
        for theirs, published in names.items():
            start = theirs.replace(".", "_")
            if path == start or path.startswith(f"{start}_"):
                name = weight_names.get(published.replace(".", "_") + path[len(start) :])
                if name is not None:
                    return name
    return None


@dataclass(frozen=True)
class ScaleSettings:
    """Settings of an adapter's scale.

    Attributes:
        alpha: Of all modules without one of their own; None if the file states none.
        alpha_pattern: Alpha of the modules whose path ends in a name.
        rank_stabilised: Divide by the square root of the rank.
        origin: Where they were found, for messages.
    """

    alpha: float | None
    alpha_pattern: Mapping[str, float]
    rank_stabilised: bool
    origin: str

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


def scale_settings(checkpoint: Checkpoint) -> ScaleSettings | None:
    """Settings in an adapter's metadata or beside it; None if there are none.

    Raises:
        CheckpointError: If they cannot be read, or are no numbers.
    """
    metadata = checkpoint.header.metadata
    if _DIFFUSERS_KEY in metadata:
        fields = _json(checkpoint, metadata[_DIFFUSERS_KEY])
        return _settings(checkpoint, fields, "the file's metadata")
    fields = {}
    for name, value in metadata.items():
        if name.removeprefix(_NETWORK) in _SETTINGS:
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
    return None


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


def _settings(checkpoint: Checkpoint, fields: Mapping[str, Any], origin: str) -> ScaleSettings | None:
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
        return None
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
