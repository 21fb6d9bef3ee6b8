"""Large safetensors headers, tensor by tensor: the whole JSON as objects would take many times its size."""

import json
import re
from collections.abc import Iterator
from typing import Any

from LTX_2_MLX.files import parse_object

METADATA = "__metadata__"
# A name, and an object of a dtype and two short lists of numbers.
_TENSOR = re.compile(
    r'\s*"[^"\\]*(?:\\.[^"\\]*)*"\s*:\s*\{[^\[\]{}]{1,200}\[[^\[\]{}]{0,400}\][^\[\]{}]{1,200}'
    r"\[[^\[\]{}]{0,400}\][^\[\]{}]{0,200}\}\s*([,}])"
)
_METADATA = re.compile(r'\s*"__metadata__"\s*:\s*')
_END = re.compile(r"\s*([,}])")
# How many tensors are parsed at once.
_TOGETHER = 2000
# Metadata of published files is below 100 kB.
_MAX_METADATA_LETTERS = 8_000_000


def header_entries(text: str) -> Iterator[tuple[str, Any]]:
    """Name and value of each entry of a header: tensors, and the metadata where they stand.

    Raises:
        ValueError: If it is no JSON object of tensors and metadata.
    """
    if text[:1] != "{":
        raise ValueError("it is not a JSON object")
    place, more = 1, True
    while more:
        end, last = _end_of_tensors(text, place)
        if last:
            yield from parse_object(f"{{{text[place : end - 1]}}}").items()
        else:
            value, end, last = _metadata(text, place)
            yield METADATA, value
        place, more = end, last == ","
    if text[place:].strip():
        raise ValueError("something follows it")


def _end_of_tensors(text: str, place: int) -> tuple[int, str]:
    """Where the next tensors end, up to some thousands, and the comma or bracket there; no letter without a tensor."""
    last = ""
    for _ in range(_TOGETHER):
        match = _TENSOR.match(text, place)
        if match is None:
            break
        place, last = match.end(), match[1]
        if last != ",":
            break
    return place, last


def _metadata(text: str, place: int) -> tuple[Any, int, str]:
    """The metadata, where they end, and the comma or bracket there."""
    start = _METADATA.match(text, place)
    if start is None:
        raise ValueError("an entry describes no tensor")
    value, length = _first_value(text[start.end() : start.end() + _MAX_METADATA_LETTERS])
    end = _END.match(text, start.end() + length)
    if end is None:
        raise ValueError("its metadata have no end")
    return value, end.end(), end[1]


def _first_value(text: str) -> tuple[Any, int]:
    """The JSON value at the beginning, and how many letters it takes."""
    try:
        return json.JSONDecoder().raw_decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
