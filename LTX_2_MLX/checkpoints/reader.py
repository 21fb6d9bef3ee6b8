"""Reads the header of safetensors files, and their tensors as lazy arrays under the published names.

A header is checked in full (JSON, names, dtypes, shapes, offsets, file size) before a tensor is read, so
that a truncated or damaged file gives one clear error. Kinds of files that no network here reads are refused by name.

Sources of the names in such files: Comfy-Org/ComfyUI, comfy/quant_ops.py and comfy/utils.py (``comfy_quant``,
``weight_scale_2``); huggingface/diffusers, transformer_ltx2.py; Lightricks/LTX-Video for 0.9.
"""

import math
import os
import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.header_entries import METADATA, header_entries
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.files import parse_json, parse_object, read_small_file
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.models.interfaces import Header, TensorInfo

MLX_VIDEO = "mlx-video"
_TRANSFORMER_PREFIX = "model.diffusion_model."
# Only LTX's transformer as published has this layer; diffusers' conversion names it proj_in.
_TRANSFORMER_PROBE = "patchify_proj.weight"
# A name that each part of a pack of mlx-forge has, and no published file.
_PACK_PROBE = re.compile(
    r"(transformer(?=\.patchify_proj\.weight$)|connector(?=\.video_embeddings_connector\.)|text_encoder(?=\.model\.)|"
    r"vae_decoder\w*(?=\.per_channel_statistics\.mean$)|"
    r"(?:vae_encoder\w*|audio_vae)(?=\.per_channel_statistics\._mean_of_means$)|"
    r"(?:spatial|temporal)_upscaler_\w+(?=\.initial_conv\.weight$))"
)
_VOCODER_PROBES = {"vocoder.conv_pre.weight", "vocoder.bwe_generator.conv_pre.weight"}
# Names that only parts of a pack of mlx-video have.
_MLX_VIDEO_PROBES = {
    "transformer_blocks.0.attn1.to_out.weight", "bwe_generator.conv_pre.weight", "per_channel_statistics.mean",
    "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_out.weight", "per_channel_statistics.mean_of_means",
}  # fmt: skip
# A layer of the language model of Gemma 3 and 4 that no other network here has.
_LANGUAGE_MODEL_PROBE = ".layers.0.pre_feedforward_layernorm.weight"
# Bytes per element of the format's dtypes (huggingface/safetensors, safetensors/src/tensor.rs).
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
# MLX refuses a whole file if one tensor has one of these dtypes.
_NOT_IN_MLX = ("F64", "F8_E5M2")
# The format's own limit on the size of a header.
_MAX_HEADER_BYTES = 100_000_000
# Larger headers are read one entry at a time: hostile JSON takes twenty times its size in memory.
_MAX_WHOLE_BYTES = 4_000_000
# First bytes of llama.cpp's format.
_GGUF = b"GGUF"
# No published tensor has more than five axes; a limit keeps a hostile header from endless arithmetic.
_MAX_AXES = 16
# ComfyUI writes a layer's format as a line of JSON into a tensor of this name; more bytes are none. One is readable.
_COMFY, _MAX_SETTING_BYTES = ".comfy_quant", 4096
_READABLE = "float8_e4m3fn"
# Width of T5's features, which LTX-Video 0.9 reads; Gemma's are 3840 wide.
_T5_WIDTH = 4096


@dataclass(frozen=True)
class StoredTensor:
    """Where a published tensor lies in a file.

    Attributes:
        name: Its name there.
        axes: Order of the stored axes that gives the published shape; None where it is the stored one.
        is_copy: Whether another file of the same model may hold it as well.
    """

    name: str
    axes: tuple[int, ...] | None = None
    is_copy: bool = False


