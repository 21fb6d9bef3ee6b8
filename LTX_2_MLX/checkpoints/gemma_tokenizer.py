"""Tokenizer of Gemma, padding as LTX-2 needs it, and where a text encoder has its files.

A tokenizer.json is limited to the kinds of steps that Gemma's tokenizers have, none of which lets a text grow.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from LTX_2_MLX.checkpoints.reader import Checkpoint, json_object
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.files import parse_json

# Length of prompts in the training of the networks after it (Lightricks/LTX-2,
# text_encoders/gemma/gemma_assets.py at 400fd31).
MAX_LENGTH = 1024
_TOKENIZER, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
# Names of tensors, or keys of the metadata, that hold the files' contents.
_STORED_TOKENIZER, _STORED_SETTINGS = "tokenizer_json", "hf_asset__tokenizer_config.json"
# The tensor of ComfyUI's single files with a SentencePiece model (Comfy-Org/ComfyUI, comfy/text_encoders/lt.py).
STORED_PIECES = "spiece_model"
# Folders of a diffusers repository.
_ENCODER_FOLDER, _TOKENIZER_FOLDER = "text_encoder", "tokenizer"
# Steps of the published Gemma 3 tokenizer, and of the demo model's.
_KINDS = {
    "normalizer": ("Replace", "Prepend", "Lowercase"),
    "pre_tokenizer": ("Split", "Punctuation"),
    "post_processor": ("TemplateProcessing",),
    "decoder": ("Replace", "ByteFallback", "Fuse", "Strip"),
}
_PARTS_OF_SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
# With them a merge may reach beyond its tokens.
_UNUSED_SETTINGS = ("continuing_subword_prefix", "end_of_word_suffix", "dropout")
_MAX_STEPS = 8


def _no_tokenizer(encoder: Path) -> str:
    if encoder.is_dir():
        return f"{encoder} has no {_TOKENIZER}. Give the whole folder of the Gemma repository."
    return (
        f"{encoder} has no tokenizer in it, and no {_TOKENIZER} beside it. Put the {_TOKENIZER} and the config.json of "
        f"its repository into the same folder, or use the text encoder as published."
    )


def encoder_folder(path: Path) -> Path:
    """The text encoder's folder where ``path`` is a diffusers repository, else the path itself."""
    inside = path / _ENCODER_FOLDER
    is_repository = (inside / "config.json").is_file() and (path / _TOKENIZER_FOLDER / _TOKENIZER).is_file()
    return inside if is_repository else path


def tokenizer_folder(encoder: Path) -> Path:
    """The folder with a text encoder's tokenizer, which may be missing there."""
    folder = encoder if encoder.is_dir() else encoder.parent
    beside = folder.parent / _TOKENIZER_FOLDER
    is_diffusers = folder.name == _ENCODER_FOLDER and (beside / _TOKENIZER).is_file()
    return beside if is_diffusers and not (folder / _TOKENIZER).is_file() else folder


