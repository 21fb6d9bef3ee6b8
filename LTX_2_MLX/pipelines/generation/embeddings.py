"""Embeddings that a user saves: contexts in a file, with their prompts and the digests of the networks."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.sampler import passes
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.files import check_writable, replaced_when_complete
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.pipelines.generation.files import text_encoder_digest
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.state import Arrays

_EVERY_FORMAT = "LTX-2-MLX contexts"
_FORMAT, _EARLIER_FORMAT = f"{_EVERY_FORMAT} 2", f"{_EVERY_FORMAT} 1"


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
    digest = hashlib.sha256()
    for name in sorted(weights.header.tensors):
        if TextFeatures.parameter_name(name) is not None:
            info = weights.header.tensors[name]
            # One tensor at a time is in memory.
            array = weights.arrays([name])[name]
            digest.update(f"{name} {info.dtype} {info.shape}".encode())
            digest.update(np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)).tobytes())
    return digest.hexdigest()


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
    uses_negative = "negative" in passes(request.guidance)
    if uses_negative:
        expected["negative_prompt"] = request.negative_prompt
    for name, value in expected.items():
        if metadata.get(name) != value:
            raise RequestError(
                f"{path} was made with the {name.replace('_', ' ')} {metadata.get(name, '')!r:.60}, not {value!r:.60}. "
                f"Give the same, or write other embeddings with --save-embeddings."
            )
    names = [name for name in saved.header.tensors if uses_negative or name.startswith("positive.")]
    if "positive.video" not in names or (uses_negative and "negative.video" not in names):
        raise RequestError(f"{path} lacks the negative prompt's embeddings. Write it again with --cfg above 1.")
    return saved.arrays(names)


def check_replaceable(path: Path) -> None:
    """Refuse to write embeddings over a file that holds none."""
    try:
        found = Checkpoint(path).header.metadata.get("format", "")
    except CheckpointError:
        found = ""
    if not found.startswith(_EVERY_FORMAT):
        raise RequestError(f"{path} exists and holds no prompt embeddings. Give --save-embeddings another name.")
