"""Digests of files, of arrays, and of the facts that a result follows from."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX._version import __version__
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.ops.device import device

# Files up to this size are read whole, larger ones in samples spread over their length.
_WHOLE_BYTES = 64 * 2**20
_SAMPLE_BYTES = 2**20
_SAMPLES = 32
_MAX_FILES = 10_000
# A file that was just written may change again without another time: disks count in milliseconds.
_SETTLED_NANOSECONDS = 2 * 10**9
# A file's path below its folder, its size, and the nanosecond of its last change.
Stamp = tuple[str, int, int]
# Digests that this process has taken.
_taken: dict[tuple[Path, tuple[Stamp, ...]], str] = {}


def content_digest(path: str | Path) -> str:
    """The SHA-256 of a file's size and content, or of a folder's files with their names.

    Files above 64 MiB are sampled at 32 places of 1 MiB, the beginning and the end among them, so that a checkpoint of
    40 GB takes a moment. Copies have the same digest; neither names nor times of a file itself count.

    Raises:
        RequestError: If it cannot be read, or is no file and no folder of a few files.
    """
    path = Path(path)
    stamps = file_stamps(path)
    key = (path.absolute(), stamps)
    if key in _taken:
        return _taken[key]
    digest = hashlib.sha256()
    is_folder = path.is_dir()
    newest = 0
    try:
        for name, _, changed in stamps:
            newest = max(newest, changed)
            if is_folder:
                digest.update(name.encode())
            with (path / name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(str(size).encode())
                starts: Sequence[int] = range(0, size, _SAMPLE_BYTES)
                if size > _WHOLE_BYTES:
                    starts = [(size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1) for sample in range(_SAMPLES)]
                for start in starts:
                    file.seek(start)
                    digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}. Name another file.") from error
    if stamps and time.time_ns() - newest > _SETTLED_NANOSECONDS:
        _taken[key] = digest.hexdigest()
    return digest.hexdigest()


def file_stamps(path: Path) -> tuple[Stamp, ...]:
    """Size and time of a file, or of each of a folder's files, in order. Raises as ``content_digest`` does."""
    try:
        if not path.is_dir():
            # Devices and pipes have no end.
            if path.exists() and not path.is_file():
                raise RequestError(f"{path} is not a file. Name another one.")
            status = path.stat()
            return (("", status.st_size, status.st_mtime_ns),)
        # Not a whole disk.
        found = list(islice(path.rglob("*"), _MAX_FILES + 1))
        if len(found) > _MAX_FILES:
            raise RequestError(f"{path} holds more than {_MAX_FILES} files, so it is no model. Name another folder.")
        stamps = []
        for file in sorted(found):
            if file.is_file() and not file.name.startswith("._"):
                status = file.stat()
                stamps.append((file.relative_to(path).as_posix(), status.st_size, status.st_mtime_ns))
        return tuple(stamps)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}. Name another file.") from error


def digest_of(facts: Mapping[str, Any]) -> str:
    """A digest of facts, and of what computes: this library, MLX and its device."""
    mlx_version = mx.__version__  # type: ignore[attr-defined]
    machine = {"library": __version__, "mlx": mlx_version, "device": str(device())}
    return hashlib.sha256(json.dumps([machine, dict(facts)], sort_keys=True, default=str).encode()).hexdigest()


def sum_of(arrays: Mapping[str, mx.array]) -> str:
    """A digest of arrays with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)).tobytes())
    return digest.hexdigest()


def load_whole(path: Path) -> tuple[dict[str, mx.array], dict[str, str]] | None:
    """Arrays and metadata of a safetensors file whose ``sum`` is ``sum_of`` them, evaluated; None if it is damaged."""
    try:
        # Read at once: MLX would read a lazy array's bytes after the sum was taken.
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
        arrays: dict[str, mx.array]
        facts: dict[str, str]
        arrays, facts = loaded
        mx.eval(arrays)
        return (arrays, facts) if facts.get("sum") == sum_of(arrays) else None
    except Exception:
        # Whatever a damaged file makes the reader raise, the answer is the same.
        return None
