"""Locks of folders against other processes, released when their holder is gone."""

import fcntl
import os
from pathlib import Path
from weakref import WeakValueDictionary

from LTX_2_MLX.errors import RequestError

# Runs in one process share a folder's lock.
_HELD: "WeakValueDictionary[str, FolderLock]" = WeakValueDictionary()


class FolderLock:
    """An open folder with a lock; the system releases it when the process ends, however it ends."""

    def __init__(self, folder: Path):
        """Take the lock.

        Raises:
            BlockingIOError: If another process holds it.
            OSError: If the folder cannot be opened or its disk has no locks.
        """
        self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._handle)
            self._handle = -1
            raise

    def __del__(self) -> None:
        if getattr(self, "_handle", -1) >= 0:
            os.close(self._handle)


def lock_folder(folder: Path) -> FolderLock:
    """Lock a folder for this process, until the returned object is dropped.

    Raises:
        RequestError: If another process has locked it.
        OSError: If the folder cannot be opened or its disk has no locks.
    """
    key = str(folder.resolve())
    lock = _HELD.get(key)
    if lock is None:
        try:
            lock = FolderLock(folder)
        except BlockingIOError as error:
            raise RequestError(
                f"{folder} is in use by another run. Wait for its end, or give --save-latents another folder."
            ) from error
        _HELD[key] = lock
    return lock
