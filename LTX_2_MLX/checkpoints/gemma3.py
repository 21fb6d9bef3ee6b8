"""Prompts to the hidden states of every layer of Gemma 3.

The layers are mlx-lm's; tokens, padding, masks and the collection of states are done here, since the encoder
pads on the left and wants all layers. What is made of the states is left to ``models.ltx.text_features``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.quantize import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint, parse_json
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header

# The length the networks behind were trained on (Lightricks/LTX-2, text_encoders/gemma/gemma_assets.py at 400fd31).
MAX_LENGTH = 1024

# Prefixes of the language model in the published files and in those of newer library versions.
_PREFIXES = ("language_model.model.", "model.language_model.")
# Fields of ``text_config`` that change the mathematics and for which there is one known value.
_FIXED = {
    "attention_bias": (False,),
    "attn_logit_softcapping": (None,),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "use_bidirectional_attention": (False, None),
}
# What a hostile config may ask for at most; 48 layers are published.
_LARGEST = {"num_hidden_layers": 1000, "rope_theta": 1e12}


@dataclass(frozen=True)
class GemmaConfig:
    """Gemma 3's text part; defaults are those of the published class (huggingface/transformers 5.14, models/gemma3)."""

    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    vocab_size: int = 262_208
    rms_norm_eps: float = 1e-6
    query_pre_attn_scalar: float = 256
    sliding_window: int = 4096
    # Every so many layers, one attends to everything; ``layer_types`` in newer files.
    sliding_window_pattern: int = 6
    # Frequency base of the global layers, and by how much their positions are divided.
    rope_theta: float = 1_000_000.0
    rope_factor: float = 1.0
    # Frequency base of the sliding layers.
    rope_local_base_freq: float = 10_000.0
    # Module path -> bits, group size and mode, in files that mlx-lm has quantised.
    quantized: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_header(cls, header: Header) -> "GemmaConfig | None":
        """The config in a Gemma folder's ``config.json``; None for anything else.

        Raises:
            CheckpointError: If a field has a value that is not supported.
        """
        kind = header.config.get("model_type")
        if kind not in ("gemma3", "gemma3_text"):
            return None
        text = header.config.get("text_config", {}) if kind == "gemma3" else header.config
        try:
            for name, allowed in _FIXED.items():
                if name in text and text[name] not in allowed:
                    raise CheckpointError(f"Gemma's {name} is {text[name]!r}, supported is {allowed[0]!r}.")
            fields = {name: text[name] for name in cls.__dataclass_fields__ if name in text and name != "quantized"}
            fields |= _rope(text) | _pattern(text)
            quantized = _quantized(header)
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"Gemma's config.json is not in the published form ({error}).") from error
        for name, value in fields.items():
            whole = cls.__dataclass_fields__[name].type is int
            if type(value) not in ((int,) if whole else (int, float)) or not 0 < value <= _LARGEST.get(name, 1 << 24):
                kind = "a whole number" if whole else "a number"
                raise CheckpointError(f"Gemma's {name} is {value!r:.40}, expected {kind} above 0 within reason.")
        return cls(**fields, quantized=quantized)


def _rope(text: dict[str, Any]) -> dict[str, float]:
    """Frequency bases and the scaling of global layers, from either way of writing them."""
    fields, scaling = {}, text.get("rope_scaling")
    if isinstance(newer := text.get("rope_parameters"), dict):
        scaling, local = newer.get("full_attention", {}), newer.get("sliding_attention", {})
        if local.get("rope_type", "default") != "default":
            raise CheckpointError(
                f"Gemma's sliding layers have rope_type {local['rope_type']!r}, supported is 'default'."
            )
        fields = {"rope_theta": scaling.get("rope_theta", 1e6), "rope_local_base_freq": local.get("rope_theta", 1e4)}
    if not scaling:
        return fields
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("linear", "default"):
        raise CheckpointError(f"Gemma's rope_type is {kind!r}, supported are 'linear' and 'default'.")
    return fields | {"rope_factor": scaling.get("factor", 1.0) if kind == "linear" else 1.0}


