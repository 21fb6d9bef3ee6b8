"""Converts checkpoints to .safetensors. Container, precision and quantisation change, names and axis order do not."""

import json
import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.checkpoints.gemma3 import Gemma
from LTX_2_MLX.checkpoints.load import FLOAT8_SETTINGS, float8_scales, is_quantized
from LTX_2_MLX.checkpoints.ncnn_file import NCNN_SUFFIX, ncnn_layers_of, read_ncnn_files
from LTX_2_MLX.checkpoints.quantization import Quantization, decode_e4m3, layers_to_quantize
from LTX_2_MLX.checkpoints.reader import Checkpoint, read_header, refuse_unsupported
from LTX_2_MLX.checkpoints.resolve import TORCH_SUFFIXES
from LTX_2_MLX.checkpoints.torch_file import read_torch_file
from LTX_2_MLX.checkpoints.writer import write_safetensors
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.files import parse_json, write_file
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.models.interfaces import PublishedNetwork
from LTX_2_MLX.models.ltx.transformer import Transformer

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_MLX_DTYPES = {
    "BOOL": mx.bool_, "U8": mx.uint8, "I8": mx.int8, "U16": mx.uint16, "I16": mx.int16, "U32": mx.uint32,
    "I32": mx.int32, "U64": mx.uint64, "I64": mx.int64, "F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32,
}  # fmt: skip
# What is copied of a Gemma folder; config.json is written anew.
_GEMMA_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json",
)  # fmt: skip
# Metadata key: name, size and modification time of the file that a conversion was made from.
_ORIGIN = "converted_from"


def convert(
    source: str | Path, target: str | Path, *, dtype: mx.Dtype | None = None, quantize: Quantization | None = None
) -> Path:
    """Write a checkpoint as one .safetensors file, with one tensor in memory at a time.

    Args:
        source: A file of torch.save, one of ncnn's pair of files, a .safetensors file or a folder with the shards of
            one.
        target: Ends in ``.safetensors``; an existing file is replaced. For a quantised Gemma folder, a folder.
        dtype: Floating-point tensors are cast to this, and 8-bit floats decoded; None keeps each tensor's.
        quantize: Quantise the layers that the network allows.

    Raises:
        CheckpointError: If the source cannot be read, or the target cannot be written or is the source.
        RequestError: If there is nothing to quantise in it.
    """
    source = Path(source)
    target = Path(target)
    if quantize and source.is_dir() and target.suffix != ".safetensors":
        return _quantize_folder(source, target, dtype, quantize)
    if target.suffix != ".safetensors":
        raise CheckpointError(f"{target} does not end in .safetensors, the format this writes.")
    if target.exists() and source.exists() and target.samefile(source):
        raise CheckpointError(f"{target} is the source itself. Give another --output.")
    layers = ncnn_layers_of(source)
    if layers is not None or source.suffix in TORCH_SUFFIXES:
        if quantize:
            raise RequestError(f"{source} holds no network that can be quantised. Leave out --quantize.")
        arrays = read_torch_file(source) if layers is None else read_ncnn_files(layers)
        return _write_arrays(source, arrays, target, dtype)
    return _write_safetensors(Checkpoint(source), target, dtype, quantize)


def as_safetensors(path: Path) -> Path:
    """The file itself, or, for a file of torch.save or of ncnn, its conversion beside it, made on first use.

    Raises:
        CheckpointError: If the file cannot be read, or its folder cannot be written to.
    """
    path = ncnn_layers_of(path) or path
    if path.suffix not in (*TORCH_SUFFIXES, NCNN_SUFFIX):
        return path
    converted = path.with_name(f"{path.name}.safetensors")
    if converted.is_file() and path.is_file():
        _, metadata = read_header(converted)
        if metadata.get(_ORIGIN) == _origin(path):
            return converted
        check_replaceable(converted)
    if path.is_file() and not os.access(path.parent, os.W_OK):
        raise CheckpointError(
            f"{path.parent} cannot be written to, so {path.name} cannot be converted beside itself. "
            f"Convert it: python scripts/convert_weights.py {path} --output FILE.safetensors"
        )
    return convert(path, converted)


