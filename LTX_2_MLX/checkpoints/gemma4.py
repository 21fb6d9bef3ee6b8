"""Prompts to the hidden states of every layer of Gemma 4, the text encoder of LTX-2.5.

The layers are mlx-lm's. The published file holds the language model, its config and its tokenizer together; what is
made of the states is left to ``models.ltx.text_features``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.checkpoints.gemma3 import TextEncoder, gemma_config, mlx_lm_layers
from LTX_2_MLX.checkpoints.gemma_tokenizer import tokenizer_of
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.quantization import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header

if TYPE_CHECKING:
    from LTX_2_MLX.checkpoints.block_run import BlockRun

_KINDS = ("gemma4_unified", "gemma4_unified_text", "gemma4_text", "gemma4")
_PREFIXES = ("model.language_model.", "language_model.model.")
# A tensor that no other published network has under this name.
_PROBE = "layers.0.post_feedforward_layernorm.weight"
_SLIDING, _FULL = "sliding_attention", "full_attention"
_FIXED = {
    "attention_bias": (False,),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "hidden_size_per_layer_input": (0, None),
    "num_kv_shared_layers": (0,),
    "use_double_wide_mlp": (False,),
    "enable_moe_block": (False,),
    # Only tokens of images would see each other both ways.
    "use_bidirectional_attention": ("vision", None, False),
}
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "global_head_dim", "vocab_size", "sliding_window",
)  # fmt: skip
# What a hostile config may ask for at most.
_LARGEST = 1 << 24
_MOST_LAYERS = 1000


@dataclass(frozen=True)
class Gemma4Config:
    """Gemma 4's text part; no field has a default, since the published class describes the small models by its own.

    Attributes:
        num_global_key_value_heads: Key and value heads of the layers that see everything.
        attention_k_eq_v: Whether these layers take their values from the projection of the keys.
        layer_types: ``sliding_attention`` or ``full_attention`` of each layer.
        rope_parameters: Frequency base and kind of the rotary embedding by layer type.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    num_global_key_value_heads: int
    head_dim: int
    global_head_dim: int
    vocab_size: int
    sliding_window: int
    rms_norm_eps: float
    attention_k_eq_v: bool
    layer_types: tuple[str, ...]
    rope_parameters: Mapping[str, Mapping[str, Any]]
    gemma_version: str | None = None

    @classmethod
    def from_header(cls, header: Header) -> "Gemma4Config | None":
        """The config in the metadata of the published file, or in a folder's ``config.json``; None for anything else.

        Raises:
            CheckpointError: If a field is missing, or has a value that is not supported.
        """
        whole = _whole_config(header)
        if whole is None or not any(Gemma4.parameter_name(name) == f"model.{_PROBE}" for name in header.tensors):
            return None
        text = whole.get("text_config", whole)
        if not isinstance(text, dict):
            raise CheckpointError("Gemma's text_config is not a JSON object. Use the file as published.")
        for field, allowed in _FIXED.items():
            if field in text and text[field] not in allowed:
                raise CheckpointError(f"Gemma's {field} is {text[field]!r:.40}, supported is {allowed[0]!r}.")
        sizes = {field: _size(text, field) for field in _SIZES}
        layer_types = _layer_types(text, sizes["num_hidden_layers"])
        heads = "num_global_key_value_heads"
        # Absent or null: as many as in the sliding layers.
        global_heads = _size(text, heads) if text.get(heads) is not None else sizes["num_key_value_heads"]
        version = whole.get("gemma_version")
        return cls(
            **sizes,
            num_global_key_value_heads=global_heads,
            rms_norm_eps=_number({"rms_norm_eps": 1e-6} | text, "rms_norm_eps", 1.0),
            attention_k_eq_v=text.get("attention_k_eq_v", False) is True,
            layer_types=layer_types,
            rope_parameters=_rope_parameters(text),
            gemma_version=version if isinstance(version, str) else None,
        )


def _whole_config(header: Header) -> Mapping[str, Any] | None:
    """Config of the whole model where it is a Gemma 4."""
    config = gemma_config(header)
    return config if config.get("model_type") in _KINDS else None


def _size(text: Mapping[str, Any], field: str) -> int:
    value = text.get(field)
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise CheckpointError(f"Gemma's {field} is {value!r:.40}, expected a whole number above 0 within reason.")
    return value


def _number(values: Mapping[str, Any], field: str, largest: float) -> float:
    value = values.get(field)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= largest:
        raise CheckpointError(f"Gemma's {field} is {value!r:.40}, expected a number above 0 up to {largest:g}.")
    return float(value)


def _layer_types(text: Mapping[str, Any], num_layers: int) -> tuple[str, ...]:
    kinds = text.get("layer_types")
    if (
        not isinstance(kinds, list)
        or not num_layers == len(kinds) <= _MOST_LAYERS
        or any(kind not in (_SLIDING, _FULL) for kind in kinds)
    ):
        raise CheckpointError(
            f"Gemma's layer_types has to name {_SLIDING} or {_FULL} for each of its {num_layers} layers."
        )
    return tuple(kinds)