def _pattern(text: dict[str, Any]) -> dict[str, int]:
    """How often a global layer comes; ``layer_types`` names each layer's kind."""
    pattern = text.get("sliding_window_pattern", text.get("_sliding_window_pattern", 6))
    kinds = text.get("layer_types")
    if kinds is None:
        return {"sliding_window_pattern": pattern}
    if not isinstance(kinds, list) or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise ValueError("layer_types holds other kinds than full_attention and sliding_attention")
    is_global = [kind == "full_attention" for kind in kinds]
    pattern = is_global.index(True) + 1 if any(is_global) else len(kinds) + 1
    if is_global != [(i + 1) % pattern == 0 for i in range(len(kinds))]:
        raise CheckpointError("Gemma's layer_types do not repeat with one period, which is not supported.")
    return {"sliding_window_pattern": pattern}


def _quantized(header: Header) -> dict[str, dict[str, Any]]:
    """Modules with scales beside their weight, and how each was quantised (mlx-lm writes it into config.json)."""
    settings = header.config.get("quantization") or {}
    found = {}
    for name in header.tensors:
        path = Gemma.parameter_name(name)
        if path is None or not path.endswith(".scales"):
            continue
        own = settings.get(name.removesuffix(".scales"))
        own = own if isinstance(own, dict) else settings
        if "bits" not in own or "group_size" not in own:
            raise CheckpointError(
                f"{name} is quantised, but config.json does not say how (quantization: bits, group_size)."
            )
        found[path.removesuffix(".scales")] = {key: own[key] for key in ("bits", "group_size", "mode") if key in own}
    return found


class GemmaNorm(nn.Module):
    """RMS norm times ``1 + weight``, in float32 throughout; the result has the input's dtype."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = mx.zeros((width,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        # In bfloat16, 1 + weight would keep only two or three digits of the weight.
        scale = 1.0 + self.weight.astype(mx.float32)
        return mx.fast.rms_norm(x.astype(mx.float32), scale, self.eps).astype(x.dtype)


class Gemma(nn.Module):
    """Token ids to the states of every layer.

    Shape:
        ids and mask ``(B, N)`` -> ``layers + 1`` states ``(B, N, D)``, in the weights' dtype.

    Source: huggingface/transformers 5.14, models/gemma3/modeling_gemma3.py; layers of ml-explore/mlx-lm
    mlx_lm/models/gemma3_text.py (golden case ``ltx2/gemma_tiny``).
    """

    Config = GemmaConfig
    BLOCKS = "model.layers"

    def __init__(self, config: GemmaConfig):
        # mlx-lm takes seconds to import.
        from mlx_lm.models import gemma3_text

        super().__init__()
        self.config = config
        arguments = {name: getattr(config, name) for name in GemmaConfig.__dataclass_fields__}
        del arguments["quantized"], arguments["rope_factor"]
        scaling = {"rope_type": "linear", "factor": config.rope_factor} if config.rope_factor != 1 else None
        self.model = gemma3_text.Gemma3Model(
            gemma3_text.ModelArgs(model_type="gemma3_text", rope_scaling=scaling, **arguments)
        )
        norms = {
            path: GemmaNorm(module.weight.size, module.eps)
            for path, module in self.model.named_modules()
            if isinstance(module, gemma3_text.RMSNorm)
        }
        self.model.update_modules(tree_unflatten(list(norms.items())))
        if config.quantized:
            nn.quantize(self.model, class_predicate=lambda path, module: config.quantized.get(f"model.{path}", False))

    def __call__(self, ids: mx.array, mask: mx.array, offset: int = 0) -> Iterator[mx.array]:
        """The states one after another, each evaluated: the scaled embedding, every layer's output, the last normed.

        Args:
            ids: ``(B, N)``.
            mask: ``(B, N)`` boolean, True for tokens that are seen.
            offset: Position of the first one.
        """
        causal, near = attention_masks(mask, self.config.sliding_window)
        hidden = self.model.embed_tokens(ids)
        # The factor is rounded as the weights are: 62.0 in bfloat16, not 61.97.
        hidden = hidden * mx.array(math.sqrt(self.config.hidden_size), hidden.dtype)
        yield _evaluated(hidden)
        place = _Place(offset)
        for number, layer in enumerate(self.model.layers, 1):
            hidden = layer(hidden, near if layer.self_attn.is_sliding else causal, place)
            last = number == self.config.num_hidden_layers
            yield _evaluated(self.model.norm(hidden) if last else hidden)

    @staticmethod
    def quantizes(path: str, config: GemmaConfig) -> bool:
        """Whether a layer may hold few bits: all but the embedding, of which only a few rows are read."""
        return path.startswith("model.layers.")

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Tensors of the language model; vision tower, projector and head are left alone."""
        for prefix in _PREFIXES:
            if published.startswith(prefix):
                return f"model.{published.removeprefix(prefix)}"
        # Text-only files; other networks' names begin with "model." too.
        return published if published.startswith(("model.embed_tokens.", "model.layers.", "model.norm.")) else None


