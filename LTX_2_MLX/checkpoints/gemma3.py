"""Gemma 3 text encoder: prompts to the hidden states of every layer.

The layers are mlx-lm's. Tokens, padding and masks are computed here, since LTX-2 pads on the left and uses the states
of all layers (``models.ltx.text_features``).
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from LTX_2_MLX.checkpoints.gemma_tokenizer import STORED_PIECES, GemmaTokenizer, encoder_folder, tokenizer_of
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.quantization import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint, holds_language_model
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.files import parse_object
from LTX_2_MLX.models.interfaces import Header

if TYPE_CHECKING:
    from LTX_2_MLX.checkpoints.block_run import BlockRun

# Key of the metadata that holds the config in files with everything inside.
_CONFIG_KEY = "gemma_config"
# Prefixes of the language model's tensors in the published files, and in those of newer library versions.
_PREFIXES = ("language_model.model.", "model.language_model.")
# Fields of ``text_config`` that change the mathematics, and their supported values.
_FIXED: dict[str, tuple[object, ...]] = {
    "attention_bias": (False,),
    "attn_logit_softcapping": (None,),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "use_bidirectional_attention": (False, None),
}
# Limits for hostile configs; 48 layers are published.
_LARGEST: dict[str, float] = {"num_hidden_layers": 1000, "rope_theta": 1e12}


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
    # Every so many layers, one attends globally; ``layer_types`` in newer files.
    sliding_window_pattern: int = 6
    # Frequency base of the global layers, and the divisor of their positions.
    rope_theta: float = 1_000_000.0
    rope_factor: float = 1.0
    # Frequency base of the sliding layers.
    rope_local_base_freq: float = 10_000.0
    # Module path -> bits, group size and mode, in files that mlx-lm has quantised.
    quantized: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_header(cls, header: Header) -> "GemmaConfig | None":
        """The config in ``config.json`` or in a file's metadata; None for anything else.

        A single file of ComfyUI has none: its tensors have to be those of the published 12B model.

        Raises:
            CheckpointError: If a field has a value that is not supported, or a file without config is another model.
        """
        config = gemma_config(header)
        if "model_type" not in config and STORED_PIECES in header.tensors and holds_language_model(header.tensors):
            # Few files need it.
            from LTX_2_MLX.checkpoints.gemma3_shapes import TEXT_CONFIG, check_shapes

            published = cls(**_published_fields(TEXT_CONFIG))
            check_shapes(header, published, Gemma.parameter_name)
            return published
        model_type = config.get("model_type")
        if model_type not in ("gemma3", "gemma3_text"):
            return None
        text = config.get("text_config", {}) if model_type == "gemma3" else config
        try:
            fields = _published_fields(text)
            quantized = quantized_modules(header, Gemma.parameter_name)
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"Gemma's config.json is not in the published form ({error}).") from error
        for name, value in fields.items():
            is_integer = cls.__dataclass_fields__[name].type is int
            types = (int,) if is_integer else (int, float)
            if type(value) not in types or not 0 < value <= _LARGEST.get(name, 1 << 24):
                expected = "a positive integer" if is_integer else "a positive number"
                raise CheckpointError(f"Gemma's {name} is {value!r:.40}, expected {expected} of plausible size.")
        return cls(**fields, quantized=quantized)


def gemma_config(header: Header) -> Mapping[str, Any]:
    """The config of a whole Gemma model: in the metadata of a file, else in ``config.json``.

    Raises:
        CheckpointError: If the metadata cannot be read.
    """
    if _CONFIG_KEY not in header.metadata:
        return header.config
    try:
        return parse_object(header.metadata[_CONFIG_KEY])
    except ValueError as error:
        raise CheckpointError(f"The metadata's {_CONFIG_KEY} is not JSON ({error}). Download it again.") from error


def _published_fields(text: Mapping[str, Any]) -> dict[str, Any]:
    """The config's fields that ``text_config`` gives.

    Raises:
        CheckpointError: If a field has a value that is not supported.
    """
    for name, allowed in _FIXED.items():
        if name in text and text[name] not in allowed:
            raise CheckpointError(f"Gemma's {name} is {text[name]!r}, supported is {allowed[0]!r}.")
    fields: dict[str, Any] = {}
    for name in GemmaConfig.__dataclass_fields__:
        if name in text and name != "quantized":
            fields[name] = text[name]
    if "_sliding_window_pattern" in text:
        fields.setdefault("sliding_window_pattern", text["_sliding_window_pattern"])
    if text.get("layer_types") is not None:
        fields["sliding_window_pattern"] = _global_period(text["layer_types"])
    return fields | _rope_fields(text)


def _rope_fields(text: Mapping[str, Any]) -> dict[str, float]:
    """Frequency bases, and the scaling of global layers, in either form of the config."""
    fields: dict[str, float] = {}
    scaling = text.get("rope_scaling")
    rope_parameters = text.get("rope_parameters")
    if isinstance(rope_parameters, dict):
        scaling = rope_parameters.get("full_attention", {})
        local = rope_parameters.get("sliding_attention", {})
        if local.get("rope_type", "default") != "default":
            raise CheckpointError(
                f"Gemma's sliding layers have rope_type {local['rope_type']!r}, supported is 'default'."
            )
        fields["rope_theta"] = scaling.get("rope_theta", 1e6)
        fields["rope_local_base_freq"] = local.get("rope_theta", 1e4)
    if scaling:
        rope_type = scaling.get("rope_type", scaling.get("type", "default"))
        if rope_type not in ("linear", "default"):
            raise CheckpointError(f"Gemma's rope_type is {rope_type!r}, supported are 'linear' and 'default'.")
        fields["rope_factor"] = scaling.get("factor", 1.0) if rope_type == "linear" else 1.0
    return fields


def _global_period(layer_types: Any) -> int:
    """Every so many layers, one attends globally; ``layer_types`` gives each layer's type."""
    if not isinstance(layer_types, list) or not set(layer_types) <= {"full_attention", "sliding_attention"}:
        raise ValueError("layer_types holds other types than full_attention and sliding_attention")
    is_global = [layer_type == "full_attention" for layer_type in layer_types]
    period = is_global.index(True) + 1 if any(is_global) else len(layer_types) + 1
    if is_global != [(i + 1) % period == 0 for i in range(len(layer_types))]:
        raise CheckpointError("Gemma's layer_types do not repeat with one period, which is not supported.")
    return period


