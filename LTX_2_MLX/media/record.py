"""What a film says of how it was made: the command, its request and the library's version, in its comment tag."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from LTX_2_MLX._version import __version__
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.probe import open_media

_PROGRAM = "LTX-2-MLX"
_TAG = "comment"


def run_record(command: str, request: Mapping[str, Any]) -> dict[str, str]:
    """Metadata for a ``FrameStream``: how to make the same film again.

    Args:
        command: The script's name, such as ``generate``.
        request: Its options by name; values that JSON has no form for (paths, fractions) become text.
    """
    facts = {"program": _PROGRAM, "version": __version__, "command": command, "request": dict(request)}
    return {_TAG: json.dumps(facts, default=str)}


def read_run_record(path: str | Path, command: str) -> dict[str, Any]:
    """The request that a film was made with.

    Raises:
        MediaError: If the file cannot be read, was not made by this program, or by another command.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"{path} does not exist. Give a film that this program wrote.")
    with open_media(path) as container:
        tags = {key.lower(): text for key, text in container.metadata.items()}
    try:
        facts = json.loads(tags.get(_TAG, ""))
    except (json.JSONDecodeError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or facts.get("program") != _PROGRAM or not isinstance(facts.get("request"), dict):
        raise MediaError(f"{path} does not say how it was made: {_PROGRAM} did not write it, or its tags were removed.")
    if facts.get("command") != command:
        raise MediaError(f"{path} was made by {facts.get('command')}, not by {command}. Give --replay to that command.")
    return facts["request"]
