"""Files that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.probe import reason


def check_writable(path: str | Path) -> Path:
    """The path, if a file can be written there.

    Raises:
        MediaError: If its folder is missing, none or read-only, the path is a folder, or the name is too long.
    """
    path = Path(path)
    folder = path.parent
    # Those of pathlib raise where a name is too long.
    if os.path.isdir(path):
        raise MediaError(f"{path} is a folder. Give the name of a file in it.")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise MediaError(f"{folder} is a file, not a folder. Choose a folder for {path.name}.")
    if not os.path.isdir(folder):
        raise MediaError(f"The folder {folder} does not exist. Make it first: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(f"The folder {folder} is read-only. Choose another one for {path.name}.")
    given, most = len(os.fsencode(path.name)), os.pathconf(folder, "PC_NAME_MAX")
    if given > most:
        raise MediaError(f"The name {path.name[:20]}… has {given} bytes, its disk takes {most}. Choose a shorter one.")
    return path


def free_bytes(path: str | Path) -> int:
    """Free disk space where ``path`` is or will be."""
    folder = Path(path).resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_free(path: str | Path, needed_bytes: int) -> None:
    """Raise ``MediaError`` if there is less free disk space where ``path`` will be than ``needed_bytes``."""
    free = free_bytes(path)
    if free < needed_bytes:
        raise MediaError(
            f"{path} needs about {needed_bytes / 2**20:.0f} MiB of disk, {free / 2**20:.0f} MiB are free there. "
            f"Make room, or choose another disk."
        )


@contextmanager
def made_folder(folder: str | Path) -> Iterator[Path]:
    """A folder, made where it is missing; it is removed again if nothing has come into it when the block ends.

    Raises:
        MediaError: If it cannot be made; the one above it has to be there.
    """
    folder = Path(folder)
    missing = not os.path.isdir(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise MediaError(f"The folder {folder} cannot be made: {reason(error)}.") from error
    try:
        yield folder
    finally:
        if missing and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def replaced_when_complete(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path``; the file gets its final name when the block ends well, else it is removed.

    Raises:
        MediaError: If the folder cannot be written to or the disk is full.
    """
    path = check_writable(path)
    # Absolute, since FFmpeg takes a relative "a:b.mp4" for a protocol; short, since a letter may take four bytes.
    temporary = path.absolute().with_name(f".{path.stem[:40]}.{os.getpid()}.partial{path.suffix}")
    try:
        # Fails here, and not after an hour of work, where the system refuses what its flags promise.
        temporary.touch()
        yield temporary
        os.replace(temporary, path)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path} cannot be written: {reason(error)}. {free_bytes(path.parent) / 2**20:.0f} MiB are free there."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
