"""Gemma 4's small chat models (E2B, E4B), as their folders are published or quantised by mlx-lm."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.nn as nn

from LTX_2_MLX.checkpoints.gemma3 import mlx_lm_layers, quantized_modules
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header

_KINDS = ("gemma4", "gemma4_text")
_PREFIXES = ("model.language_model.", "language_model.model.", "model.")
_TOWERS = (
    "vision_tower.", "vision_embedder.", "embed_vision.", "multi_modal_projector.", "audio_tower.", "embed_audio.",
)  # fmt: skip
# Fields that the language model is built from, and what a hostile config may ask for at most.
_SIZES = {
    "hidden_size": 1 << 16,
    "num_hidden_layers": 1000,
    "intermediate_size": 1 << 20,
    "num_attention_heads": 1024,
    "head_dim": 4096,
    "global_head_dim": 4096,
    "vocab_size": 1 << 24,
    "num_key_value_heads": 1024,
}


@dataclass(frozen=True)
class ChatGemma4Config:
    """The text part of a Gemma 4 chat model.

    Attributes:
        text: ``text_config`` as published.
        unused: Layers that take their keys and values from an earlier one, and whose file holds projections for them
            nevertheless.
        quantized: Settings of the modules that mlx-lm has quantised, by path.
    """

    text: Mapping[str, Any]
    unused: tuple[int, ...] = ()
    quantized: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_header(cls, header: Header) -> "ChatGemma4Config | None":
        """The config in a folder's ``config.json``; None for anything else.

        Raises:
            CheckpointError: If a size is missing or out of reason.
        """
        config = header.config
        if config.get("model_type") not in _KINDS:
            return None
        text = config.get("text_config", config)
        if not isinstance(text, dict):
            raise CheckpointError("Gemma's text_config is not a JSON object. Use the folder as published.")
        for name, largest in _SIZES.items():
            value = text.get(name)
            if type(value) is not int or not 0 < value <= largest:
                raise CheckpointError(f"Gemma's {name} is {value!r:.40}, expected 1 to {largest}.")
        shared = text.get("num_kv_shared_layers", 0)
        last = text["num_hidden_layers"]
        if type(shared) is not int or not 0 <= shared < last:
            raise CheckpointError(f"Gemma's num_kv_shared_layers is {shared!r:.40}, expected 0 to {last - 1}.")
        names = set(map(ChatGemma4.parameter_name, header.tensors))
        unused = [
            number
            for number in range(last - shared, last)
            if f"language.model.layers.{number}.self_attn.k_proj.weight" in names
        ]
        return cls(text, tuple(unused), quantized_modules(header, ChatGemma4.parameter_name))


class ChatGemma4(nn.Module):
    """Token ids to logits of the next tokens; ``language`` is mlx-lm's model.

    Source: ml-explore/mlx-lm mlx_lm/models/gemma4_text.py.
    """

    Config = ChatGemma4Config

    def __init__(self, config: ChatGemma4Config):
        gemma4_text = mlx_lm_layers("gemma4_text")
        super().__init__()
        self.config = config
        self.language = gemma4_text.Model(gemma4_text.ModelArgs.from_dict(dict(config.text)))
        for number in config.unused:
            _add_projections(self.language.model.layers[number].self_attn)
        if config.quantized:
            settings = {path: dict(own) for path, own in config.quantized.items()}
            nn.quantize(self, class_predicate=lambda path, module: settings.get(path, False))

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Tensors of the language model; the towers for images and sound are not used."""
        for prefix in _PREFIXES:
            if published.startswith(prefix):
                name = published.removeprefix(prefix)
                return None if name.startswith(_TOWERS) else f"language.model.{name}"
        return None


def _add_projections(attention: Any) -> None:
    """Projections as the file holds them, which the layer does not use."""
    width = attention.q_proj.weight.shape[1]
    keys = attention.n_kv_heads * attention.head_dim
    attention.k_proj = nn.Linear(width, keys, bias=False)
    attention.v_proj = nn.Linear(width, keys, bias=False)
    attention.k_norm = nn.RMSNorm(attention.head_dim)
