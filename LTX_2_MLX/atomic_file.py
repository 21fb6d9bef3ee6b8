"""Files that appear whole or not at all: the one way in which the library writes."""

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

# Temporary files of this process that are being written.
_unfinished: set[Path] = set()
_WRITES: ContextVar[bool] = ContextVar("writes", default=True)
# Whether files that are written stay.
KEEPS_WRITES: ContextVar[bool] = ContextVar("keeps", default=True)


@contextmanager
def without_writing() -> Iterator[None]:
    """Let every write inside the block fail with ``OSError``, as a dry run promises."""
    token = _WRITES.set(False)
    try:
        yield
    finally:
        _WRITES.reset(token)


@contextmanager
def without_keeping() -> Iterator[None]:
    """Let every write inside the block succeed and leave nothing: another process of the run writes the same."""
    token = KEEPS_WRITES.set(False)
    try:
        yield
    finally:
        KEEPS_WRITES.reset(token)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to it when the block succeeds and removed otherwise.

    Of two writers of one path, the last that is complete is kept. A link at ``path`` is replaced, not followed.

    Raises:
        OSError: If the folder cannot be written to or the disk is full.
    """
    if not _WRITES.get():
        raise OSError(errno.EROFS, "a dry run writes nothing", str(path))
    # Absolute, since FFmpeg reads a relative "a:b.mp4" as a protocol; short, since a character may take four bytes.
    folder = path.absolute().parent if KEEPS_WRITES.get() else Path(tempfile.gettempdir())
    temporary = folder / f".{path.stem[:40]}.{secrets.token_hex(6)}.partial{path.suffix}"
    # Before it is there, since a signal may come in between.
    _unfinished.add(temporary)
    try:
        # Links are not followed.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        if KEEPS_WRITES.get():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def remove_unfinished() -> None:
    """Remove this process's temporary files, before it ends without the chance to do so itself."""
    for temporary in list(_unfinished):
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file; it appears when it is complete.

    Raises:
        OSError: If the folder cannot be written to or the disk is full.
    """
    with replaced_file(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
