"""Arrays in a temporary file, so that memory does not grow with a clip's length."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from LTX_2_MLX.errors import MediaError


class Spool:
    """A list of arrays of one shape and dtype in a temporary file, which is deleted on close."""

    def __init__(self, shape: tuple[int, ...], dtype: type = np.uint8, folder: Path | None = None):
        """Create an empty spool in ``folder``; None means the system's folder for temporary files."""
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self._item_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by close)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, arrays: np.ndarray) -> None:
        """Append ``(T, *shape)``.

        Raises:
            MediaError: If the disk is full.
        """
        try:
            self._file.seek(self._length * self._item_bytes)
            self._file.write(np.ascontiguousarray(arrays, self.dtype).data)
        except OSError as error:
            raise MediaError(
                f"The temporary file cannot grow beyond {self._length * self._item_bytes / 2**30:.1f} GiB: "
                f"{error.strerror}. Free some disk, or set TMPDIR to a larger one."
            ) from error
        self._length += len(arrays)

    def __getitem__(self, index: int) -> np.ndarray:
        """One array, as a copy."""
        if not 0 <= index < self._length:
            raise IndexError(index)
        self._file.seek(index * self._item_bytes)
        return np.frombuffer(self._file.read(self._item_bytes), self.dtype).reshape(self.shape).copy()

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(self._length))

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


def spool_folder() -> Path:
    """The system's folder for temporary files."""
    return Path(tempfile.gettempdir())
