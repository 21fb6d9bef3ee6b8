"""JSON, numbers, paths and texts from files of others: read within limits or refused, and printed without controls."""

import errno
import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

NumberT = TypeVar("NumberT")
# Longest text of a number: 10 to the power of a billion takes seven letters and all memory.
MAX_NUMBER_LETTERS = 20
_SMALLEST = 1e-12
# Gemma's tokenizer.json has 33 MB.
_MAX_SMALL_BYTES = 200_000_000
# Of Linux; macOS has less for whole paths, and as much for names.
_MAX_PATH_BYTES, _MAX_NAME_BYTES = 4096, 255
_MAX_FAILURE_LETTERS = 200
# A list of missing tensors is longer than any name in it.
MAX_LETTERS = 4000


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; NaN, infinities, repeated names and very deep nesting are refused.

    Raises:
        ValueError: If ``text`` is not such JSON.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        return _DECODER.decode(text)
    except (RecursionError, MemoryError) as error:
        raise ValueError(failure(error)) from error


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object, as ``parse_json`` does.

    Raises:
        ValueError: If ``text`` is no such object.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items = dict(pairs)
    if len(items) != len(pairs):
        raise ValueError("it holds a name twice")
    return items


def _no_constant(text: str) -> None:
    raise ValueError(f"it holds {text}")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def read_small_file(path: Path) -> bytes:
    """The content of a file of settings; a device or pipe, which has no end, is none.

    Raises:
        OSError: If it cannot be read, or is no file, or is larger than any such file.
    """
    if not path.is_file():
        raise OSError(errno.EINVAL if exists(path) else errno.ENOENT, "not a file" if exists(path) else "no such file")
    if path.stat().st_size > _MAX_SMALL_BYTES:
        raise OSError(errno.EFBIG, "too large for a file of settings")
    return path.read_bytes()


def number(text: str, kind: Callable[[str], NumberT]) -> NumberT:
    """The number that a text of bounded length stands for.

    Raises:
        ValueError: If it is none, or longer.
    """
    if len(text) > MAX_NUMBER_LETTERS:
        raise ValueError(f"a number of {len(text)} letters")
    return kind(text)


def fraction(value: float | str) -> Fraction:
    """The fraction that a number, or a text such as ``24000/1001``, stands for.

    Raises:
        ValueError: If it is none, or 0, or out of the range of any rate.
        ZeroDivisionError: If its denominator is 0.
    """
    text = str(value)
    if len(text) > MAX_NUMBER_LETTERS:
        raise ValueError(f"a number of {len(text)} letters")
    top, _, bottom = text.partition("/")
    # Judged as floats first: the fraction of 1e99999999 is never done.
    size = float(top) / float(bottom or "1")
    if not _SMALLEST < abs(size) < 1 / _SMALLEST:
        raise ValueError("a fraction that is 0 or out of range")
    return Fraction(text)


def path_fault(text: str) -> str:
    """Why a text cannot be the path of a file at all, and what to do; empty where it can."""
    try:
        name = os.fsencode(text)
    except UnicodeEncodeError:
        return "it is not UTF-8. Give the name anew"
    if b"\0" in name:
        return "it has a null byte. Give the name anew"
    longest = max(map(len, name.split(b"/")))
    if longest > _MAX_NAME_BYTES:
        return f"a name in it has {longest} bytes, disks allow {_MAX_NAME_BYTES}. Choose a shorter one"
    if len(name) >= _MAX_PATH_BYTES:
        return f"it has {len(name)} bytes, systems allow {_MAX_PATH_BYTES}. Choose a shorter one"
    return ""


def exists(path: str | Path) -> bool:
    """Whether a recorded path leads to something; one that no file can have does not."""
    try:
        return os.path.exists(path)
    except (OSError, ValueError):
        return False


def failure(error: BaseException) -> str:
    """What a reader of somebody else's ran into, in one line: exhausted memory, endless nesting, or its own words."""
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(str(error).split())[:_MAX_FAILURE_LETTERS].rstrip(".")
    return text or type(error).__name__


def printable(text: str, max_letters: int = MAX_LETTERS, *, newlines: bool = False) -> str:
    """Return text without characters that control a terminal, cut where it is long.

    Args:
        text: Anything, such as a name in a stranger's file.
        max_letters: Letters of the text that are shown.
        newlines: Keep line breaks; else they are escapes as well, so that no file can print a line of its own.
    """
    shown = []
    for letter in text[:max_letters]:
        # Bidirectional controls, lone surrogates and the C1 range are not printable either.
        is_shown = letter.isprintable() or (newlines and letter == "\n")
        shown.append(letter if is_shown else letter.encode("unicode_escape", "backslashreplace").decode("ascii"))
    if len(text) > max_letters:
        shown.append("…")
    return "".join(shown)
