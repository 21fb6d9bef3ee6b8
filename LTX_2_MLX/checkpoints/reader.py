"""Safetensors files to a header and lazy arrays.

A header is checked in full (JSON, dtypes, shapes, offsets, file size) before a tensor is read, so that
a truncated or damaged file is one clear error. Knows nothing of networks.
"""

import json
import math
import struct
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import mlx.core as mx

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header, TensorInfo

# Bytes per element of the format's dtypes (huggingface/safetensors, safetensors/src/tensor.rs).
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
# The format's own limit on the size of a header.
_MAX_HEADER_BYTES = 100_000_000


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors and metadata of one .safetensors file.

    Raises:
        CheckpointError: If the file is missing, is not safetensors, or is damaged or cut short.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist. Give the path of a .safetensors file.")
    file_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise CheckpointError(f"{path} has {file_bytes} bytes, too few for a safetensors file.")
            (header_bytes,) = struct.unpack("<Q", prefix)
            if header_bytes > min(_MAX_HEADER_BYTES, file_bytes - 8):
                raise CheckpointError(_not_safetensors(path, file_bytes))
            text = file.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        entries = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(_not_safetensors(path, file_bytes)) from error
    if not isinstance(entries, dict):
        raise CheckpointError(_not_safetensors(path, file_bytes))
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path} is damaged: its metadata is not a map of strings. Download it again.")
    return _tensors(path, entries, file_bytes - 8 - header_bytes), metadata


def _not_safetensors(path: Path, file_bytes: int) -> str:
    return (
        f"{path} ({file_bytes} bytes) is not a readable safetensors file: it is of another format, damaged or cut "
        f"short. Download it again, or turn a .pth, .pkl or .ckpt file into one with scripts/convert_weights.py."
    )


def _tensors(path: Path, entries: dict, data_bytes: int) -> dict[str, TensorInfo]:
    tensors, end = {}, 0
    try:
        spans = sorted((*entry["data_offsets"], name) for name, entry in entries.items())
        for start, stop, name in spans:
            shape, dtype = tuple(entries[name]["shape"]), entries[name]["dtype"]
            if dtype not in _ITEM_BYTES:
                raise CheckpointError(f"{path}: tensor {name} has the unknown dtype {dtype!r}.")
            whole = all(isinstance(n, int) and n >= 0 for n in (start, stop, *shape))
            num_bytes = math.prod(shape) * _ITEM_BYTES[dtype] if whole else -1
            if start != end or stop - start != num_bytes:
                raise CheckpointError(f"{path} is damaged: the header is wrong about tensor {name}. Download it again.")
            tensors[name] = TensorInfo(shape=shape, dtype=dtype, num_bytes=num_bytes)
            end = stop
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its header does not describe tensors. Download it again.") from error
    if end != data_bytes:
        raise CheckpointError(
            f"{path} is cut short or damaged: its header promises {end} bytes of tensors, the file has {data_bytes}. "
            f"Download it again."
        )
    return tensors


class Checkpoint:
    """One published checkpoint: a .safetensors file, or several that belong together.

    Attributes:
        path: The file or folder as given, for messages.
        files: The .safetensors files, in order.
        header: Tensors, metadata and config of all files joined.
    """

    def __init__(self, path: str | Path):
        """Read the header of a file, or of every shard in a folder.

        Raises:
            CheckpointError: If nothing readable is there, or two shards hold the same tensor.
        """
        self.path = Path(path)
        self.files = sorted(self.path.glob("*.safetensors")) if self.path.is_dir() else [self.path]
        if not self.files:
            raise CheckpointError(f"{self.path} holds no .safetensors file. Give a file, or a folder with the shards.")
        tensors: dict[str, TensorInfo] = {}
        metadata: dict[str, str] = {}
        self._file_of: dict[str, Path] = {}
        for file in self.files:
            found, extra = read_header(file)
            if twice := sorted(found.keys() & tensors.keys()):
                raise CheckpointError(f"{self.path}: {file.name} holds tensor {twice[0]} a second time.")
            tensors |= found
            metadata |= extra
            self._file_of |= dict.fromkeys(found, file)
        self.header = Header(tensors=tensors, metadata=metadata, config=self._config(metadata))

    def _config(self, metadata: dict[str, str]) -> dict:
        try:
            config = json.loads(metadata.get("config", "{}"))
        except (json.JSONDecodeError, RecursionError) as error:
            raise CheckpointError(f"{self.path}: the config in its metadata is not JSON ({error}).") from error
        if not isinstance(config, dict):
            raise CheckpointError(f"{self.path}: the config in its metadata is not a JSON object.")
        return config

    def arrays(self, names: Iterable[str]) -> dict[str, mx.array]:
        """Lazy arrays by published name and in published axis order; bytes are read when one is evaluated.

        F8 tensors come as uint8, the bytes as they are.
        """
        return {name: self._lazy[self._file_of[name]][name] for name in names}

    @cached_property
    def _lazy(self) -> dict[Path, dict[str, mx.array]]:
        try:
            return {file: mx.load(str(file)) for file in self.files}
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{self.path} cannot be read: {error}") from error
