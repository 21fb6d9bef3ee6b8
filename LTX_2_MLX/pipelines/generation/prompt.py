"""Stages from a prompt to the contexts that the transformer attends to, and contexts in files."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.digest import tensors_digest
from LTX_2_MLX.checkpoints.gemma3 import encode_tokens
from LTX_2_MLX.checkpoints.gemma_tokenizer import GemmaTokenizer, tokenizer_of
from LTX_2_MLX.checkpoints.load import load, quantization_for
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.recognise import config_of
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.media.output import check_writable, replaced_when_complete
from LTX_2_MLX.models.ltx.text_features import TextFeatures, TextFeaturesConfig
from LTX_2_MLX.ops.attention import scores_bytes
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines.generation.files import language_model, text_encoder_fits
from LTX_2_MLX.pipelines.generation.prompt_cache import cache_entry, keep_entry
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState, Result, contents, text_encoder_digest
from LTX_2_MLX.planning.plan import Estimate, largest_tensor_bytes, network_weights_bytes
from LTX_2_MLX.planning.precision import dtype_name
from LTX_2_MLX.runtime.runner import StageRunner

_FORMAT = "LTX-2-MLX contexts 2"
_EARLIER_FORMAT = "LTX-2-MLX contexts 1"
_SHOWN_LETTERS = 40
# What is encoded, by the number of prompts.
_WORK = {1: "prompt", 2: "prompt and negative prompt"}
# Arrays of one Gemma layer that live at once, of each of its two widths.
_HIDDEN_ARRAYS = 8
_INTERMEDIATE_ARRAYS = 6
# Token arrays ``(B, L, D)`` of a connector block that live at once, beside the scores of attention: measured on the
# CPU; counted from the block's arrays for a GPU.
_CPU_TOKEN_ARRAYS = 22.5
_GPU_TOKEN_ARRAYS = 18.0


@lru_cache(maxsize=2)
def _tokenizer(text_encoder: Path) -> GemmaTokenizer:
    """The tokenizer of a folder or a file, kept for the estimates that ask for it."""
    return tokenizer_of(Checkpoint(text_encoder))


@dataclass(frozen=True)
class EncodeText:
    """Text encoder: prompts to the states of all its layers."""

    request: Request
    name = "text_encoder"
    needs: ClassVar[tuple[Result, ...]] = ()
    gives: ClassVar[Result] = "text"
    saved_as = None

    def estimate(self) -> Estimate:
        """The padded states of all layers, and the arrays of one layer over the valid tokens."""
        models = self.request.models
        encoder = Checkpoint(models.text_encoder_files)
        if not text_encoder_fits(encoder, models.text_features):
            raise CheckpointError(
                f"{encoder.path} is not the text encoder that {models.weights.path} was made for: its number of "
                f"features differs. Give --gemma the one that belongs to it."
            )
        network = language_model(encoder)
        config = config_of(network, encoder)
        _, mask = tokenize(self.request)
        prompts = len(mask)
        tokens = int(mask.sum(axis=1).max())
        if self.request.enhancer is not None:
            from LTX_2_MLX.pipelines.generation.enhance import most_tokens

            tokens = min(max(tokens, most_tokens(self.request.enhancer)), mask.shape[1])
        scores = prompts * config.num_attention_heads * tokens**2 * mx.float32.size
        widths = _HIDDEN_ARRAYS * config.hidden_size + _INTERMEDIATE_ARRAYS * config.intermediate_size
        layer_bytes = scores + prompts * tokens * widths * models.text_dtype.size
        hidden = prompts * tokens * config.intermediate_size * models.text_dtype.size
        return Estimate(
            name=self.name,
            work=_WORK[prompts],
            dtype=dtype_name(models.text_dtype),
            file=encoder.path,
            weights_bytes=network_weights_bytes([network], encoder, **self._load_options(encoder)),
            activation_bytes=states_bytes(self.request) + layer_bytes,
            array_bytes=max(largest_tensor_bytes(network, encoder, models.text_dtype), hidden, scores),
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Encode the prompts in one batch."""
        encoder = Checkpoint(self.request.models.text_encoder_files)
        ids, mask = tokenize(self.request)
        text = runner.run(
            self.name,
            partial(load, language_model(encoder), encoder, **self._load_options(encoder)),
            partial(encode_tokens, ids=ids, mask=mask),
        )
        if self.request.models.parallel == "blocks":
            from LTX_2_MLX.checkpoints.block_run import whole_states

            text = (whole_states(self.request.models.block_run, text[0]), text[1])
        return replace(state, text=text)

    def facts(self) -> dict[str, Any]:
        """The prompts, the text encoder's files and its precision."""
        models = self.request.models
        return {
            "prompts": self.request.prompts,
            "text_encoder": [text_encoder_digest(models.text_encoder_files)],
            "dtype": str(models.text_dtype),
            "quantize": models.quantize,
        }

    def _load_options(self, encoder: Checkpoint) -> dict[str, Any]:
        models = self.request.models
        # The encoder keeps its precision where its layers are too narrow for groups of few bits.
        quantize = (
            None if models.quantize is None else quantization_for(language_model(encoder), encoder, models.quantize)
        )
        options: dict[str, Any] = {"dtype": models.text_dtype, "quantize": quantize, "stream_blocks": models.low_ram}
        if models.parallel == "blocks":
            options["run"] = models.block_run
        return options


