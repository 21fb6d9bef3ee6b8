"""Checkpoints to .safetensors: container and precision change, names and axis order never do."""

from pathlib import Path

import mlx.core as mx

from LTX_2_MLX.checkpoints.float8 import decode_e4m3
from LTX_2_MLX.checkpoints.load import float8_scales
from LTX_2_MLX.checkpoints.reader import Checkpoint, read_header
from LTX_2_MLX.checkpoints.torch_file import read_torch_file
from LTX_2_MLX.checkpoints.writer import write_safetensors
from LTX_2_MLX.errors import CheckpointError, OutputError

TORCH_SUFFIXES = (".pth", ".pkl", ".ckpt", ".pt", ".bin")
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_MLX_DTYPES = {
    "BOOL": mx.bool_, "U8": mx.uint8, "I8": mx.int8, "U16": mx.uint16, "I16": mx.int16, "U32": mx.uint32,
    "I32": mx.int32, "U64": mx.uint64, "I64": mx.int64, "F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32,
}  # fmt: skip
# Says of a converted file which file it was made from: name, bytes and time of change.
_ORIGIN = "converted_from"


def convert(source: str | Path, target: str | Path, *, dtype: mx.Dtype | None = None) -> Path:
    """Write a checkpoint as one .safetensors file.

    Args:
        source: A file of torch.save, a .safetensors file or a folder with the shards of one.
        target: Ends in ``.safetensors``; a file that is there is replaced.
        dtype: Floating-point tensors are cast to this, 8-bit floats decoded; None keeps every tensor's.

    Raises:
        CheckpointError: If the source cannot be read.
        OutputError: If the target cannot be written, or is the source.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise OutputError(f"{target} does not end in .safetensors, the format this writes.")
    if target.exists() and source.exists() and target.samefile(source):
        raise OutputError(f"{target} is the source itself. Give another --output.")
    if source.suffix in TORCH_SUFFIXES:
        return _write_torch(source, target, dtype)
    return _write_safetensors(Checkpoint(source), target, dtype)


def as_safetensors(path: Path) -> Path:
    """The file itself, or, for a file of torch.save, its conversion beside it, made on first use.

    Raises:
        CheckpointError: If the file cannot be read.
        OutputError: If there is no place for the conversion beside it.
    """
    if path.suffix not in TORCH_SUFFIXES:
        return path
    beside = path.with_name(f"{path.name}.safetensors")
    if beside.is_file() and path.is_file() and read_header(beside)[1].get(_ORIGIN) == _origin(path):
        return beside
    try:
        return convert(path, beside)
    except OutputError as error:
        raise OutputError(f"{error} Convert it first: scripts/convert_weights.py {path} --output FILE") from error


def _origin(path: Path) -> str:
    about = path.stat()
    return f"{path.name} {about.st_size} {about.st_mtime_ns}"


def _write_torch(source: Path, target: Path, dtype: mx.Dtype | None) -> Path:
    arrays = read_torch_file(source)
    kept = {name: _target(value.dtype, dtype) for name, value in arrays.items()}
    tensors = {name: (kept[name], value.shape) for name, value in arrays.items()}
    return write_safetensors(
        target, tensors, lambda name: arrays.pop(name).astype(kept[name]), {_ORIGIN: _origin(source)}
    )


def _write_safetensors(checkpoint: Checkpoint, target: Path, dtype: mx.Dtype | None) -> Path:
    header = checkpoint.header
    decoded = float8_scales(checkpoint) if dtype is not None else {}
    if dtype is None and (strange := [n for n, info in header.tensors.items() if info.dtype not in _MLX_DTYPES]):
        raise CheckpointError(
            f"{checkpoint.path}: {strange[0]} is {header.tensors[strange[0]].dtype}. Give --dtype to decode it."
        )
    used_up = {f"{n.removesuffix('weight')}{part}_scale" for n in decoded for part in ("weight", "input")}
    tensors = {
        name: (dtype if name in decoded else _target(_MLX_DTYPES[info.dtype], dtype), info.shape)
        for name, info in header.tensors.items()
        if name not in used_up
    }

    def value(name: str) -> mx.array:
        array = checkpoint.arrays([name])[name]
        if name in decoded:
            array = decode_e4m3(array, checkpoint.arrays([f"{name}_scale"])[f"{name}_scale"] if decoded[name] else None)
        return array.astype(tensors[name][0])

    return write_safetensors(target, tensors, value, header.metadata)


def _target(own: mx.Dtype, wanted: mx.Dtype | None) -> mx.Dtype:
    return wanted if wanted is not None and mx.issubdtype(own, mx.floating) else own