def published_layout(
    file: Path, tensors: Mapping[str, TensorInfo], metadata: dict[str, str]
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Where each published tensor lies in a file, and the file's metadata with those of a pack that lie beside it.

    A transformer file of ComfyUI (``diffusion_models/``) leaves out the prefix ``model.diffusion_model.``.

    Raises:
        CheckpointError: If the file is part of a pack for MLX that cannot be read.
    """
    part = pack_part(tensors.keys())
    if part is not None:
        # Few files are.
        from LTX_2_MLX.checkpoints.mlx_packs import read_part

        layout, beside = read_part(file, part, tensors)
        return layout, metadata | beside
    prefix = _TRANSFORMER_PREFIX if _TRANSFORMER_PROBE in tensors else ""
    layout = {}
    for name in tensors:
        layout[f"{prefix}{name}"] = StoredTensor(name)
    return layout, metadata


def holds_language_model(names: Collection[str]) -> bool:
    """Whether tensors are those of a text encoder, whose config and tokenizer may lie beside its file."""
    return any(name.endswith(_LANGUAGE_MODEL_PROBE) for name in names)


def pack_part(names: Collection[str]) -> str | None:
    """The part of a pack for MLX that a file is, such as ``vae_decoder``; ``MLX_VIDEO``; None for other files."""
    stored = set(names)
    if stored >= _VOCODER_PROBES:
        return "vocoder"
    if stored & _MLX_VIDEO_PROBES:
        return MLX_VIDEO
    for name in names:
        if match := _PACK_PROBE.match(name):
            return match[1]
    return None


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors, in the order of their data, and metadata of one .safetensors file.

    Raises:
        CheckpointError: If the file is missing, is not safetensors, or is damaged or cut short.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist. Give the path of a .safetensors file.")
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise CheckpointError(f"{path} has {file_bytes} bytes, too few for a safetensors file.")
            if prefix[:4] == _GGUF:
                raise CheckpointError(
                    f"{path} is a GGUF file, which is not supported. Use a .safetensors file of the same model; "
                    f"--quantize makes it as small in memory."
                )
            (header_bytes,) = struct.unpack("<Q", prefix)
            if header_bytes > min(_MAX_HEADER_BYTES, file_bytes - 8):
                raise CheckpointError(_not_safetensors(path, file_bytes))
            text = file.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    data_bytes = file_bytes - 8 - header_bytes
    try:
        entries: Iterable[tuple[str, Any]]
        if header_bytes > _MAX_WHOLE_BYTES:
            entries = header_entries(text.decode("utf-8"))
        else:
            entries = parse_object(text).items()
    except ValueError as error:
        raise CheckpointError(_not_safetensors(path, file_bytes)) from error
    # A large header is in memory once.
    del text
    return _tensors(path, entries, data_bytes)


def _not_safetensors(path: Path, file_bytes: int) -> str:
    return (
        f"{path} ({file_bytes} bytes) is not a readable safetensors file: it is of another format, damaged or "
        f"truncated. Download it again, or convert a .pth, .pkl or .ckpt file with scripts/convert_weights.py."
    )


def _tensors(
    path: Path, entries: Iterable[tuple[str, Any]], data_bytes: int
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The header's tensors, checked to fill the file's data without gaps or overlaps, and its metadata."""
    metadata: dict[str, str] = {}
    infos: dict[str, TensorInfo] = {}
    # One object for all tensors of a shape and dtype.
    shared: dict[TensorInfo, TensorInfo] = {}
    spans = []
    try:
        for name, entry in entries:
            if name == METADATA:
                # MLX writes null where there is none.
                entry = entry or {}
                if not isinstance(entry, dict) or not set(map(type, entry.values())) <= {str}:
                    raise CheckpointError(
                        f"{path} is damaged: its metadata is not a map of strings. Download it again."
                    )
                metadata |= entry
                continue
            info = _tensor_info(path, name, entry)
            infos[name] = shared.setdefault(info, info)
            spans.append((*entry["data_offsets"], name))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its header does not describe tensors. Download it again.") from error
    spans.sort()
    in_order: dict[str, TensorInfo] = {}
    end = 0
    for start, stop, name in spans:
        if start != end:
            raise CheckpointError(_wrong_tensor(path, name))
        end = stop
        in_order[name] = infos[name]
    if end != data_bytes:
        raise CheckpointError(
            f"{path} is truncated or damaged: its header describes {end} bytes of tensors, the file has {data_bytes}. "
            f"Download it again."
        )
    if len(infos) != len(spans):
        raise CheckpointError(f"{path} is damaged: its header holds a name twice. Download it again.")
    return in_order, metadata


def _tensor_info(path: Path, name: str, entry: dict[str, Any]) -> TensorInfo:
    """One entry of a header, which has to be right in itself."""
    start, stop = entry["data_offsets"]
    shape = tuple(entry["shape"])
    dtype = entry["dtype"]
    if not name.isprintable():
        raise CheckpointError(f"{path} is damaged: a tensor has the name {name!r}. Download it again.")
    if dtype not in _ITEM_BYTES:
        raise CheckpointError(
            f"{path}: tensor {name} has the unknown dtype {dtype!r:.40}; known are {', '.join(_ITEM_BYTES)}."
        )
    sizes = (start, stop, *shape)
    # isinstance would let booleans pass.
    if len(shape) > _MAX_AXES or not set(map(type, sizes)) <= {int} or min(sizes) < 0:
        raise CheckpointError(_wrong_tensor(path, name))
    num_bytes = math.prod(shape) * _ITEM_BYTES[dtype]
    if stop - start != num_bytes:
        raise CheckpointError(_wrong_tensor(path, name))
    return TensorInfo(shape=shape, dtype=dtype, num_bytes=num_bytes)


def _wrong_tensor(path: Path, name: str) -> str:
    return f"{path} is damaged: the header is wrong about tensor {name}. Download it again."


class Checkpoint:
    """A published checkpoint: one .safetensors file, a folder of shards or split files, or several of these.

    Attributes:
        paths: The files or folders as given.
        path: The first of them, for messages.
        files: The .safetensors files, in order.
        header: Tensors, metadata and config of all files joined. Sections of the config are joined over files; the
            config includes a folder's ``config.json``, whose fields those in the files' metadata override.
        metadata_of: Metadata of each file by itself.
    """

    def __init__(self, path: str | Path | Sequence[str | Path]):
        """Read the headers.

        Raises:
            CheckpointError: If nothing readable is there, a shard is missing, or two files contradict each other.
        """
        paths = [Path(path)] if isinstance(path, str | Path) else list(map(Path, path))
        self.paths = tuple(paths)
        self.path = paths[0]
        self.files: list[Path] = []
        for each in paths:
            self.files += shards(each) if os.path.isdir(each) else [each]
        tensors: dict[str, TensorInfo] = {}
        self.metadata_of: dict[Path, dict[str, str]] = {}
        # Published name -> the file that holds the tensor, and where.
        self._source: dict[str, tuple[Path, StoredTensor]] = {}
        for file in self.files:
            file_tensors, metadata = read_header(file)
            layout, self.metadata_of[file] = published_layout(file, file_tensors, metadata)
            for name, stored in layout.items():
                if name in self._source:
                    if stored.is_copy:
                        continue
                    raise CheckpointError(_held_twice(name, self._source[name][0], file))
                info = file_tensors[stored.name]
                if stored.axes is not None:
                    info = replace(info, shape=tuple(info.shape[axis] for axis in stored.axes))
                tensors[name] = info
                self._source[name] = (file, stored)
        metadata = {}
        for file in reversed(self.files):
            metadata |= self.metadata_of[file]
        self.header = Header(tensors=tensors, metadata=metadata, config=self._config())

    def _config(self) -> dict[str, Any]:
        """Config of all files: sections of one name are joined, and have to agree where they overlap."""
        config: dict[str, Any] = {}
        for file in self.files:
            text = self.metadata_of[file].get("config")
            if text is None:
                continue
            own = json_object(file, "the config in its metadata", text)
            if config:
                _join_sections(config, own, file)
            else:
                config = own
        for path in self.paths:
            config_file = path / "config.json"
            if path in self.files:
                # That of a text encoder may lie beside its file.
                config_file = path.with_name("config.json")
                if config or not config_file.is_file() or not holds_language_model(self._source):
                    continue
            if config_file.is_file():
                config = json_object(config_file, "it") | config
        return config

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._source[name][0]

    def stored_names(self, names: Iterable[str]) -> dict[Path, set[str]]:
        """By file, the names that these tensors have in it."""
        stored: dict[Path, set[str]] = {}
        for name in names:
            file, tensor = self._source[name]
            stored.setdefault(file, set()).add(tensor.name)
        return stored

    def arrays(self, names: Iterable[str]) -> dict[str, mx.array]:
        """Lazy arrays by published name, in published axis order; data is read when an array is evaluated.

        The checkpoint keeps no reference to them. F8_E4M3 tensors are uint8 arrays of their codes.

        Raises:
            CheckpointError: If a file has gone, or holds a dtype that MLX does not read.
        """
        stored_by_file: dict[Path, dict[str, StoredTensor]] = {}
        for name in names:
            file, stored = self._source[name]
            stored_by_file.setdefault(file, {})[name] = stored
        arrays: dict[str, mx.array] = {}
        for file, own in stored_by_file.items():
            for name, (owner, _) in self._source.items():
                dtype = self.header.tensors[name].dtype
                if owner == file and dtype in _NOT_IN_MLX:
                    raise CheckpointError(
                        f"{file}: tensor {name} is {dtype}, which MLX does not read. Use a 32- or 16-bit file."
                    )
            try:
                opened = mx.load(str(file), format="safetensors")
            except (RuntimeError, ValueError, OSError) as error:
                raise CheckpointError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
            assert isinstance(opened, dict)
            for name, stored in own.items():
                array = opened[stored.name]
                arrays[name] = array if stored.axes is None else array.transpose(stored.axes)
        return arrays


def data_starts(checkpoint: Checkpoint) -> dict[str, tuple[Path, int]]:
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


def _held_twice(name: str, first: Path, second: Path) -> str:
    return (
        f"{first} and {second} both hold the tensor {name}. Leave one of them out: each network has to come from one "
        f"file."
    )


def _join_sections(config: dict[str, Any], added: dict[str, Any], file: Path) -> None:
    """Add a file's config; where it repeats a field, the values have to be equal."""
    for section, values in added.items():
        present = config.get(section)
        if isinstance(present, dict) and isinstance(values, dict):
            for field in present.keys() & values.keys():
                if present[field] != values[field]:
                    raise CheckpointError(_contradiction(file, f"{section}.{field}", values[field], present[field]))
            config[section] = present | values
        elif section in config and present != values:
            raise CheckpointError(_contradiction(file, section, values, present))
        else:
            config[section] = values


def _contradiction(file: Path, field: str, value: Any, other: Any) -> str:
    return (
        f"{file}: its config says {field} = {value!r:.60}, that of another file of this checkpoint {other!r:.60}. "
        f"Use files of one model."
    )


def shards(folder: Path) -> list[Path]:
    """The .safetensors files of a folder: those in its index, or all if there is no index.

    Hidden files are no shards: macOS keeps some beside others for their attributes (``._name``).
    """
    present = sorted(folder.glob("[!.]*.safetensors"))
    if not present:
        raise CheckpointError(f"{folder} holds no .safetensors file. Give a file, or a folder with the shards.")
    indexes = sorted(folder.glob("[!.]*.safetensors.index.json"))
    if len(indexes) != 1:
        return present
    weight_map = json_object(indexes[0], "it").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{indexes[0]} does not say which file holds which tensor. Download it again.")
    files = [folder / name for name in sorted(set(weight_map.values()))]
    if missing := [file.name for file in files if file not in present]:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(files)} files ({', '.join(missing[:5])}). Finish the download."
        )
    return files


