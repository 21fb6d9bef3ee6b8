"""Checkpoint files for tests: small ones with values, full-size ones that take no disk."""

import gzip
import json
import math
import struct
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from LTX_2_MLX.checkpoints.reader import Checkpoint

MANIFESTS = Path(__file__).parents[1] / "manifests"
ITEM_BYTES = {"U8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "F64": 8, "I64": 8}


class LayerConfig:
    """Recognises any file that has the layer's input projection."""

    @classmethod
    def from_header(cls, header):
        return cls() if "model.diffusion_model.first.weight" in header.tensors else None


class Layers(nn.Module):
    """Two linear layers under the published prefix; everything else belongs to other networks."""

    Config = LayerConfig

    def __init__(self, config):
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.second = [nn.Linear(5, 2, bias=False)]

    @staticmethod
    def parameter_name(published):
        start = "model.diffusion_model."
        own = published.startswith(start) and "_embeddings_connector." not in published
        return published.removeprefix(start) if own else None


@pytest.fixture
def layers():
    """The network class of the small files."""
    return Layers


@pytest.fixture
def layer_arrays() -> dict[str, np.ndarray]:
    """A small file's tensors by published name."""
    random = np.random.default_rng(3)
    shapes = {"first.weight": (5, 3), "first.bias": (5,), "second.0.weight": (2, 5)}
    return {f"model.diffusion_model.{n}": random.normal(size=s).astype(np.float32) for n, s in shapes.items()}


@pytest.fixture
def write(tmp_path):
    """``write(name, arrays, **metadata)`` writes a .safetensors file and gives its path."""

    def write_file(name, arrays, **metadata):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mx.save_safetensors(str(path), {n: mx.array(v) for n, v in arrays.items()}, metadata)
        return path

    return write_file


@pytest.fixture
def write_raw(tmp_path):
    """``write_raw(name, {tensor: (dtype, shape, bytes)})`` writes what is asked for, whether MLX knows it or not."""

    def write_file(name, tensors, header_extra=None):
        header, data = dict(header_extra or {}), b""
        for tensor, (dtype, shape, raw) in tensors.items():
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        text = json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        return path

    return write_file


@pytest.fixture
def write_holes(tmp_path):
    """``write_holes(name, {tensor: (dtype, shape)}, metadata)`` writes a file with holes for values."""

    def write_file(name, tensors, metadata=None):
        header, end = {}, 0
        for tensor, (dtype, shape) in tensors.items():
            start, end = end, end + math.prod(shape) * ITEM_BYTES[dtype]
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header | {"__metadata__": metadata or {}}).encode()
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)
        return path

    return write_file


@pytest.fixture
def full_size(write_holes):
    """``full_size(manifest)`` gives a checkpoint with every published name and shape, and holes for values."""

    def build(manifest, float8=lambda name: True):
        spec = json.loads(gzip.decompress((MANIFESTS / f"{manifest}.json.gz").read_bytes()))
        tensors = {name: (dtype, shape) for name, (shape, dtype) in spec["tensors"].items()}
        # Which layers of an 8-bit file are in 8 bits differs by file.
        for name in [name for name, (dtype, _) in tensors.items() if dtype == "F8_E4M3 or BF16"]:
            tensors[name] = ("F8_E4M3" if float8(name) else "BF16", tensors[name][1])
            if float8(name):
                tensors |= {f"{name}_scale": ("F32", []), f"{name.removesuffix('weight')}input_scale": ("F32", [])}
        metadata = spec["metadata"].items()
        texts = {key: text if isinstance(text, str) else json.dumps(text) for key, text in metadata}
        return Checkpoint(write_holes(f"{manifest}.safetensors", tensors, texts))

    return build
