"""Stages from a prompt to the contexts that the transformer attends to, and contexts of earlier prompts.

These are in the user's cache folder, so that the text encoder runs once per prompt. An entry is named after everything
that contexts follow from, and holds a sum of its bytes: a damaged one is computed again. The entries longest unused go
once all of them take more than 1 GiB.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx

from LTX_2_MLX.checkpoints.gemma3 import encode_tokens
from LTX_2_MLX.checkpoints.gemma_tokenizer import GemmaTokenizer, tokenizer_of
from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.files import check_writable, content_digest, file_stamps, replaced_file
from LTX_2_MLX.models.ltx.text_features import TextFeatures, TextFeaturesConfig
from LTX_2_MLX.ops.attention import scores_bytes
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines.generation.embeddings import load_contexts, save_contexts
from LTX_2_MLX.pipelines.generation.files import (
    language_model,
    load_options,
    text_encoder_digest,
    text_encoder_fits,
)
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationStage, GenerationState, Result, contents
from LTX_2_MLX.planning.plan import Estimate, largest_tensor_bytes, network_weights_bytes
from LTX_2_MLX.runtime.runner import StageRunner, digest_of, load_whole, sum_of

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
# Names another folder; empty: nothing is kept.
FOLDER_VARIABLE = "LTX_2_MLX_CACHE"
_MOST_BYTES = 2**30
_PACKAGE = Path(__file__).parents[2]

# The entry that a plan was made with, for the run that follows.
_read: dict[str, Arrays] = {}


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
        _, mask = _tokenizer(self.request.models.text_encoder_files)(self.request.prompts)
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
            dtype=models.text_dtype,
            file=encoder.path,
            weights_bytes=network_weights_bytes([network], encoder, **load_options(models, network, encoder)),
            activation_bytes=states_bytes(self.request) + layer_bytes,
            array_bytes=max(largest_tensor_bytes(network, encoder, models.text_dtype), hidden, scores),
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Encode the prompts in one batch."""
        models = self.request.models
        encoder = Checkpoint(models.text_encoder_files)
        network = language_model(encoder)
        ids, mask = _tokenizer(models.text_encoder_files)(self.request.prompts)
        text = runner.run(
            self.name,
            partial(load, network, encoder, **load_options(models, network, encoder)),
            partial(encode_tokens, ids=ids, mask=mask),
        )
        if models.parallel == "blocks":
            from LTX_2_MLX.checkpoints.block_run import whole_states

            text = (whole_states(models.block_run, text[0]), text[1])
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
            dtype=models.text_dtype,
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

        def work(network: TextFeatures) -> tuple[mx.array, mx.array | None]:
            runner.progress.advance(self.name, 0, 1)
            features = network(states, mask)
            mx.eval(features)
            runner.progress.advance(self.name, 1, 1)
            return features

        video, audio = runner.run(
            self.name,
            partial(load, TextFeatures, models.text_features, dtype=models.text_dtype),
            work,
        )
        contexts = {}
        for row, prompt in enumerate(("positive", "negative")[: len(video)]):
            contexts[f"{prompt}.video"] = video[row : row + 1]
            if audio is not None:
                contexts[f"{prompt}.audio"] = audio[row : row + 1]
        mx.eval(contexts)
        if self.request.save_embeddings is not None:
            save_contexts(self.request, contexts)
        keep_contexts(self.request, contexts, runner.progress.note)
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


def remaining(stages: Sequence[GenerationStage], state: GenerationState) -> list[GenerationStage]:
    """The stages without those of the prompt, where the state has its contexts."""
    if not state.contexts:
        return list(stages)
    return [stage for stage in stages if stage.gives not in ("text", "contexts")]


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
    ids, _ = _tokenizer(request.models.text_encoder_files)(request.prompts)
    prompts, length = ids.shape
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


def _cache_entry(request: Request) -> Path | None:
    """File of the request's contexts; None where it takes them from elsewhere, or the environment turns the cache off.

    Digests of large files are those of samples, so the times of all files count, too.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if not request.cache or request.embeddings is not None or named == "":
        return None
    if named is not None:
        folder = Path(named).expanduser()
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches" / "ltx-2-mlx"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltx-2-mlx"
    models = request.models
    # A checkout of this package changes without another version.
    program = []
    for stamp in file_stamps(_PACKAGE):
        if stamp[0].endswith(".py"):
            program.append(stamp)
    encoder, connectors = models.text_encoder_files, models.text_features.paths
    facts = {
        "prompts": request.prompts,
        "text_encoder": [text_encoder_digest(encoder), file_stamps(encoder)],
        "connectors": [*map(content_digest, connectors), *map(file_stamps, connectors)],
        "dtype": str(models.text_dtype),
        "quantize": models.quantize,
        "program": program,
    }
    name = digest_of(facts)
    return folder / "prompts" / f"{name}.safetensors"


def cached_contexts(request: Request, *, use: bool = False) -> Arrays | None:
    """The request's contexts by an earlier run, evaluated; None where there are none that are whole.

    Without ``use`` they stay in memory for the run that is planned.
    """
    path = _cache_entry(request)
    if path is None:
        return None
    arrays = _read.pop(path.name, None)
    if arrays is None and path.is_file():
        loaded = load_whole(path)
        arrays = None if loaded is None else loaded[0]
    if arrays is not None and use:
        # Its time tells when it was used last.
        with suppress(OSError):
            os.utime(path)
    elif arrays is not None:
        _read.clear()
        _read[path.name] = arrays
    return arrays


def keep_contexts(request: Request, contexts: Arrays, note: Callable[[str], None]) -> None:
    """Write the request's entry, and remove those longest unused; ``note`` gets a line where the disk refuses."""
    path = _cache_entry(request)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as temporary:
            mx.save_safetensors(str(temporary), contexts, metadata={"sum": sum_of(contexts)})
        entries = []
        for entry in path.parent.glob("*.safetensors"):
            status = entry.stat()
            entries.append((status.st_mtime_ns, status.st_size, entry))
        total = 0
        for _, size, entry in sorted(entries, reverse=True):
            total += size
            if total > _MOST_BYTES and entry != path:
                entry.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        note(f"The prompt's embeddings are not kept for later runs: {error}")
