"""Low-rank adapters (LoRA), merged into a network's weights while they load.

Reads the published naming and those of third parties, finds the tensors they mean from the headers alone,
and refuses an adapter that was made for another model.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.interfaces import PublishedNetwork

_CHECKPOINT_PREFIX = "model.diffusion_model."
# Before the module's path; longer ones first. The published files say "diffusion_model.".
_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
_FLAT_PREFIX = "lora_unet_"
_DOWN = r"\.lora_(?:A|down)(?:\.\w+)?\.weight$"
_UP = r"\.lora_(?:B|up)(?:\.\w+)?\.weight$"
# First part of a module's path in files saved by huggingface/diffusers -> the published one
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
# Parts of the text side that adapters may carry; the reference merges into the transformer alone.
_TEXT_SIDE = ("text_embedding_projection", "video_embeddings_connector", "audio_embeddings_connector")
_DTYPES = ("F32", "F16", "BF16")
_SHOWN = 3


@dataclass(frozen=True)
class Lora:
    """An adapter file and how strongly it is merged; strength 1 is what it was trained for."""

    checkpoint: Checkpoint
    strength: float = 1.0

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
    """``PATH[:SCALE]`` to path and strength; 1 where none is given.

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
class _Update:
    """What is added to one weight: ``up @ down * scale``; lazy arrays ``(out, rank)`` and ``(rank, in)``."""

    down: mx.array
    up: mx.array
    scale: mx.array


@dataclass(frozen=True)
class _Pair:
    """The update of one module, by the names its file uses."""

    module: str
    down: str
    up: str
    alpha: str | None

    @property
    def parts(self) -> list[str]:
        return [self.down, self.up, *([self.alpha] if self.alpha else [])]

    def update(self, arrays: dict[str, mx.array], strength: float) -> _Update:
        down, up, scale = arrays[self.down], arrays[self.up], mx.array(strength, mx.float32)
        if self.alpha:
            scale = scale * arrays[self.alpha].astype(mx.float32).reshape(()) / down.shape[0]
        return _Update(down, up, scale)


class LoraMerge:
    """What some adapters do to one network of one checkpoint.

    Attributes:
        notes: One line for each adapter: how many tensors it changes, and what it leaves.
    """

    def __init__(self, network: type[PublishedNetwork[Any]], checkpoint: Checkpoint, loras: Sequence[Lora]):
        """Find what each adapter changes; only headers are read.

        Raises:
            CheckpointError: If an adapter changes nothing, is of another kind, or was made for another model.
        """
        self.notes: list[str] = []
        self._loras = tuple(loras)
        # By the weight's name: which adapter, and its pair.
        self._pairs: dict[str, list[tuple[int, _Pair]]] = {}
        # Each adapter's tensors that are open and not yet used.
        self._open: list[dict[str, mx.array]] = [{} for _ in loras]
        weights = _weight_names(checkpoint) if loras else {}
        for place, lora in enumerate(loras):
            found, aside = {}, []
            for pair in _pairs(lora):
                name = weights.get(_flat(pair.module))
                if name is not None and network.parameter_name(name) is not None:
                    _check(pair, lora, name, checkpoint)
                    if name in found:
                        raise CheckpointError(f"{lora.checkpoint.path} holds two updates of {pair.module}.")
                    found[name] = pair
                else:
                    aside.append((pair.module, name))
            self.notes.append(_account(lora, network, checkpoint, found, aside))
            for name, pair in found.items():
                self._pairs.setdefault(name, []).append((place, pair))

    @property
    def changed(self) -> frozenset[str]:
        """Published names of the weights that change."""
        return frozenset(self._pairs)

    def apply(self, name: str, weight: mx.array) -> mx.array:
        """``weight`` and every update of it, summed in float32; lazy.

        The adapters' tensors are not kept: one that is asked for again is read again.

        Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/loader/fuse_loras.py at 400fd31, which forms the
        product in bfloat16 where this stays exact.
        """
        total = weight.astype(mx.float32)
        for place, pair in self._pairs.get(name, []):
            update = pair.update(self._take(place, pair), self._loras[place].strength)
            total = total + (update.up.astype(mx.float32) * update.scale) @ update.down.astype(mx.float32)
        return total

    def _take(self, place: int, pair: _Pair) -> dict[str, mx.array]:
        """A pair's tensors. Opening a file takes as long for one tensor as for all, so all are opened at once."""
        if any(part not in self._open[place] for part in pair.parts):
            names = [
                part for all_of in self._pairs.values() for own, each in all_of if own == place for part in each.parts
            ]
            self._open[place] = self._loras[place].checkpoint.arrays(names)
        return {part: self._open[place].pop(part) for part in pair.parts}


