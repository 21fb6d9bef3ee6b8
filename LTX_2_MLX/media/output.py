"""Writable paths, free disk space, files that appear whole or not at all, and one that keeps nothing."""

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from LTX_2_MLX.atomic_file import KEEPS_WRITES, replaced_file
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.source import reason


def check_writable(path: str | Path) -> Path:
    """Return the path if a file can be written there.

    Raises:
        MediaError: If its folder is missing, no folder or read-only, the path is a folder, or the name too long.
    """
    path = Path(path)
    folder = path.parent
    if not KEEPS_WRITES.get():
        return path
    # The methods of pathlib raise if a name is too long.
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

    Raises:
        MediaError: If it cannot be created; its parent must exist.
    """
    folder = Path(folder)
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


class NullFile(io.RawIOBase):
    """A file that forgets what is written; muxers can seek in it."""

    def __init__(self) -> None:
        super().__init__()
        self._position = 0
        self._size = 0

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Take the bytes."""
        self._position += len(data)
        self._size = max(self._size, self._position)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Position within the file."""
        return self._position
