"""Limits a tokenizer.json to the kinds of steps that Gemma's tokenizers have, none of which lets a text grow."""

from pathlib import Path
from typing import Any

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.outside import parse_json

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
    if any(model.get(name) for name in _UNUSED_SETTINGS):
        raise CheckpointError(f"{source} is of another model: its tokens have a prefix or suffix, which Gemma's lack.")
    for part, kinds in _KINDS.items():
        steps = _steps(spec.get(part), part)
        if len(steps) > _MAX_STEPS or not all(_is_known(step, kinds) for step in steps):
            raise CheckpointError(f"{source} is of another model: its {part} has steps that Gemma's tokenizers lack.")


def _steps(value: Any, part: str) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, dict) and value.get("type") == "Sequence":
        steps = value.get(_PARTS_OF_SEQUENCES.get(part, ""))
        # A value that is no list is no step of any kind.
        return steps if isinstance(steps, list) else [steps]
    return [value]


def _is_known(step: Any, kinds: tuple[str, ...]) -> bool:
    if not isinstance(step, dict) or step.get("type") not in kinds:
        return False
    pattern = step.get("pattern")
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if step["type"] == "TemplateProcessing":
        return _is_whole_template(step)
    if step["type"] == "Prepend":
        prepended = step.get("prepend")
        return isinstance(prepended, str) and len(prepended) == 1
    if step["type"] == "Replace":
        content = step.get("content")
        return isinstance(text, str) and isinstance(content, str) and len(content) <= len(text)
    return step["type"] != "Split" or (isinstance(text, str) and text != "")


def _is_whole_template(step: dict[str, Any]) -> bool:
    """Whether a template names no token that it does not have."""
    pieces, tokens = step.get("single"), step.get("special_tokens")
    if not isinstance(pieces, list) or not isinstance(tokens, dict) or len(pieces) > _MAX_STEPS:
        return False
    for piece in pieces:
        special = piece.get("SpecialToken") if isinstance(piece, dict) else None
        name = special.get("id") if isinstance(special, dict) else special
        if name is not None and not (isinstance(name, str) and name in tokens):
            return False
    return True