def quantized_modules(header: Header, parameter_name: Callable[[str], str | None]) -> dict[str, dict[str, Any]]:
    """Settings of the modules with scales beside their weight, as mlx-lm writes them into config.json, by path.

    Raises:
        CheckpointError: If config.json does not say how a module is quantised.
    """
    defaults = header.config.get("quantization") or {}
    quantized = {}
    for name in header.tensors:
        path = parameter_name(name)
        if path is None or not path.endswith(".scales"):
            continue
        settings = defaults.get(name.removesuffix(".scales"))
        if not isinstance(settings, dict):
            settings = defaults
        if "bits" not in settings or "group_size" not in settings:
            raise CheckpointError(
                f"{name} is quantised, but config.json does not say how (quantization: bits, group_size)."
            )
        known = [key for key in ("bits", "group_size", "mode") if key in settings]
        quantized[path.removesuffix(".scales")] = {key: settings[key] for key in known}
    return quantized


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


class _DelayedPackage(ModuleType):
    """A package whose own module runs when something beside its submodules is first asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def mlx_lm_layers(name: str) -> ModuleType:
    """mlx-lm's module of a language model's layers.

    What the package itself imports, transformers among it, takes a second and has no part in them; it is imported when
    it is first used.
    """
    if "mlx_lm" not in sys.modules and (spec := find_spec("mlx_lm")) is not None:
        package = module_from_spec(spec)
        package.__class__ = _DelayedPackage
        sys.modules["mlx_lm"] = package
    return import_module(f"mlx_lm.models.{name}")


class Gemma(nn.Module):
    """Token ids to the hidden states of every layer.

    Shape:
        ids and mask ``(B, N)`` -> ``layers + 1`` states ``(B, N, D)``, in the weights' dtype.

    Source: huggingface/transformers 5.14, models/gemma3/modeling_gemma3.py; layers of ml-explore/mlx-lm
    mlx_lm/models/gemma3_text.py (golden case ``ltx2/gemma_tiny``).
    """

    Config = GemmaConfig
    BLOCKS = "model.layers"

    def __init__(self, config: GemmaConfig):
        gemma3_text = mlx_lm_layers("gemma3_text")
        super().__init__()
        self.config = config
        arguments = dict(vars(config))
        del arguments["quantized"]
        del arguments["rope_factor"]
        if config.rope_factor != 1:
            arguments["rope_scaling"] = {"rope_type": "linear", "factor": config.rope_factor}
        self.model = gemma3_text.Gemma3Model(gemma3_text.ModelArgs(model_type="gemma3_text", **arguments))
        norms = []
        for path, module in self.model.named_modules():
            if isinstance(module, gemma3_text.RMSNorm):
                norms.append((path, GemmaNorm(module.weight.size, module.eps)))
        self.model.update_modules(tree_unflatten(norms))
        if config.quantized:
            settings = {path.removeprefix("model."): dict(own) for path, own in config.quantized.items()}
            nn.quantize(self.model, class_predicate=lambda path, module: settings.get(path, False))

    def __call__(self, ids: mx.array, mask: mx.array, offset: int = 0) -> Iterator[mx.array]:
        """Yield the states, each evaluated: the scaled embedding, then each layer's output, the last one normed.

        Args:
            ids: ``(B, N)``.
            mask: ``(B, N)`` boolean, False for padding.
            offset: Position of the first token.
        """
        causal, sliding = attention_masks(mask, self.config.sliding_window)
        hidden = self.model.embed_tokens(ids)
        # The factor is rounded to the weights' dtype: 62.0 in bfloat16, not 61.97.
        hidden = hidden * mx.array(math.sqrt(self.config.hidden_size), hidden.dtype)
        mx.eval(hidden)
        yield hidden
        cache = _PositionOffset(offset)
        for number, layer in enumerate(self.model.layers, start=1):
            hidden = layer(hidden, sliding if layer.self_attn.is_sliding else causal, cache)
            if number == self.config.num_hidden_layers:
                hidden = self.model.norm(hidden)
            mx.eval(hidden)
            yield hidden

    @staticmethod
    def quantizes(path: str, config: GemmaConfig) -> bool:
        """Whether a layer may be quantised: all but the embedding, of which only a few rows are read."""
        return path.startswith("model.layers.")

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Tensors of the language model; those of vision tower, projector and head are not used."""
        for prefix in _PREFIXES:
            if published.startswith(prefix):
                return f"model.{published.removeprefix(prefix)}"
        # Text-only files. Names of other networks begin with "model." too.
        if published.startswith(("model.embed_tokens.", "model.layers.", "model.norm.")):
            return published
        return None