def check_replaceable(path: Path) -> None:
    """Refuse to replace a file that no conversion has written, where the user has not named it.

    Raises:
        CheckpointError: If the file, or the folder's model.safetensors, lacks the mark of a conversion.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    metadata = read_header(file)[1] if file.is_file() else {}
    if _ORIGIN not in metadata:
        raise CheckpointError(
            f"{path} exists and was not made by a conversion, so it is not replaced. Move it, or convert to another "
            f"name: {command_line('convert_weights')} FILE --output NAME"
        )


def _origin(path: Path) -> str:
    status = path.stat()
    origin = f"{path.name} {status.st_size} {status.st_mtime_ns}"
    weights = path.with_suffix(".bin")
    return f"{origin} {_origin(weights)}" if path.suffix == NCNN_SUFFIX and weights.is_file() else origin


def _write_arrays(source: Path, arrays: dict[str, mx.array], target: Path, dtype: mx.Dtype | None) -> Path:
    dtypes = {name: _target_dtype(array.dtype, dtype) for name, array in arrays.items()}
    tensors = {name: (dtypes[name], array.shape) for name, array in arrays.items()}

    def value(name: str) -> mx.array:
        # A written tensor is dropped.
        return arrays.pop(name).astype(dtypes[name])

    return write_safetensors(target, tensors, value, {_ORIGIN: _origin(source)})


def _write_safetensors(
    checkpoint: Checkpoint, target: Path, dtype: mx.Dtype | None, quantize: Quantization | None
) -> Path:
    refuse_unsupported(checkpoint)
    source = _SourceTensors(checkpoint, dtype, decodes=dtype is not None or quantize is not None)
    metadata = {**checkpoint.header.metadata, _ORIGIN: _origin(checkpoint.path)}
    if quantize is None:
        return write_safetensors(target, source.tensors, source.value, metadata)
    quantized = _QuantizedTensors(source, _weights_to_quantize(checkpoint, quantize), quantize)
    return write_safetensors(target, quantized.tensors, quantized.value, metadata)


class _SourceTensors:
    """A checkpoint's tensors in the precision in which they are written; 8-bit floats are decoded if need be.

    Attributes:
        tensors: Dtype and shape by name.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: mx.Dtype | None, decodes: bool):
        self._checkpoint = checkpoint
        self._decoded = float8_scales(checkpoint) if decodes else {}
        self.tensors: dict[str, tuple[mx.Dtype, tuple[int, ...]]] = {}
        for name, info in checkpoint.header.tensors.items():
            if self._decoded and name.rpartition(".")[2] in FLOAT8_SETTINGS:
                continue
            if name in self._decoded:
                self.tensors[name] = (dtype or mx.bfloat16, info.shape)
            elif info.dtype not in _MLX_DTYPES:
                raise CheckpointError(f"{checkpoint.path}: {name} is {info.dtype}. Give --dtype to decode it.")
            else:
                self.tensors[name] = (_target_dtype(_MLX_DTYPES[info.dtype], dtype), info.shape)

    def value(self, name: str) -> mx.array:
        """One tensor as it is written; lazy."""
        array = self._checkpoint.arrays([name])[name]
        if name in self._decoded:
            scale_name = self._decoded[name]
            scale = None if scale_name is None else self._checkpoint.arrays([scale_name])[scale_name]
            array = decode_e4m3(array, scale)
        dtype, _ = self.tensors[name]
        return array.astype(dtype)


class _QuantizedTensors:
    """Tensors to be written where some weights are quantised.

    Attributes:
        tensors: Dtype and shape by name; the three tensors of a quantised weight follow each other.
    """

    def __init__(self, source: _SourceTensors, weights: frozenset[str], quantization: Quantization):
        self._source = source
        self._weights = weights
        self._quantization = quantization
        self._ready: dict[str, mx.array] = {}
        self.tensors: dict[str, tuple[mx.Dtype, tuple[int, ...]]] = {}
        for name, (dtype, shape) in source.tensors.items():
            if name not in weights:
                self.tensors[name] = (dtype, shape)
                continue
            rows, width = shape
            path = name.removesuffix("weight")
            num_groups = width // quantization.group_size
            self.tensors[name] = (mx.uint32, (rows, width * quantization.bits // 32))
            self.tensors[f"{path}scales"] = (dtype, (rows, num_groups))
            self.tensors[f"{path}biases"] = (dtype, (rows, num_groups))

    def value(self, name: str) -> mx.array:
        """One tensor as it is written. A weight is quantised once, when the first of its three is asked for."""
        if name in self._weights:
            path = name.removesuffix("weight")
            for key, array in self._quantization.apply(self._source.value(name)).items():
                self._ready[f"{path}{key}"] = array
        if name in self._ready:
            return self._ready.pop(name)
        return self._source.value(name)


def _weights_to_quantize(checkpoint: Checkpoint, quantization: Quantization) -> frozenset[str]:
    """Published names of the weights to quantise."""
    if is_quantized(checkpoint):
        raise RequestError(f"{checkpoint.path} is quantised already. Give the 16-bit file.")
    networks: tuple[type[PublishedNetwork[Any]], ...] = (Transformer, Gemma)
    for network in networks:
        config = network.Config.from_header(checkpoint.header)
        if config is not None:
            model = network(config)
            assert isinstance(model, nn.Module)
            weights = {f"{path}.weight" for path in layers_to_quantize(model, quantization)}
            return frozenset(n for n in checkpoint.header.tensors if network.parameter_name(n) in weights)
    raise RequestError(
        f"{checkpoint.path} holds no LTX-2 transformer and no Gemma 3, the networks that can be quantised. "
        f"Leave out --quantize."
    )


def _quantize_folder(source: Path, target: Path, dtype: mx.Dtype | None, quantization: Quantization) -> Path:
    """Write a folder as mlx-lm does: the source's JSON files, one file of weights, and the quantisation settings."""
    checkpoint = Checkpoint(source)
    if Gemma.Config.from_header(checkpoint.header) is None:
        raise CheckpointError(f"{source} is no Gemma folder, so --output must be a file that ends in .safetensors.")
    try:
        target.mkdir(exist_ok=True)
        if target.samefile(source):
            raise CheckpointError(f"{target} is the source itself. Give another --output.")
        for name in _GEMMA_FILES:
            if (source / name).is_file():
                write_file(target / name, _own_file(source, name).read_bytes())
        config = parse_json(_own_file(source, "config.json").read_bytes())
        config["quantization"] = {"bits": quantization.bits, "group_size": quantization.group_size}
        write_file(target / "config.json", json.dumps(config, indent=2))
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror}.") from error
    _write_safetensors(checkpoint, target / "model.safetensors", dtype, quantization)
    return target


def _own_file(folder: Path, name: str) -> Path:
    """A file of a folder; a link may lead to the Hugging Face cache's ``blobs`` beside its snapshots, nowhere else."""
    target = (folder / name).resolve()
    inside = folder.resolve()
    if target.parent not in (inside, inside.parent.parent / "blobs"):
        raise CheckpointError(f"{folder / name} is a link out of its folder. Put the file itself there.")
    return target


def _target_dtype(dtype: mx.Dtype, requested: mx.Dtype | None) -> mx.Dtype:
    """Floating-point tensors are cast to the requested dtype, others keep theirs."""
    return requested if requested is not None and mx.issubdtype(dtype, mx.floating) else dtype
