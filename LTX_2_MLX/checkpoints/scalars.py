"""Single numbers and small adapters read straight from a file's bytes, in number formats that MLX does not read too."""

from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError

# NumPy has no bfloat16: its values are the upper halves of float32.
_NUMPY = {
    "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_MOST_BYTES = 4096


def read_scalars(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, float]:
    """Values of tensors that hold one number each, of any number format.

    Raises:
        CheckpointError: If a tensor is not one finite number.
    """
    values = {}
    for name, array in _numpy_arrays(checkpoint, names).items():
        value = float(array.reshape(-1)[0]) if array.size == 1 else float("nan")
        if not np.isfinite(value):
            raise CheckpointError(f"{checkpoint.path} is damaged: {name} is not one number.")
        values[name] = value
    return values


def read_arrays(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, mx.array]:
    """Arrays of an adapter; lazy, unless a 64-bit float in the file keeps MLX from opening it."""
    tensors = checkpoint.header.tensors
    if all(info.dtype != "F64" for info in tensors.values()):
        return checkpoint.arrays(names)
    arrays = _numpy_arrays(checkpoint, names)
    return {name: mx.array(array) for name, array in arrays.items()}


def _numpy_arrays(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Arrays by name; bfloat16 as float32."""
    arrays: dict[str, np.ndarray] = {}
    starts = _data_starts(checkpoint)
    for name in names:
        info = checkpoint.header.tensors[name]
        if info.dtype not in _NUMPY:
            raise CheckpointError(f"{checkpoint.path}: {name} is {info.dtype}, expected {', '.join(_NUMPY)}.")
        file, start = starts[name]
        count = info.num_bytes // np.dtype(_NUMPY[info.dtype]).itemsize
        try:
            array = np.fromfile(file, _NUMPY[info.dtype], count, offset=start)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error
        if info.dtype == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = array.reshape(info.shape)
    return arrays


def _data_starts(checkpoint: Checkpoint) -> dict[str, tuple[Path, int]]:
    """File of each tensor and the position of its first byte there."""
    names_by_file: dict[Path, list[str]] = {}
    for name in checkpoint.header.tensors:
        names_by_file.setdefault(checkpoint.file_of(name), []).append(name)
    starts = {}
    for file, names in names_by_file.items():
        # Tensors fill the end of the file without gaps, in the header's order.
        position = file.stat().st_size - sum(checkpoint.header.tensors[name].num_bytes for name in names)
        for name in names:
            starts[name] = (file, position)
            position += checkpoint.header.tensors[name].num_bytes
    return starts


def read_bytes(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, bytes]:
    """Bytes of small tensors, such as settings that ComfyUI writes as text."""
    starts = _data_starts(checkpoint)
    contents = {}
    for name in names:
        file, start = starts[name]
        # A setting is a line of JSON; more is none.
        count = min(checkpoint.header.tensors[name].num_bytes, _MOST_BYTES)
        contents[name] = np.fromfile(file, np.uint8, count, offset=start).tobytes()
    return contents
