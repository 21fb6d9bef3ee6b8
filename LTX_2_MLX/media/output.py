"""Output files: writable paths, free disk space, files that appear whole or not at all, and records of runs in them.

A run record holds the command, its settled request, files and versions, in a video's comment tag.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

from LTX_2_MLX._version import __version__
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.files import KEEPS_WRITES, parse_json, replaced_file
from LTX_2_MLX.media.source import open_media, reason
from LTX_2_MLX.media.suffixes import IMAGE_OUTPUTS

_PROGRAM = "LTX-2-MLX"
_TAG = "comment"
# Where the record goes if the user's own comment is in the first.
_TAGS = (_TAG, "description", "synopsis")


def check_writable(path: str | Path, source: Path | None = None) -> Path:
    """Return the path if a file can be written there that is not ``source``, the file that is read.

    Raises:
        MediaError: If its folder is missing, no folder or read-only, the path is a folder or ``source``, or the name
            too long.
    """
    path = Path(path)
    folder = path.parent
    # The methods of pathlib raise if a name is too long.
    if source is not None and os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise MediaError(f"{path} is the input itself. Give --output another name.")
    if not KEEPS_WRITES.get():
        return path
    if os.path.isdir(path):
        raise MediaError(f"{path} is a folder. Give the name of a file in it.")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise MediaError(f"{folder} is a file, not a folder. Choose a folder for {path.name}.")
    if not os.path.isdir(folder):
        raise MediaError(f"The folder {folder} does not exist. Make it first: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(f"The folder {folder} is read-only. Choose another one for {path.name}.")
    num_bytes = len(os.fsencode(path.name))
    max_bytes = os.pathconf(folder, "PC_NAME_MAX")
    if num_bytes > max_bytes:
        raise MediaError(
            f"The name {path.name[:20]}… has {num_bytes} bytes, the disk allows {max_bytes}. Choose a shorter one."
        )
    return path


def free_bytes(path: str | Path) -> int:
    """Return the free disk space where ``path`` is or will be."""
    folder = Path(path).resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_free(path: str | Path, needed_bytes: int) -> None:
    """Raise ``MediaError`` if fewer than ``needed_bytes`` are free on the disk of ``path``."""
    if not KEEPS_WRITES.get():
        return
    free = free_bytes(path)
    if free < needed_bytes:
        raise MediaError(
            f"{path} needs about {needed_bytes / 2**20:.0f} MiB of disk, {free / 2**20:.0f} MiB are free there. "
            f"Make room, or choose another disk."
        )


@contextmanager
def made_folder(folder: str | Path) -> Iterator[Path]:
    """Create a folder if it is missing; a created one is removed again if it is empty when the block ends.

    A process that keeps no files makes none.

    Raises:
        MediaError: If it cannot be created; its parent must exist.
    """
    folder = Path(folder)
    if not KEEPS_WRITES.get():
        # Another process of the run makes it.
        yield folder
        return
    missing = not os.path.isdir(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise MediaError(f"The folder {folder} cannot be created: {reason(error)}.") from error
    try:
        yield folder
    finally:
        if missing and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def replaced_when_complete(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to it when the block succeeds and removed otherwise.

    Raises:
        MediaError: If the folder cannot be written to or the disk is full.
    """
    path = check_writable(path)
    try:
        with replaced_file(path) as temporary:
            yield temporary
    except (av.FFmpegError, OSError) as error:
        free = ""
        if error.errno == errno.ENOSPC:
            free = f" {free_bytes(path.parent) / 2**20:.0f} MiB are free there."
        raise MediaError(f"{path} cannot be written: {reason(error)}.{free}") from error


@dataclass(frozen=True)
class RunRecord:
    """The request of a run.

    Attributes:
        request: Options by name, with every default settled and every file as an absolute path.
        files: Digest of each file by its path; None: an earlier version, which recorded none.
        automatic: Options that the run settled by itself.
        source: The video or folder that holds the record.
    """

    request: Mapping[str, Any]
    files: Mapping[str, str] | None = None
    automatic: tuple[str, ...] = ()
    source: Path = field(default_factory=Path)

    def as_json(self) -> dict[str, Any]:
        """The record as values that JSON has a form for."""
        facts = {"request": dict(self.request), "files": dict(self.files or {}), "automatic": list(self.automatic)}
        as_text: dict[str, Any] = parse_json(json.dumps(facts, default=str))
        return as_text


def run_record(
    command: str,
    request: Mapping[str, Any],
    *,
    beside: Mapping[str, str] | None = None,
    note: Callable[[str], None] | None = None,
    **facts: Any,
) -> dict[str, str]:
    """Return metadata for a ``FrameStream`` from which the run can be repeated.

    Args:
        command: Name of the script, such as ``generate``.
        request: Options by name; values without a JSON form (paths, fractions) become text.
        beside: Tags of the source, which are kept. The record goes into the first of ``_TAGS`` that is free: a record
            of this program is replaced, a user's text never.
        note: Gets a line where none is free.
        **facts: Further facts of the run, such as the digests of its files.
    """
    record = {"program": _PROGRAM, "version": __version__, "command": command, "request": dict(request), **facts}
    tags = dict(beside or {})
    for tag in _TAGS:
        if tag not in tags or _parsed(tags[tag]) is not None:
            return {**tags, tag: json.dumps(record, default=str)}
    if note is not None:
        note(f"The record of this run is not kept: {', '.join(_TAGS)} of the source hold text of yours.")
    return tags


def _parsed(text: str) -> dict[str, Any] | None:
    """A record of this program; None for other text."""
    try:
        record = parse_json(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.get("program") == _PROGRAM else None


def read_run_record(path: str | Path, command: str) -> RunRecord:
    """Read the record of the run that a video was made by.

    Raises:
        MediaError: If the file cannot be read, or was made by another program or command.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MediaError(f"{path} does not exist. Give a video that this program wrote.")
    tags = _tags(path)
    record = next(filter(None, (_parsed(tags.get(tag, "")) for tag in _TAGS)), None)
    if record is None:
        raise MediaError(f"{path} has no run record: {_PROGRAM} did not write it, or its tags were removed.")
    if record.get("command") != command:
        raise MediaError(
            f"{path} was made by {record.get('command')}, not by {command}. Give --replay to that command."
        )
    return record_from(record, path)


def _tags(path: Path) -> dict[str, str]:
    """Tags of a video by lower-case name; of an image its comment."""
    if path.suffix.lower() in IMAGE_OUTPUTS:
        from LTX_2_MLX.media.image_formats import read_comment

        return {_TAG: read_comment(path)}
    with open_media(path) as container:
        return {key.lower(): text for key, text in container.metadata.items()}


def record_from(facts: Mapping[str, Any], source: Path) -> RunRecord:
    """A record from parsed JSON.

    Raises:
        MediaError: If the JSON is no record.
    """
    request = facts.get("request")
    files = facts.get("files")
    automatic = facts.get("automatic", [])
    if not isinstance(request, dict) or not isinstance(automatic, list) or not isinstance(files, dict | None):
        raise MediaError(f"The run record of {source} is damaged. Make the request again.")
    return RunRecord(request, files, tuple(str(name) for name in automatic), source)