def is_lora_tensor(name: str) -> bool:
    """Whether a tensor is half of an update."""
    return bool(re.search(_DOWN, name) or re.search(_UP, name))


def _pairs(lora: Lora) -> list[_Pair]:
    """The updates in one file."""
    file, tensors = lora.checkpoint, lora.checkpoint.header.tensors
    downs, ups, alphas, other = {}, {}, {}, []
    for name in tensors:
        for pattern, kind in ((_DOWN, downs), (_UP, ups), (r"\.alpha$", alphas)):
            if match := re.search(pattern, name):
                kind[name[: match.start()]] = name
                break
        else:
            other.append(name)
    if not downs or not ups:
        raise CheckpointError(
            f"{file.path} is not a LoRA: no tensor in it is named lora_A or lora_B (or lora_down, lora_up)."
        )
    if other:
        raise CheckpointError(
            f"{file.path} holds {len(other)} tensors that a plain LoRA has not ({', '.join(other[:_SHOWN])}). "
            f"Other kinds of adapter, such as DoRA or LoKr, are not supported."
        )
    if odd := sorted(downs.keys() ^ ups.keys()):
        raise CheckpointError(
            f"{file.path} is incomplete: it holds only one half of {len(odd)} updates ({odd[0]}, ...)."
        )
    return [_Pair(_published_module(path), downs[path], ups[path], alphas.get(path)) for path in downs]


def _published_module(path: str) -> str:
    """A module's path as the checkpoint has it, without its prefix."""
    for prefix in _PREFIXES:
        path = path.removeprefix(prefix)
    path = path.removeprefix(_FLAT_PREFIX)
    first, dot, rest = path.partition(".")
    return _DIFFUSERS_NAMES.get(first, first) + dot + rest


def _flat(module: str) -> str:
    # Some trainers write every dot of a path as an underscore, so paths are compared in that form.
    return module.replace(".", "_")


def _weight_names(checkpoint: Checkpoint) -> dict[str, str]:
    """Flat module path -> published name of its weight."""
    return {
        _flat(name.removeprefix(_CHECKPOINT_PREFIX).removesuffix(".weight")): name
        for name in checkpoint.header.tensors
        if name.endswith(".weight")
    }


def _check(pair: _Pair, lora: Lora, name: str, checkpoint: Checkpoint) -> None:
    """Raise unless the update has the shape of the weight, and can be read."""
    path, tensors = lora.checkpoint.path, lora.checkpoint.header.tensors
    down, up, weight = tensors[pair.down].shape, tensors[pair.up].shape, checkpoint.header.tensors[name].shape
    if strange := [part for part in pair.parts if tensors[part].dtype not in _DTYPES]:
        raise CheckpointError(f"{path}: {strange[0]} is {tensors[strange[0]].dtype}, expected {', '.join(_DTYPES)}.")
    if len(down) != 2 or len(up) != 2 or down[0] != up[1] or down[0] == 0:
        raise CheckpointError(f"{path} is damaged: {pair.up} {up} and {pair.down} {down} do not belong together.")
    if pair.alpha and math.prod(tensors[pair.alpha].shape) != 1:
        raise CheckpointError(f"{path} is damaged: {pair.alpha} is not one number.")
    if (up[0], down[1]) != weight:
        raise CheckpointError(
            f"{path} was made for another model than {checkpoint.path}: its update of {pair.module} is "
            f"{(up[0], down[1])}, the weight is {weight}."
        )


def _account(lora: Lora, network: type[PublishedNetwork[Any]], checkpoint: Checkpoint, found, aside) -> str:
    """One line on what an adapter does, or the reason why it does not fit."""
    path, total = lora.checkpoint.path, len(found) + len(aside)
    strange = [module for module, name in aside if name is None and not module.startswith(_TEXT_SIDE)]
    if not found:
        raise CheckpointError(
            f"{path} changes nothing in the {network.__name__} of {checkpoint.path}: none of its {total} modules "
            f"({', '.join(module for module, _ in aside[:_SHOWN])}) is there. It was made for another model."
        )
    if strange:
        raise CheckpointError(
            f"{path} was made for another model than {checkpoint.path}, which lacks {len(strange)} of its {total} "
            f"modules ({', '.join(strange[:_SHOWN])})."
        )
    text = f"{path.name} at strength {lora.strength:g} changes {len(found)} tensors of {network.__name__}"
    if aside:
        names = ", ".join(module for module, _ in aside[:_SHOWN]) + (", ..." if len(aside) > _SHOWN else "")
        text += f"; {len(aside)} of other networks stay as they are ({names}), as in the reference"
    return text + "."
