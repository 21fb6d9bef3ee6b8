"""Run records: the command, its request and the library version, stored in a video's comment tag."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from LTX_2_MLX._version import __version__
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.source import open_media

_PROGRAM = "LTX-2-MLX"
_TAG = "comment"


def run_record(command: str, request: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata for a ``FrameStream`` from which the run can be repeated.

    Args:
        command: Name of the script, such as ``generate``.
        request: Options by name; values without a JSON form (paths, fractions) become text.
    """
    record = {"program": _PROGRAM, "version": __version__, "command": command, "request": dict(request)}
    return {_TAG: json.dumps(record, default=str)}


def read_run_record(path: str | Path, command: str) -> dict[str, Any]:
    """Read the request that a video was made with.

    Raises:
        MediaError: If the file cannot be read, or was made by another program or command.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"{path} does not exist. Give a video that this program wrote.")
    with open_media(path) as container:
        tags = {key.lower(): text for key, text in container.metadata.items()}
    try:
        record = json.loads(tags.get(_TAG, ""))
    except (json.JSONDecodeError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.get("program") != _PROGRAM or not isinstance(record.get("request"), dict):
        raise MediaError(f"{path} has no run record: {_PROGRAM} did not write it, or its tags were removed.")
    if record.get("command") != command:
        raise MediaError(
            f"{path} was made by {record.get('command')}, not by {command}. Give --replay to that command."
        )
    return record["request"]