@dataclass(frozen=True)
class _PositionOffset:
    """Position of the first token, in the form of a key-value cache, which mlx-lm's attention asks for it."""

    offset: int

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return keys, values


def attention_masks(mask: mx.array, window: int) -> tuple[mx.array, mx.array]:
    """Boolean attention masks ``(B, 1, N, N)`` of global and of sliding layers.

    A token attends to the valid ones up to itself; in sliding layers, within the last ``window`` positions. Padding
    attends to itself, since a row without any key has no softmax.
    """
    positions = mx.arange(mask.shape[1])
    distance = positions[:, None] - positions[None]
    causal = (distance >= 0) & mask[:, None, None, :] | (distance == 0)
    return causal, causal & (distance < window)


@dataclass(frozen=True)
class TextEncoder:
    """A language model with its tokenizer; ``network`` is a ``Gemma`` or a ``Gemma4``."""

    network: Any
    tokenizer: GemmaTokenizer


def load_gemma(
    path: str | Path,
    *,
    dtype: mx.Dtype | None = None,
    quantize: Quantization | None = None,
    stream_blocks: bool = False,
    run: "BlockRun | None" = None,
) -> TextEncoder:
    """Load Gemma 3 and its tokenizer as published, as in diffusers repositories, or quantised by mlx-lm.

    Args:
        path: Folder with ``config.json``, ``tokenizer.json`` and the .safetensors files, a file with the others in
            it or beside it, or a single file of ComfyUI.
        dtype: Floating-point weights are cast to this; None keeps the file's.
        quantize: Quantise the layers while they load.
        stream_blocks: Leave the layers on disk and read each ahead of its use.
        run: Read this process's layers alone; other processes have the rest.

    Raises:
        CheckpointError: If something is missing or damaged, or the model is another one.
    """
    path = encoder_folder(Path(path))
    checkpoint = Checkpoint(path)
    tokenizer = tokenizer_of(checkpoint)
    if GemmaConfig.from_header(checkpoint.header) is None:
        model_type = checkpoint.header.config.get("model_type", "none")
        raise CheckpointError(
            f"{path} is no Gemma 3: model_type in its config.json is {model_type!r}, expected 'gemma3'."
        )
    network = load(Gemma, checkpoint, dtype=dtype, quantize=quantize, stream_blocks=stream_blocks, run=run)
    return TextEncoder(network, tokenizer)


def encode_prompts(
    encoder: TextEncoder, prompts: Sequence[str], *, max_length: int | None = None
) -> tuple[list[mx.array], mx.array]:
    """``encode_tokens`` of prompts that the encoder's tokenizer pads to ``max_length``, its own unless given."""
    return encode_tokens(encoder.network, *encoder.tokenizer(prompts, max_length))


def encode_tokens(network: Any, ids: np.ndarray, mask: np.ndarray) -> tuple[list[mx.array], mx.array]:
    """Hidden states of all layers for each prompt, evaluated, and the mask of valid tokens.

    Only the valid tokens are computed: nothing attends to padding, and its states are zero here.

    Args:
        network: A ``Gemma`` or a ``Gemma4``.
        ids: Token ids of a batch of prompts, ``(B, L)`` int32. Padding is on the left.
        mask: ``(B, L)`` int32, 0 for padding.

    Returns:
        ``layers + 1`` arrays ``(B, L, D)``, the scaled embedding first, in the weights' dtype; and the mask
        ``(B, L)`` int32.

    Raises:
        CheckpointError: If there are tokens that the network does not have.
    """
    vocab_size = network.config.vocab_size
    if ids.max() >= vocab_size:
        raise CheckpointError(
            f"The tokenizer yields token {ids.max()}, but the network has {vocab_size}. "
            f"The tokenizer and the weights are of different models."
        )
    common_padding = ids.shape[1] - int(mask.sum(axis=1).max())
    is_valid = mx.array(mask[:, common_padding:] != 0)
    states = []
    for state in network(mx.array(ids[:, common_padding:]), is_valid, offset=common_padding):
        state = mx.where(is_valid[..., None], state, 0)
        state = mx.pad(state, [(0, 0), (common_padding, 0), (0, 0)])
        mx.eval(state)
        states.append(state)
    return states, mx.array(mask)
