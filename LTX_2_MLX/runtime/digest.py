"""Digests of files, which distinguish files of the same name."""

import hashlib
import os
from itertools import islice
from pathlib import Path

from LTX_2_MLX.errors import RequestError

# Files up to this size are read whole, larger ones in samples spread over their length.
_WHOLE_BYTES = 64 * 2**20
_SAMPLE_BYTES = 2**20
_SAMPLES = 32
_MAX_FILES = 10_000


def content_digest(path: str | Path) -> str:
    """The SHA-256 of a file's size and content, or of a folder's files with their names.

    Files above 64 MiB are sampled at 32 places of 1 MiB, the beginning and the end among them, so that a checkpoint of
    40 GB takes a moment. Copies have the same digest; neither names nor times of a file itself count.

    Raises:
        RequestError: If it cannot be read, or is no file and no folder of a few files.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        if not path.is_dir():
            _add_file(digest, path)
            return digest.hexdigest()
        # Not a whole disk.
        found = list(islice(path.rglob("*"), _MAX_FILES + 1))
        if len(found) > _MAX_FILES:
            raise RequestError(f"{path} holds more than {_MAX_FILES} files, so it is no model. Name another folder.")
        for file in sorted(found):
            if file.is_file() and not file.name.startswith("._"):
                digest.update(file.relative_to(path).as_posix().encode())
                _add_file(digest, file)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}. Name another file.") from error
    return digest.hexdigest()


def _add_file(digest: "hashlib._Hash", path: Path) -> None:
    # Devices and pipes have no end.
    if path.exists() and not path.is_file():
        raise RequestError(f"{path} is not a file. Name another one.")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(str(size).encode())
        if size <= _WHOLE_BYTES:
            while chunk := file.read(_SAMPLE_BYTES):
                digest.update(chunk)
            return
        for sample in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
