"""Checkpoints to .safetensors: container, precision and quantisation change, names and axis order never do."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

from LTX_2_MLX.checkpoints.float8 import decode_e4m3
from LTX_2_MLX.checkpoints.gemma3 import Gemma
from LTX_2_MLX.checkpoints.network_weights import float8_scales
from LTX_2_MLX.checkpoints.quantize import Quantization, is_quantized, layers_to_quantize
from LTX_2_MLX.checkpoints.reader import Checkpoint, parse_json, read_header
from LTX_2_MLX.checkpoints.torch_file import TORCH_SUFFIXES, read_torch_file
from LTX_2_MLX.checkpoints.writer import write_safetensors
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.ltx.transformer import Transformer

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_MLX_DTYPES = {
    "BOOL": mx.bool_, "U8": mx.uint8, "I8": mx.int8, "U16": mx.uint16, "I16": mx.int16, "U32": mx.uint32,
    "I32": mx.int32, "U64": mx.uint64, "I64": mx.int64, "F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32,
}  # fmt: skip
# Says of a converted file which file it was made from: name, bytes and time of change.
_ORIGIN = "converted_from"


def convert(
    source: str | Path, target: str | Path, *, dtype: mx.Dtype | None = None, quantize: Quantization | None = None
) -> Path:
    """Write a checkpoint as one .safetensors file, with one tensor in memory at a time.

    Args:
        source: A file of torch.save, a .safetensors file or a folder with the shards of one.
        target: Ends in ``.safetensors``; a file that is there is replaced. A folder that a language model in
            few bits goes to has no such ending.
        dtype: Floating-point tensors are cast to this, 8-bit floats decoded; None keeps every tensor's.
        quantize: Put the layers that its network says may be in few bits.

    Raises:
        CheckpointError: If the source cannot be read, or the target cannot be written or is the source.
        RequestError: If there is nothing to quantise in it.
    """
    source, target = Path(source), Path(target)
    if quantize and source.is_dir() and target.suffix != ".safetensors":
        return _quantize_folder(source, target, dtype, quantize)
    if target.suffix != ".safetensors":
        raise CheckpointError(f"{target} does not end in .safetensors, the format this writes.")
    if target.exists() and source.exists() and target.samefile(source):
        raise CheckpointError(f"{target} is the source itself. Give another --output.")
    if source.suffix in TORCH_SUFFIXES:
        if quantize:
            raise RequestError(f"{source} holds no network that can be quantised. Leave out --quantize.")
        return _write_torch(source, target, dtype)
    return _write_safetensors(Checkpoint(source), target, dtype, quantize)


def as_safetensors(path: Path) -> Path:
    """The file itself, or, for a file of torch.save, its conversion beside it, made on first use.

    Raises:
        CheckpointError: If the file cannot be read, or there is no place for the conversion beside it.
    """
    if path.suffix not in TORCH_SUFFIXES:
        return path
    beside = path.with_name(f"{path.name}.safetensors")
    if beside.is_file() and path.is_file() and read_header(beside)[1].get(_ORIGIN) == _origin(path):
        return beside
    if path.is_file() and not os.access(path.parent, os.W_OK):
        raise CheckpointError(
            f"{path.parent} cannot be written to, so {path.name} cannot be converted beside itself. "
            f"Convert it: python scripts/convert_weights.py {path} --output FILE.safetensors"
        )
    return convert(path, beside)


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


def _write_safetensors(
    checkpoint: Checkpoint, target: Path, dtype: mx.Dtype | None, quantize: Quantization | None
) -> Path:
    header = checkpoint.header
    few_bits = _to_quantize(checkpoint, quantize) if quantize else frozenset()
    decoded = float8_scales(checkpoint) if dtype is not None or quantize else {}
    strange = [n for n, info in header.tensors.items() if info.dtype not in _MLX_DTYPES and n not in decoded]
    if strange:
        raise CheckpointError(
            f"{checkpoint.path}: {strange[0]} is {header.tensors[strange[0]].dtype}. Give --dtype to decode it."
        )
    used_up = {f"{n.removesuffix('weight')}{part}_scale" for n in decoded for part in ("weight", "input")}
    whole = {
        name: (dtype or mx.bfloat16 if name in decoded else _target(_MLX_DTYPES[info.dtype], dtype), info.shape)
        for name, info in header.tensors.items()
        if name not in used_up
    }

    def value(name: str) -> mx.array:
        array = checkpoint.arrays([name])[name]
        if name in decoded:
            array = decode_e4m3(array, checkpoint.arrays([f"{name}_scale"])[f"{name}_scale"] if decoded[name] else None)
        return array.astype(whole[name][0])

    tensors = dict(_described(whole, few_bits, quantize))
    return write_safetensors(target, tensors, _parts(value, few_bits, quantize), header.metadata)


def _to_quantize(checkpoint: Checkpoint, quantization: Quantization) -> frozenset[str]:
    """Published names of the weights that are to be in few bits."""
    if is_quantized(checkpoint):
        raise RequestError(f"{checkpoint.path} is quantised already. Give the 16-bit file.")
    for network in (Transformer, Gemma):
        if (config := network.Config.from_header(checkpoint.header)) is not None:
            layers = {f"{path}.weight" for path in layers_to_quantize(network(config), quantization)}
            return frozenset(n for n in checkpoint.header.tensors if network.parameter_name(n) in layers)
    raise RequestError(
        f"{checkpoint.path} holds no LTX-2 transformer and no Gemma 3, the networks that can be quantised. "
        f"Leave out --quantize."
    )


def _described(whole, few_bits, quantization: Quantization | None) -> Iterator[tuple[str, tuple[mx.Dtype, tuple]]]:
    """Dtype and shape of every tensor to be written, a quantised weight's three parts side by side."""
    for name, (dtype, shape) in whole.items():
        if name not in few_bits:
            yield name, (dtype, shape)
            continue
        start, (rows, width) = name.removesuffix("weight"), shape
        yield name, (mx.uint32, (rows, width * quantization.bits // 32))
        for part in ("scales", "biases"):
            yield f"{start}{part}", (dtype, (rows, width // quantization.group_size))


def _parts(value, few_bits, quantization: Quantization | None):
    """``value`` for the tensors to be written; a weight's parts come one after another and are computed once."""
    ready: dict[str, mx.array] = {}

    def part(name: str) -> mx.array:
        if name in few_bits:
            start = name.removesuffix("weight")
            ready.update({f"{start}{key}": array for key, array in quantization.apply(value(name)).items()})
        return ready.pop(name) if name in ready else value(name)

    return part


def _quantize_folder(source: Path, target: Path, dtype: mx.Dtype | None, quantization: Quantization) -> Path:
    """A folder like the source's, as mlx-lm writes one: its files, one of weights, and how they are quantised."""
    checkpoint = Checkpoint(source)
    if Gemma.Config.from_header(checkpoint.header) is None:
        raise CheckpointError(f"{source} is no Gemma folder, so --output must be a file that ends in .safetensors.")
    try:
        target.mkdir(exist_ok=True)
        if target.samefile(source):
            raise CheckpointError(f"{target} is the source itself. Give another --output.")
        for file in source.glob("*.json"):
            if not file.name.endswith(".index.json"):
                shutil.copy(file, target)
        config = parse_json((source / "config.json").read_bytes())
        config["quantization"] = {"bits": quantization.bits, "group_size": quantization.group_size}
        (target / "config.json").write_text(json.dumps(config, indent=2))
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror}.") from error
    _write_safetensors(checkpoint, target / "model.safetensors", dtype, quantization)
    return target


def _target(own: mx.Dtype, wanted: mx.Dtype | None) -> mx.Dtype:
    return wanted if wanted is not None and mx.issubdtype(own, mx.floating) else own
