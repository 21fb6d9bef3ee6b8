"""Downloads of named files when they are first used. A command allows them; by default nothing is downloaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from LTX_2_MLX.checkpoints.entries import Entry

# Fetches the files of an entry, or raises an error that says how to get them.
Obtain = Callable[["Entry"], None]
_OBTAIN: ContextVar[Obtain | None] = ContextVar("obtain", default=None)


@contextmanager
def downloads(obtain: Obtain) -> Iterator[None]:
    """Allow downloads on first use inside this context."""
    token = _OBTAIN.set(obtain)
    try:
        yield
    finally:
        _OBTAIN.reset(token)


def obtain(entry: "Entry") -> bool:
    """Download the files of an entry if that is allowed; returns whether it was.

    Raises:
        DownloadError: If it is allowed and fails, or the user refuses.
    """
    fetch = _OBTAIN.get()
    if fetch is None or entry.family == "demo":
        return False
    fetch(entry)
    return True