def _evaluated(state: mx.array) -> mx.array:
    mx.eval(state)
    return state


class _Place:
    """Tells mlx-lm's attention, which asks a cache, at which position the first token stands. Holds no keys."""

    def __init__(self, offset: int):
        self.offset = offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return keys, values


def attention_masks(mask: mx.array, window: int) -> tuple[mx.array, mx.array]:
    """What each token sees in global and in sliding layers: two boolean arrays ``(B, 1, N, N)``.

    A token sees the valid ones up to itself; in sliding layers, the last ``window`` positions. Padding sees
    itself, since a row without any key has no softmax.
    """
    places = mx.arange(mask.shape[1])
    distance = places[:, None] - places[None]
    causal = (distance >= 0) & mask[:, None, None, :] | (distance == 0)
    return causal, causal & (distance < window)


class GemmaTokenizer:
    """Prompts to token ids.

    Attributes:
        max_length: Tokens of a padded prompt: 1024, or fewer where the model's own limit is lower.
    """

    def __init__(self, tokenizer: bytes, settings: bytes, source: Path):
        """Take the contents of ``tokenizer.json`` and of ``tokenizer_config.json``.

        Args:
            tokenizer: Contents of the one.
            settings: Contents of the other; an empty object where there is none.
            source: The file that they are from, for messages.

        Raises:
            CheckpointError: If the tokenizer is damaged, or has no token to pad with.
        """
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(tokenizer.decode("utf-8"))
        # The package raises bare Exception for anything it cannot parse.
        except Exception as error:
            detail = " ".join(str(error).split())
            raise CheckpointError(f"{source} is damaged ({detail}). Download it again.") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._bos = self._tokenizer.token_to_id("<bos>")
        self._pad = next((i for i in map(self._tokenizer.token_to_id, ("<pad>", "<eos>")) if i is not None), None)
        if self._bos is None or self._pad is None:
            raise CheckpointError(f"{source} is of another model: it has no <bos>, or neither <pad> nor <eos>.")
        limit = _settings(settings, source).get("model_max_length")
        self.max_length = min(MAX_LENGTH, limit) if isinstance(limit, int) and limit > 0 else MAX_LENGTH

    @classmethod
    def from_folder(cls, folder: Path) -> "GemmaTokenizer":
        """Read ``tokenizer.json`` and, where there is one, ``tokenizer_config.json``.

        Raises:
            CheckpointError: If the tokenizer is missing or damaged, or has no token to pad with.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json. Give the whole folder of the Gemma repository.")
        beside = folder / "tokenizer_config.json"
        return cls(path.read_bytes(), beside.read_bytes() if beside.is_file() else b"{}", path)

    def __call__(self, prompts: Sequence[str], max_length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, ``(B, max_length)`` int32 each; padding stands on the left and is 0 in the mask.

        A prompt that is too long loses its end.
        """
        length = max_length or self.max_length
        ids = np.full((len(prompts), length), self._pad, np.int32)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            found = self._tokenizer.encode(prompt.strip()).ids
            found = (found if found[:1] == [self._bos] else [self._bos, *found])[:length]
            ids[row, -len(found) :] = found
            mask[row, -len(found) :] = 1
        return ids, mask