@dataclass(frozen=True)
class EncodeContexts:
    """Text features: the text encoder's states to the contexts of video and audio."""

    request: Request
    name = "text_features"
    needs: ClassVar[tuple[Result, ...]] = ("text",)
    gives: ClassVar[Result] = "contexts"
    saved_as = "text"

    def estimate(self) -> Estimate:
        """The larger connector over padded prompts, the contexts of both, and the states that they are made from."""
        if self.request.save_embeddings is not None:
            check_writable(self.request.save_embeddings)
        models = self.request.models
        config = config_of(TextFeatures, models.text_features)
        connector, array = connector_bytes(config, context_size(self.request), models.text_dtype)
        return Estimate(
            name=self.name,
            work=_WORK[len(self.request.prompts)],
            dtype=dtype_name(models.text_dtype),
            file=models.weights.path,
            weights_bytes=network_weights_bytes([TextFeatures], models.text_features, dtype=models.text_dtype),
            activation_bytes=states_bytes(self.request) + contexts_bytes(self.request) + connector,
            array_bytes=max(array, largest_tensor_bytes(TextFeatures, models.text_features, models.text_dtype)),
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Encode all prompts at once; write the contexts to a file if so requested."""
        models = self.request.models
        assert state.text is not None
        states, mask = state.text
        video, audio = runner.run(
            self.name,
            partial(load, TextFeatures, models.text_features, dtype=models.text_dtype),
            lambda network: network(states, mask),
        )
        contexts = {}
        for row, prompt in enumerate(("positive", "negative")[: len(video)]):
            contexts[f"{prompt}.video"] = video[row : row + 1]
            if audio is not None:
                contexts[f"{prompt}.audio"] = audio[row : row + 1]
        mx.eval(contexts)
        if self.request.save_embeddings is not None:
            save_contexts(self.request, contexts)
        if (entry := cache_entry(self.request)) is not None:
            keep_entry(entry, contexts, runner.progress.note)
        return replace(state, text=None, contexts=contexts)

    def facts(self) -> dict[str, Any]:
        """The checkpoint and its precision."""
        models = self.request.models
        return {"weights": contents(*models.text_features.paths), "dtype": str(models.text_dtype)}


def connector_bytes(config: TextFeaturesConfig, size: tuple[int, int], dtype: mx.Dtype) -> tuple[int, int]:
    """Memory of the larger connector over ``size`` prompts and tokens, and its largest array."""
    prompts, length = size
    token_arrays = _CPU_TOKEN_ARRAYS if on_cpu() else _GPU_TOKEN_ARRAYS
    most = largest = 0
    for connector in (config.video, config.audio):
        if connector is None:
            continue
        tokens = connector.width * prompts * length * dtype.size
        heads = prompts * connector.heads
        scores = scores_bytes(heads, length, length, head_dim=connector.head_dim, dtype=dtype)
        most = max(most, int(token_arrays * tokens) + scores)
        # Inside the feed-forward, or the scores.
        largest = max(largest, 4 * tokens, scores)
    return most, largest


def prompt_stages(request: Request) -> list[EncodeText | EncodeContexts]:
    """Stages that make the contexts; none where they come from a file."""
    return [] if request.embeddings else [EncodeText(request), EncodeContexts(request)]


def tokenize(request: Request) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the request's prompts and their mask, ``(B, L)`` int32 each. Planning and running share them."""
    return _tokenizer(request.models.text_encoder_files)(request.prompts)


def notes_on_length(request: Request) -> list[str]:
    """A line for each prompt that has more tokens than the networks read."""
    if request.models.text_encoder is None:
        return []
    tokenizer = _tokenizer(request.models.text_encoder_files)
    lines = []
    for name, prompt in zip(("prompt", "negative prompt"), request.prompts, strict=False):
        count, unread = tokenizer.cut_off(prompt)
        if unread:
            lines.append(
                f"The {name} has {count} tokens, but only {tokenizer.max_length} are used. Not used is its end, from "
                f"{unread.strip()[:_SHOWN_LETTERS]!r} on."
            )
    return lines


def context_size(request: Request) -> tuple[int, int]:
    """Number of prompts, and tokens of each context."""
    if request.embeddings is not None:
        return len(request.prompts), load_contexts(request)["positive.video"].shape[1]
    prompts, length = tokenize(request)[0].shape
    return prompts, length


def states_bytes(request: Request) -> int:
    """Memory of the padded states of all layers, which wait for the connectors."""
    encoder = Checkpoint(request.models.text_encoder_files)
    config = config_of(language_model(encoder), encoder)
    prompts, length = context_size(request)
    return (config.num_hidden_layers + 1) * prompts * length * config.hidden_size * request.models.text_dtype.size


def contexts_bytes(request: Request) -> int:
    """Memory of the contexts, which stay until the last denoising stage."""
    if request.embeddings is not None:
        return sum(context.nbytes for context in load_contexts(request).values())
    config = config_of(TextFeatures, request.models.text_features)
    prompts, length = context_size(request)
    width = config.video.width + (0 if config.audio is None else config.audio.width)
    return prompts * length * width * request.models.text_dtype.size


def save_contexts(request: Request, contexts: Arrays) -> None:
    """Write contexts to ``request.save_embeddings``, with their prompts and the digests of the networks."""
    path = request.save_embeddings
    assert path is not None
    metadata = {
        "format": _FORMAT,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "text_encoder": text_encoder_digest(request.models.text_encoder_files),
        "connectors": connectors_digest(request.models.weights),
        "gemma_version": _gemma_version(request.models.weights),
    }
    check_writable(path)
    with replaced_when_complete(path) as temporary, temporary.open("wb") as file:
        mx.save_safetensors(file, contexts, metadata=metadata)


def _gemma_version(weights: Checkpoint) -> str:
    """Version of the text encoder that the transformer was made for; empty for Gemma 3, which has none."""
    if "gemma_source_checkpoint" not in weights.header.metadata:
        return ""
    from LTX_2_MLX.pipelines.generation.split_files import source_gemma_version

    return source_gemma_version(weights) or ""


def connectors_digest(weights: Checkpoint) -> str:
    """Digest of the tensors that turn the text encoder's states into contexts, whatever their file is called.

    LTX-2.5's projections are in the text encoder's file, whose own digest covers them.
    """
    return tensors_digest(weights, [name for name in weights.header.tensors if TextFeatures.parameter_name(name)])


def compare_text_encoder(request: Request, *, named: bool, note: Callable[[str], None]) -> None:
    """Compare the text encoder that made saved embeddings with the one on this machine.

    The embeddings are valid without it: another one that was only found is noted, one that the user named is refused.

    Args:
        request: With ``embeddings``.
        named: Whether the user named the text encoder.
        note: Callback for the line on another text encoder.

    Raises:
        RequestError: If the embeddings were made with another text encoder than the named one.
    """
    path = request.embeddings
    encoder = request.models.embeddings_encoder
    if path is None or encoder is None:
        return
    saved = Checkpoint(path).header.metadata.get("text_encoder")
    if saved is None or saved == text_encoder_digest(encoder):
        return
    if named:
        raise RequestError(
            f"{path} was made with another text encoder than {encoder}. Leave out --gemma, or write other embeddings "
            f"with --save-embeddings."
        )
    note(f"{path} was made with another text encoder than {encoder}, the one on this machine.")


def load_contexts(request: Request) -> Arrays:
    """Contexts from ``request.embeddings``, the negative ones only where guidance uses them.

    Raises:
        CheckpointError: If the file cannot be read.
        RequestError: If they belong to other prompts or another checkpoint.
    """
    path = request.embeddings
    assert path is not None
    saved = Checkpoint(path)
    metadata = saved.header.metadata
    if metadata.get("format") == _EARLIER_FORMAT:
        raise RequestError(
            f"{path} does not say which networks it was made with: an earlier version wrote it. Write it again with "
            f"--save-embeddings."
        )
    if metadata.get("format") != _FORMAT:
        raise RequestError(f"{path} holds no prompt embeddings. Write them with --save-embeddings.")
    if metadata.get("connectors") != connectors_digest(request.models.weights):
        raise RequestError(
            f"{path} was made with the connectors of another checkpoint than {request.models.weights.path}. Give that "
            f"one, or write other embeddings with --save-embeddings."
        )
    version = _gemma_version(request.models.weights)
    if metadata.get("gemma_version", version) != version:
        raise RequestError(
            f"{path} was made with the text encoder {metadata['gemma_version'] or 'Gemma 3'}, but "
            f"{request.models.weights.path} was made for {version or 'Gemma 3'}. Write it again with --save-embeddings."
        )
    expected = {"prompt": request.prompt}
    if request.uses_negative:
        expected["negative_prompt"] = request.negative_prompt
    for name, value in expected.items():
        if metadata.get(name) != value:
            raise RequestError(
                f"{path} was made with the {name.replace('_', ' ')} {metadata.get(name, '')!r:.60}, not {value!r:.60}. "
                f"Give the same, or write other embeddings with --save-embeddings."
            )
    names = [name for name in saved.header.tensors if request.uses_negative or name.startswith("positive.")]
    if "positive.video" not in names or (request.uses_negative and "negative.video" not in names):
        raise RequestError(f"{path} lacks the negative prompt's embeddings. Write it again with --cfg above 1.")
    return saved.arrays(names)
