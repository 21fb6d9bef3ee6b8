"""Contexts of a prompt in a file, so that the text encoder runs once for many films."""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.state import StreamArrays
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.output import check_writable, replaced_when_complete
from LTX_2_MLX.pipelines.stages import Contexts
from LTX_2_MLX.shapes import StreamName

_FORMAT = "LTX-2-MLX contexts 1"


def context_arrays(contexts: Contexts) -> dict[str, mx.array]:
    """Contexts as arrays by name: ``positive.video`` and so on, without those that are absent."""
    arrays = {}
    for stream, context in contexts.positive.items():
        arrays[f"positive.{stream}"] = context
    for stream, context in contexts.negative.items():
        arrays[f"negative.{stream}"] = context
    return arrays


def contexts_from(arrays: Mapping[str, mx.array]) -> Contexts:
    """The contexts that :func:`context_arrays` gave."""
    return Contexts(_of_prompt(arrays, "positive"), _of_prompt(arrays, "negative"))


def _of_prompt(arrays: Mapping[str, mx.array], prompt: str) -> StreamArrays:
    streams: tuple[StreamName, ...] = ("video", "audio")
    return {stream: arrays[f"{prompt}.{stream}"] for stream in streams if f"{prompt}.{stream}" in arrays}


def save_contexts(path: Path, contexts: Contexts, *, prompt: str, negative_prompt: str, weights: Checkpoint) -> None:
    """Write contexts with the texts they stand for and the name of the checkpoint that made them."""
    arrays = context_arrays(contexts)
    texts = {"format": _FORMAT, "prompt": prompt, "negative_prompt": negative_prompt, "weights": weights.path.name}
    check_writable(path)
    with replaced_when_complete(path) as temporary, temporary.open("wb") as file:
        mx.save_safetensors(file, arrays, metadata=texts)


def load_contexts(path: Path, *, prompt: str, negative_prompt: str | None, weights: Checkpoint) -> Contexts:
    """Contexts from a file that ``save_contexts`` wrote.

    Args:
        path: The file.
        prompt: What they have to stand for.
        negative_prompt: The same of the negative ones; None where no guidance asks for them.
        weights: The checkpoint they will be used with.

    Raises:
        CheckpointError: If the file cannot be read.
        RequestError: If it holds contexts of something else.
    """
    saved = Checkpoint(path)
    facts = saved.header.metadata
    if facts.get("format") != _FORMAT:
        raise RequestError(f"{path} holds no prompt embeddings. Write them with --save-embeddings.")
    wanted = {"prompt": prompt, "weights": weights.path.name}
    if negative_prompt is not None:
        wanted["negative_prompt"] = negative_prompt
    for name, value in wanted.items():
        if facts.get(name) != value:
            raise RequestError(
                f"{path} was made with the {name.replace('_', ' ')} {facts.get(name, '')!r:.60}, not {value!r:.60}. "
                f"Give the same, or write other embeddings with --save-embeddings."
            )
    arrays = saved.arrays(saved.header.tensors)

    contexts = contexts_from(arrays)
    if "video" not in contexts.positive or (negative_prompt is not None and "video" not in contexts.negative):
        raise RequestError(f"{path} lacks the negative prompt's embeddings. Write it again with --cfg above 1.")
    return contexts if negative_prompt is not None else Contexts(contexts.positive)
