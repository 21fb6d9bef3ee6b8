"""Writes a .safetensors file with one tensor in memory at a time."""

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.files import replaced_file

_DTYPES = {
    mx.bool_: "BOOL", mx.uint8: "U8", mx.int8: "I8", mx.uint16: "U16", mx.int16: "I16", mx.uint32: "U32",
    mx.int32: "I32", mx.uint64: "U64", mx.int64: "I64", mx.float16: "F16", mx.bfloat16: "BF16", mx.float32: "F32",
}  # fmt: skip
# The data begins at a multiple of this many bytes (huggingface/safetensors, safetensors/src/tensor.rs).
_ALIGNMENT = 8


def write_safetensors(
    path: Path,
    tensors: Mapping[str, tuple[mx.Dtype, tuple[int, ...]]],
    value: Callable[[str], mx.array],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a file under a temporary name and rename it when it is complete.

    Args:
        path: An existing file is replaced.
        tensors: Dtype and shape of each tensor by name, in the order in which they are written.
        value: Returns a tensor by name; called once for each, in order.
        metadata: Strings for the file's metadata, such as ``config``.

    Raises:
        CheckpointError: If the folder is missing, cannot be written to, or the disk is full.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start = end
        end = start + math.prod(shape) * dtype.size
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    try:
        with replaced_file(path) as temporary, temporary.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name, (dtype, shape) in tensors.items():
                array = value(name)
                assert array.dtype == dtype and array.shape == tuple(shape), name
                file.write(_bytes(array))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def _bytes(array: mx.array) -> bytes:
    # NumPy has no bfloat16, so its bits are taken as integers.
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array).tobytes()
