"""Frames that wait on disk, so that memory does not grow with a clip's length."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from LTX_2_MLX.errors import MediaError


class Spool:
    """Arrays of one shape and dtype in a temporary file that is gone when this is closed or forgotten."""

    def __init__(self, shape: tuple[int, ...], dtype: type = np.uint8, folder: Path | None = None):
        """``folder`` is where the file lies; None: the system's place for temporary files."""
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self._item_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by close)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, arrays: np.ndarray) -> None:
        """Keep ``(T, *shape)``.

        Raises:
            MediaError: If the disk is full.
        """
        try:
            self._file.seek(self._count * self._item_bytes)
            self._file.write(np.ascontiguousarray(arrays, self.dtype).data)
        except OSError as error:
            raise MediaError(
                f"The temporary file cannot grow beyond {self._count * self._item_bytes / 2**30:.1f} GiB: "
                f"{error.strerror}. Free some disk, or set TMPDIR to a larger one."
            ) from error
        self._count += len(arrays)

    def __getitem__(self, index: int) -> np.ndarray:
        """One array, a copy of its own."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        self._file.seek(index * self._item_bytes)
        return np.frombuffer(self._file.read(self._item_bytes), self.dtype).reshape(self.shape).copy()

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(self._count))

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the disk back."""
        self._file.close()


def spool_folder() -> Path:
    """Where temporary files go when no other place is given."""
    return Path(tempfile.gettempdir())
