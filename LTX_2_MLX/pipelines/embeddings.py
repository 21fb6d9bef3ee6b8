"""Contexts of a prompt in a file, so that the text encoder runs once for many films."""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.state import Streams
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.output import check_writable, replaced_when_complete
from LTX_2_MLX.pipelines.stages import Contexts

_FORMAT = "LTX-2-MLX contexts 1"


def context_arrays(contexts: Contexts) -> dict[str, mx.array]:
    """Contexts as arrays by name: ``positive.video`` and so on, without those that are absent."""
    return {
        f"{name}.{stream}": context
        for name, streams in (("positive", contexts.positive), ("negative", contexts.negative))
        for stream, context in streams._asdict().items()
        if context is not None
    }


def contexts_from(arrays: Mapping[str, mx.array]) -> Contexts:
    """The contexts that :func:`context_arrays` gave."""
    return Contexts(*(Streams(arrays.get(f"{n}.video"), arrays.get(f"{n}.audio")) for n in ("positive", "negative")))


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

    def both(name: str) -> Streams[mx.array]:
        return Streams(arrays.get(f"{name}.video"), arrays.get(f"{name}.audio"))

    positive, negative = both("positive"), both("negative")
    if positive.video is None or (negative_prompt is not None and negative.video is None):
        raise RequestError(f"{path} lacks the negative prompt's embeddings. Write it again with --cfg above 1.")
    return Contexts(positive, negative if negative_prompt is not None else Streams(None, None))
