"""Weights read into the system's file cache before they are loaded, so that loading does not wait for the disk."""

import os
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from LTX_2_MLX.checkpoints.load import float8_scales, parameter_names, with_scales
from LTX_2_MLX.checkpoints.reader import Checkpoint, read_header
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import PublishedNetwork

# Read at once; the bytes are dropped, the system keeps them.
_PIECE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class FileSpan:
    """Consecutive bytes of a file, from ``start`` up to ``stop``."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True)
class StoredNetwork:
    """The tensors of a network on disk.

    Attributes:
        checkpoint: The files.
        network: Names the tensors; None: all of them.
    """

    checkpoint: Checkpoint
    network: type[PublishedNetwork[Any]] | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors on disk."""
        return sum(self.checkpoint.header.tensors[name].num_bytes for name in self._names())

    def spans(self) -> list[FileSpan]:
        """Where the tensors lie, file after file; neighbours are one span.

        Raises:
            CheckpointError: If a file has gone or changed.
        """
        names = self.checkpoint.stored_names(self._names())
        return [span for path, stored in names.items() for span in _file_spans(path, stored)]

    def _names(self) -> Collection[str]:
        if self.network is None:
            return self.checkpoint.header.tensors.keys()
        return with_scales(parameter_names(self.network, self.checkpoint), float8_scales(self.checkpoint))


def _file_spans(path: Path, names: Collection[str]) -> list[FileSpan]:
    tensors, _ = read_header(path)
    # Tensors fill the rest of the file without gaps, in the order of the header.
    stop = path.stat().st_size - sum(info.num_bytes for info in tensors.values())
    spans: list[FileSpan] = []
    for name, info in tensors.items():
        start, stop = stop, stop + info.num_bytes
        if name not in names:
            continue
        if spans and spans[-1].stop == start:
            start = spans.pop().start
        spans.append(FileSpan(path, start, stop))
    return spans


class Reading:
    """Reads spans of files in a thread of its own, from the first to the last, until it is stopped."""

    def __init__(self, spans: Iterable[FileSpan]):
        self.read_bytes = 0
        self._spans = spans
        self._stopped = threading.Event()
        # The program does not wait for it.
        self._thread = threading.Thread(target=self._read, name="read_ahead", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the piece that it reads."""
        self._stopped.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until all is read."""
        self._thread.join()

    def _read(self) -> None:
        piece = bytearray(_PIECE_BYTES)
        try:
            for span in self._spans:
                with span.path.open("rb", buffering=0) as file:
                    file.seek(span.start)
                    for left in _pieces(span.stop - span.start):
                        if self._stopped.is_set():
                            return
                        self.read_bytes += file.readinto(memoryview(piece)[:left]) or 0
        except (OSError, CheckpointError):
            # Loading meets the same error, and says what to do.
            return


def _pieces(num_bytes: int) -> Sequence[int]:
    whole, rest = divmod(num_bytes, _PIECE_BYTES)
    return [_PIECE_BYTES] * whole + [rest] * bool(rest)


def drop_from_cache(path: Path) -> bool:
    """Let the system forget what it has cached of a file; False where it cannot be asked to, as on macOS."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