class GemmaTokenizer:
    """Prompts to token ids.

    Attributes:
        max_length: Tokens of a padded prompt: 1024, or the model's own limit if that is lower.
    """

    def __init__(self, tokenizer: bytes, settings: bytes, source: Path, *, are_pieces: bool = False):
        """Take the contents of ``tokenizer.json`` and ``tokenizer_config.json``.

        Args:
            tokenizer: Contents of ``tokenizer.json``.
            settings: Contents of ``tokenizer_config.json``; an empty object if there is none.
            source: The file that they are from, for messages.
            are_pieces: ``tokenizer`` is a SentencePiece model instead.

        Raises:
            CheckpointError: If tokenizer or settings are damaged, or there is no token to pad with.
        """
        self._source = source
        if are_pieces:
            self._tokenizer = self._from_pieces(tokenizer)
        else:
            from tokenizers import Tokenizer

            check_kinds(tokenizer, source)
            self._tokenizer = self._call(Tokenizer.from_str, tokenizer.decode("utf-8"))
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
        bos = self._tokenizer.token_to_id("<bos>")
        pad = self._tokenizer.token_to_id("<pad>")
        if pad is None:
            pad = self._tokenizer.token_to_id("<eos>")
        if bos is None or pad is None:
            raise CheckpointError(f"{source} is of another model: it has no <bos>, or neither <pad> nor <eos>.")
        self._bos: int = bos
        self._pad: int = pad
        limit = json_object(source, f"its {_SETTINGS}", settings).get("model_max_length")
        self.max_length = min(MAX_LENGTH, limit) if type(limit) is int and limit > 0 else MAX_LENGTH

    def _from_pieces(self, model: bytes) -> Any:
        # Few files need it, and the package is not our own requirement, but mlx-lm's.
        try:
            from LTX_2_MLX.checkpoints.sentence_pieces import PieceTokenizer
        except ImportError as error:
            raise CheckpointError(
                f"{self._source} holds its tokenizer as a SentencePiece model, and the Python package sentencepiece is "
                f"not installed ({error}). Install it, or put the {_TOKENIZER} of its repository beside the file."
            ) from error
        read = self._call(PieceTokenizer, model)
        if not self._call(read.keeps_spaces):
            raise CheckpointError(f"{self._source} is of another model: its tokenizer does not keep spaces as Gemma's.")
        return read

    @classmethod
    def from_folder(cls, encoder: Path) -> "GemmaTokenizer":
        """Read ``tokenizer.json`` and the optional ``tokenizer_config.json`` of a text encoder.

        They lie in its folder, beside its file, or in a diffusers repository's folder ``tokenizer``.

        Raises:
            CheckpointError: If the tokenizer is missing or damaged, or has no token to pad with.
        """
        folder = tokenizer_folder(encoder)
        path = folder / _TOKENIZER
        if not path.is_file():
            raise CheckpointError(_no_tokenizer(encoder))
        settings = folder / _SETTINGS
        return cls(path.read_bytes(), settings.read_bytes() if settings.is_file() else b"{}", path)

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call the package, which raises bare Exception, and panics, over what it cannot read."""
        try:
            return function(*arguments, **options)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit) or type(error).__name__ == "Ended":
                raise
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{self._source} is damaged ({reason:.200}). Download it again.") from error

    def __call__(self, prompts: Sequence[str], max_length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, int32 ``(B, max_length)``. Padding is on the left, and 0 in the mask.

        The end of a prompt that is too long is cut off.
        """
        length = max_length or self.max_length
        ids = np.full((len(prompts), length), self._pad, np.int32)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            tokens = self._call(self._tokenizer.encode, prompt.strip()).ids
            if tokens[:1] != [self._bos]:
                tokens = [self._bos, *tokens]
            tokens = tokens[:length]
            ids[row, -len(tokens) :] = tokens
            mask[row, -len(tokens) :] = 1
        return ids, mask

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, special tokens in it included, with ``<bos>`` in front."""
        ids: list[int] = self._call(self._tokenizer.encode, text).ids
        return ids if ids[:1] == [self._bos] else [self._bos, *ids]

    def id_of(self, token: str) -> int | None:
        """Id of a token; None where there is no such token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def has(self, token: str) -> bool:
        """Whether there is a token of that name."""
        return self.id_of(token) is not None

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        decoded: str = self._call(self._tokenizer.decode, list(ids), skip_special_tokens=True)
        return decoded

    def cut_off(self, prompt: str) -> tuple[int, str]:
        """Number of tokens of a prompt, and the end of it that is cut off; empty where it fits."""
        text = prompt.strip()
        encoding = self._call(self._tokenizer.encode, text)
        has_bos = encoding.ids[:1] == [self._bos]
        count = len(encoding.ids) + (not has_bos)
        if count <= self.max_length:
            return count, ""
        first_unused = self.max_length - (not has_bos)
        return count, text[encoding.offsets[first_unused][0] :]


