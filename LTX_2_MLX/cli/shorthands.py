"""Shorthands of the command line: a random seed, a prompt from standard input, a name for the output."""

import re
import secrets
import sys
from itertools import count
from pathlib import Path
from typing import Any

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.suffixes import STILL_SUFFIXES

RANDOM = "random"
STDIN = "-"
# Outputs without a name of their own.
NAME_TEMPLATE = Path("gens/<prompt>-<seed>.mp4")
_SEED_FLAG = "--seed"
_LONGEST_NAME = 60


def with_each_seed(words: list[str]) -> list[str]:
    """Command-line words with ``--seed 1 2 3`` as ``--seed 1 --seed 2 --seed 3``."""
    settled: list[str] = []
    follows = False
    for index, word in enumerate(words):
        if word == "--":
            return settled + words[index:]
        is_seed = (word.isascii() and word.isdigit()) or word == RANDOM
        if follows and is_seed and words[index - 1] != _SEED_FLAG:
            settled.append(_SEED_FLAG)
        follows = word == _SEED_FLAG or word.startswith(f"{_SEED_FLAG}=") or (follows and is_seed)
        settled.append(word)
    return settled


def with_random_seed(words: list[str]) -> list[str]:
    """Command-line words with ``--seed random`` replaced by a number, which records and names then hold."""
    settled = list(words)
    for index, word in enumerate(words):
        if word == "--":
            break
        if word == f"{_SEED_FLAG}={RANDOM}":
            settled[index] = f"{_SEED_FLAG}={secrets.randbits(32)}"
        elif word == RANDOM and index and words[index - 1] == _SEED_FLAG:
            settled[index] = str(secrets.randbits(32))
    return settled


def prompt_from_stdin() -> str:
    """The prompt on standard input.

    Raises:
        RequestError: If there is none, or it is not UTF-8.
    """
    try:
        prompt = sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise RequestError("The prompt on standard input is not UTF-8.") from error
    if not prompt:
        raise RequestError("There is no prompt on standard input, which - as the prompt reads.")
    return prompt


def with_one_frame(typed: dict[str, Any], output: Path) -> dict[str, Any]:
    """The typed options, with one frame where the output is a still image.

    Raises:
        RequestError: If another length was typed.
    """
    if output.suffix.lower() not in STILL_SUFFIXES:
        return typed
    if typed.get("frames", 1) != 1 or "duration" in typed:
        raise RequestError(f"{output} holds one frame. Leave out the length, or write .mp4, or .webp for a short loop.")
    return typed | {"frames": 1}


def default_output(prompt: str, seed: int) -> Path:
    """``gens/<prompt>-<seed>.mp4``, numbered where that exists."""
    words = re.findall(r"\w+", prompt.lower())
    name = "-".join(words)[:_LONGEST_NAME].strip("-_") or "video"
    # Names of files may have 255 bytes, and letters up to four.
    name = name.encode()[: 3 * _LONGEST_NAME].decode(errors="ignore")
    path = NAME_TEMPLATE.parent / f"{name}-{seed}.mp4"
    for number in count(2):
        if not path.exists():
            break
        path = NAME_TEMPLATE.parent / f"{name}-{seed}-{number}.mp4"
    return path