def json_object(path: Path, subject: str, text: str | bytes | None = None) -> dict[str, Any]:
    """The JSON object that a text in a file is; without a text, the file itself.

    Raises:
        CheckpointError: If it cannot be read, or is no JSON object; ``subject`` names it in the message.
    """
    try:
        value = parse_json(read_small_file(path) if text is None else text)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {subject} is not JSON ({' '.join(str(error).split())}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {subject} is not a JSON object.")
    return value


def refuse_unsupported(checkpoint: Checkpoint) -> None:
    """Raise if a file is of a kind that cannot be read.

    Raises:
        CheckpointError: Names the kind, and the file to use instead.
    """
    tensors = checkpoint.header.tensors
    settings = []
    has_audio = False
    for name, info in tensors.items():
        if name.endswith(".weight_scale_2"):
            raise _unsupported(checkpoint, "holds weights in 4-bit floats (nvfp4)")
        if info.dtype == "I8" and name.endswith(".weight"):
            raise _unsupported(checkpoint, "holds weights in 8-bit integers (int8)")
        if name.startswith("time_embed.") and "proj_in.weight" in tensors:
            raise _unsupported(checkpoint, "is a transformer of diffusers, whose tensors have other names")
        if name.endswith(_COMFY):
            settings.append(name)
        has_audio = has_audio or name.startswith(f"{_TRANSFORMER_PREFIX}audio_")
    for kind in _comfy_formats(checkpoint, settings) if settings else ():
        if kind != _READABLE:
            raise _unsupported(checkpoint, f"holds weights in the format {kind!r:.40} of ComfyUI")
    caption = tensors.get(f"{_TRANSFORMER_PREFIX}caption_projection.linear_1.weight")
    if caption is not None and not has_audio and caption.shape[-1:] == (_T5_WIDTH,):
        raise _unsupported(checkpoint, "is of LTX-Video 0.9, an earlier model with another text encoder")


def _unsupported(checkpoint: Checkpoint, kind: str) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.path} {kind}, which is not supported. Use the published file instead: "
        f"{command_line('download_weights')} {_replacement(checkpoint.path)}"
    )


def _comfy_formats(checkpoint: Checkpoint, names: Sequence[str]) -> set[str]:
    """Formats of layers, from the settings that ComfyUI writes as text into small tensors."""
    starts = data_starts(checkpoint)
    formats = set()
    for name in names:
        file, start = starts[name]
        count = min(checkpoint.header.tensors[name].num_bytes, _MAX_SETTING_BYTES)
        formats.add(_comfy_format(np.fromfile(file, np.uint8, count, offset=start).tobytes()))
    return formats


def _comfy_format(text: bytes) -> str:
    try:
        fields = parse_json(text.rstrip(b"\0"))
    except ValueError:
        return "unreadable"
    return str(fields.get("format")) if isinstance(fields, dict) else "unreadable"


def _replacement(path: Path) -> str:
    """Catalogue name of the published file that is nearest to a file, by its name."""
    name = path.name.lower()
    generation = "ltx-2.3-22b" if "2.3" in name or "22b" in name else "ltx-2-19b"
    if "dev" in name:
        return f"{generation}-dev"
    return f"{generation}-distilled"