def _settings(text: bytes, source: Path) -> dict[str, Any]:
    try:
        settings = parse_json(text)
    except ValueError as error:
        raise CheckpointError(
            f"{source}: its tokenizer_config.json is not JSON ({error}). Download it again."
        ) from error
    return settings if isinstance(settings, dict) else {}


@dataclass(frozen=True)
class TextEncoder:
    """A language model with its tokenizer; ``network`` is a ``Gemma`` or a ``Gemma4``."""

    network: Any
    tokenizer: GemmaTokenizer


def load_gemma(
    folder: str | Path,
    *,
    dtype: mx.Dtype | None = None,
    quantize: Quantization | None = None,
    stream_blocks: bool = False,
) -> TextEncoder:
    """Gemma 3 and its tokenizer from a folder in the published form, or quantised by mlx-lm.

    Args:
        folder: Holds ``config.json``, ``tokenizer.json`` and the .safetensors files.
        dtype: Floating-point weights are cast to this; None keeps the file's.
        quantize: Quantise the layers while they load.
        stream_blocks: Leave the layers on disk and read each ahead of its use.

    Raises:
        CheckpointError: If something is missing or damaged, or the model is another one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder. Give the folder of the Gemma repository, tokenizer included.")
    tokenizer = GemmaTokenizer.from_folder(folder)
    checkpoint = Checkpoint(folder)
    if GemmaConfig.from_header(checkpoint.header) is None:
        kind = checkpoint.header.config.get("model_type", "none")
        raise CheckpointError(f"{folder} is no Gemma 3: model_type in its config.json is {kind!r}, expected 'gemma3'.")
    network = load(Gemma, checkpoint, dtype=dtype, quantize=quantize, stream_blocks=stream_blocks)
    return TextEncoder(network, tokenizer)


def encode_prompts(
    encoder: TextEncoder, prompts: Sequence[str], *, max_length: int | None = None
) -> tuple[list[mx.array], mx.array]:
    """Every state of every prompt, evaluated, and which tokens are valid.

    Only the valid tokens are run: padding is never seen, and its states are zero here.

    Args:
        encoder: From ``load_gemma``.
        prompts: Encoded in one batch.
        max_length: Tokens of a padded prompt; None means the tokenizer's, 1024 for the published one.

    Returns:
        ``layers + 1`` arrays ``(B, L, D)``, the scaled embedding first, in the weights' dtype; and the mask
        ``(B, L)`` int32. Padding stands on the left.

    Raises:
        CheckpointError: If the tokenizer gives tokens that the network has not.
    """
    ids, mask = encoder.tokenizer(prompts, max_length)
    if ids.max() >= encoder.network.config.vocab_size:
        raise CheckpointError(
            f"The tokenizer gives token {ids.max()}, but the network has {encoder.network.config.vocab_size}. "
            f"tokenizer.json and the weights are of different models."
        )
    padding = ids.shape[1] - int(mask.sum(axis=1).max())
    seen = mx.array(mask[:, padding:] != 0)
    states = [
        _evaluated(mx.pad(mx.where(seen[..., None], state, 0), [(0, 0), (padding, 0), (0, 0)]))
        for state in encoder.network(mx.array(ids[:, padding:]), seen, offset=padding)
    ]
    return states, mx.array(mask)