def _rope_parameters(text: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    given = text.get("rope_parameters")
    supported = {_SLIDING: "default", _FULL: "proportional"}
    if not isinstance(given, dict) or given.keys() < supported.keys():
        raise CheckpointError(f"Gemma's rope_parameters has to describe {_SLIDING} and {_FULL}.")
    parameters = {}
    for kind, rope_type in supported.items():
        values = given[kind]
        if not isinstance(values, dict) or values.get("rope_type") != rope_type:
            raise CheckpointError(f"Gemma's {kind} has rope_parameters {values!r:.80}; supported is {rope_type!r}.")
        theta = _number(values, "rope_theta", 1e12)
        factor = _number({"partial_rotary_factor": 1.0} | values, "partial_rotary_factor", 1.0)
        parameters[kind] = {"rope_theta": theta, "rope_type": rope_type, "partial_rotary_factor": factor}
    return parameters


class Gemma4(nn.Module):
    """Token ids to the states of every layer.

    Shape:
        ids and mask ``(B, N)`` -> ``layers + 1`` states ``(B, N, D)``, in the weights' dtype.

    Source: huggingface/transformers 5.14, models/gemma4_unified; layers of ml-explore/mlx-lm
    mlx_lm/models/gemma4_text.py (golden case ``ltx25/gemma4_tiny``).
    """

    Config = Gemma4Config
    BLOCKS = "model.layers"
    BLOCKS_RETURN_TUPLES = True

    def __init__(self, config: Gemma4Config):
        gemma4_text = mlx_lm_layers("gemma4_text")
        super().__init__()
        self.config = config
        arguments = {name: getattr(config, name) for name in Gemma4Config.__dataclass_fields__}
        del arguments["gemma_version"]
        arguments["layer_types"] = list(config.layer_types)
        arguments |= {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0, "use_double_wide_mlp": False}
        self.model = gemma4_text.Gemma4TextModel(gemma4_text.ModelArgs(**arguments))

    def __call__(self, ids: mx.array, mask: mx.array, offset: int = 0) -> Iterator[mx.array]:
        """The states one after another, each evaluated: the scaled embedding, every layer's output, the last normed.

        Each prompt runs without its padding: the layers are causal and know relative positions alone, so the values
        are the same, and short prompts cost little. States of padding are zero.

        Args:
            ids: ``(B, N)``, padding on the left.
            mask: ``(B, N)`` boolean, True for tokens.
            offset: Position of the first token; without effect here.
        """
        lengths = np.array(mask).sum(axis=1).tolist()
        rows = [self.model.embed_tokens(ids[i : i + 1, ids.shape[1] - n :]) for i, n in enumerate(lengths)]
        rows = [row * self.model.embed_scale for row in rows]
        yield _padded(rows, ids.shape[1])
        masks = [self._masks(row) for row in rows]
        for number, layer in enumerate(self.model.layers, 1):
            kind = self.config.layer_types[number - 1]
            rows = [layer(row, mask[kind])[0] for row, mask in zip(rows, masks, strict=True)]
            last = number == self.config.num_hidden_layers
            yield _padded([self.model.norm(row) for row in rows] if last else rows, ids.shape[1])

    def _masks(self, row: mx.array) -> dict[str, Any]:
        """The mask of each layer type for one prompt, as mlx-lm makes them."""
        from mlx_lm.models.base import create_attention_mask

        return {
            _FULL: create_attention_mask(row, None),
            _SLIDING: create_attention_mask(row, None, window_size=self.config.sliding_window),
        }

    @staticmethod
    def quantizes(path: str, config: Gemma4Config) -> bool:
        """Whether a layer may hold few bits: all but the embedding, of which only a few rows are read."""
        return path.startswith("model.layers.")

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Tensors of the language model; towers for images and sound and the tokenizer's bytes are not."""
        for prefix in _PREFIXES:
            if published.startswith(prefix):
                return f"model.{published.removeprefix(prefix)}"
        return published if published.startswith(("model.embed_tokens.", "model.layers.", "model.norm.")) else None


def _padded(rows: list[mx.array], length: int) -> mx.array:
    """Prompts' states ``(1, n, D)`` with zeros in front, ``(B, length, D)``, evaluated."""
    state = mx.concatenate([mx.pad(row, [(0, 0), (length - row.shape[1], 0), (0, 0)]) for row in rows])
    mx.eval(state, *rows)
    return state


def load_gemma4(
    path: str | Path,
    *,
    dtype: mx.Dtype | None = None,
    quantize: Quantization | None = None,
    stream_blocks: bool = False,
    run: "BlockRun | None" = None,
) -> TextEncoder:
    """Gemma 4 and its tokenizer from the published file.

    Args:
        path: The text encoder's .safetensors file.
        dtype: Floating-point weights are cast to this; None keeps the file's.
        quantize: Quantise the layers while they load.
        stream_blocks: Leave the layers on disk and read each ahead of its use.
        run: Read this process's layers alone; other processes have the rest.

    Raises:
        CheckpointError: If something is missing or damaged, or the model is another one.
    """
    checkpoint = Checkpoint(path)
    tokenizer = tokenizer_of(checkpoint)
    network = load(Gemma4, checkpoint, dtype=dtype, quantize=quantize, stream_blocks=stream_blocks, run=run)
    return TextEncoder(network, tokenizer)