def tokenizer_of(encoder: Checkpoint) -> GemmaTokenizer:
    """The tokenizer of a text encoder: stored as tensors in its file, or as files beside its weights.

    A ``tokenizer.json`` beside a file comes before the SentencePiece model in it.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    stored = encoder.header.tensors
    if _STORED_TOKENIZER not in stored:
        if STORED_PIECES in stored and not (tokenizer_folder(encoder.path) / _TOKENIZER).is_file():
            return GemmaTokenizer(_stored_bytes(encoder, STORED_PIECES), b"{}", encoder.path, are_pieces=True)
        return GemmaTokenizer.from_folder(encoder.path)
    settings = b"{}"
    if _STORED_SETTINGS in stored:
        settings = _stored_bytes(encoder, _STORED_SETTINGS)
    elif _STORED_SETTINGS in encoder.header.metadata:
        settings = encoder.header.metadata[_STORED_SETTINGS].encode()
    return GemmaTokenizer(_stored_bytes(encoder, _STORED_TOKENIZER), settings, encoder.path)


def files_outside(encoder: Path) -> list[Path]:
    """Files that a text encoder is read from and that are neither its own file nor in its folder."""
    if encoder.is_dir():
        folder = tokenizer_folder(encoder)
        return [] if folder == encoder else [folder]
    stored = Checkpoint(encoder).header.tensors
    if _STORED_TOKENIZER in stored:
        return []
    names = ("config.json", _TOKENIZER, _SETTINGS)
    return [path for path in (tokenizer_folder(encoder) / name for name in names) if path.is_file()]


def _stored_bytes(checkpoint: Checkpoint, name: str) -> bytes:
    """Bytes of a file that is stored as a tensor of 8-bit integers."""
    info = checkpoint.header.tensors[name]
    if info.dtype not in ("U8", "I8"):
        raise CheckpointError(f"{checkpoint.path}: {name} is {info.dtype}, expected bytes (U8). Download it again.")
    value = checkpoint.arrays([name])[name]
    return np.array(value).astype(np.uint8).tobytes()


def check_kinds(tokenizer: bytes, source: Path) -> None:
    """Check the contents of ``tokenizer.json`` before they are handed on.

    Raises:
        CheckpointError: If it is no JSON, or has steps that Gemma's tokenizers do not have.
    """
    try:
        spec = parse_json(tokenizer)
    except ValueError as error:
        raise CheckpointError(f"{source} is damaged ({error}). Download it again.") from error
    model = spec.get("model") if isinstance(spec, dict) else None
    if not isinstance(model, dict):
        raise CheckpointError(f"{source} is damaged (it holds no model). Download it again.")
    if model.get("type", "BPE") != "BPE":
        raise CheckpointError(f"{source} is of another model: its tokenizer is not BPE, which Gemma's are.")
    for name in _UNUSED_SETTINGS:
        if model.get(name):
            raise CheckpointError(
                f"{source} is of another model: its tokens have a prefix or suffix, which Gemma's lack."
            )
    for part, kinds in _KINDS.items():
        value = spec.get(part)
        steps = [] if value is None else [value]
        if isinstance(value, dict) and value.get("type") == "Sequence":
            inside = value.get(_PARTS_OF_SEQUENCES.get(part, ""))
            # A value that is no list is no step of any kind.
            steps = inside if isinstance(inside, list) else [inside]
        for number, step in enumerate(steps):
            if number == _MAX_STEPS or not _is_known(kinds, step):
                raise CheckpointError(
                    f"{source} is of another model: its {part} has steps that Gemma's tokenizers lack."
                )


def _is_known(kinds: tuple[str, ...], step: Any) -> bool:
    """Whether a step is of one of the kinds, lets no text grow, and names no token that it does not have."""
    if not isinstance(step, dict) or step.get("type") not in kinds:
        return False
    match step:
        case {"type": "Lowercase" | "Punctuation" | "ByteFallback" | "Fuse" | "Strip"}:
            return True
        case {"type": "Prepend", "prepend": str(prepended)}:
            return len(prepended) == 1
        case {"type": "Replace", "pattern": {"String": str(text)}, "content": str(content)}:
            return len(content) <= len(text)
        case {"type": "Split", "pattern": {"String": str(text)}}:
            return text != ""
        case {"type": "TemplateProcessing", "single": list(pieces), "special_tokens": dict(tokens)}:
            for piece in pieces:
                special = piece.get("SpecialToken") if isinstance(piece, dict) else None
                name = special.get("id") if isinstance(special, dict) else special
                if name is not None and not (isinstance(name, str) and name in tokens):
                    return False
            return len(pieces) <= _MAX_STEPS
    return False
