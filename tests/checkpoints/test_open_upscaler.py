"""Latent upscalers of another generation than the model."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from LTX_2_MLX.checkpoints.resolve import open_upscaler, resolve
from LTX_2_MLX.errors import CheckpointError

MODEL = {"model_version": "2.0.0"}
TENSORS = {"x": np.zeros(1, np.float32)}


def write_of_size(path: Path, size: int) -> None:
    """A file of one tensor that takes no disk."""
    entry = {"dtype": "U8", "shape": [size - 128], "data_offsets": [0, size - 128]}
    header = json.dumps({"x": entry}).encode().ljust(120)
    path.write_bytes(struct.pack("<Q", 120) + header)
    os.truncate(path, size)


@pytest.fixture
def check(write):
    """``check(model, upscaler)`` of files given as (name, metadata, size); gives the notes."""

    def run(model, upscaler):
        notes: list[str] = []
        paths = []
        for name, metadata, size in (model, upscaler):
            paths.append(write(name, TENSORS, **metadata))
            if size:
                write_of_size(paths[-1], size)
        open_upscaler(str(paths[1]), "temporal-upscaler", resolve(paths[0], "model"), notes.append)
        return notes

    return run


@pytest.mark.parametrize(
    ("model", "upscaler"),
    [
        (("own.safetensors", MODEL, None), ("ltx-2.3-temporal-upscaler-x2-1.0.safetensors", {}, None)),
        (("own.safetensors", MODEL, None), ("renamed.safetensors", {}, 261_944_000)),
        (("ltx-2.3-22b-dev.safetensors", {}, None), ("renamed.safetensors", {}, 261_965_800)),
        (("ltx-2-19b-dev.safetensors", {}, None), ("ltx-2.5-upscaler.safetensors", {}, None)),
        (("ltx-2-19b-dev.safetensors", {}, None), ("up.safetensors", {"model_version": "2.3"}, None)),
    ],
)
def test_upscaler_of_another_generation_is_refused(check, model, upscaler):
    with pytest.raises(CheckpointError, match=r"was made for LTX-2.*but .* is LTX-2.*mosaic"):
        check(model, upscaler)


def test_right_upscaler_passes_and_an_unknown_one_gets_a_line(check):
    own = ("own.safetensors", MODEL, None)
    assert check(own, ("ltx-2-temporal-upscaler-x2-1.0.safetensors", {}, None)) == []
    assert check(own, ("renamed.safetensors", {}, 261_965_800)) == []
    (line,) = check(own, ("mine.safetensors", {}, None))
    assert "mine.safetensors does not say" in line and "LTX-2" in line
    assert check(("plain.safetensors", {}, None), ("mine.safetensors", {}, None)) == []


def test_upscaler_of_a_size_that_two_generations_share_gets_a_line(check):
    same = ("renamed.safetensors", {}, 261_944_000)
    for name in ("ltx-2.3-22b-dev.safetensors", "ltx-2.5-22b-dev-transformer-bf16.safetensors"):
        (line,) = check((name, {}, None), same)
        assert "LTX-2.5 or LTX-2.3, by its size" in line
    own = ("own.safetensors", {"model_version": "2.5.0"}, None)
    assert check(own, ("ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0.safetensors", {}, 261_944_000)) == []
    with pytest.raises(CheckpointError, match=r"was made for LTX-2.3, but own.safetensors is LTX-2.5"):
        check(own, ("ltx-2.3-temporal-upscaler-x2-1.0.safetensors", {}, 261_944_000))
