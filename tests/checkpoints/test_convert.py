"""Container and precision change, names and values never do."""

import os
import shutil
import struct
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.checkpoints import writer
from LTX_2_MLX.checkpoints.convert import as_safetensors, convert
from LTX_2_MLX.checkpoints.quantization import decode_e4m3
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.torch_file import read_torch_file
from LTX_2_MLX.checkpoints.writer import write_safetensors
from LTX_2_MLX.errors import CheckpointError

FILES = Path(__file__).parents[1] / "goldens/esrgan/checkpoint_files"


@pytest.fixture
def small(write):
    random = np.random.default_rng(9)
    arrays = {
        "b.weight": mx.array(random.normal(size=(3, 4, 5)), mx.float32),
        "a.weight": mx.array(random.normal(size=(7,)), mx.bfloat16),
        "count": mx.array([1, 2, 3], mx.int32),
        "scalar": mx.array(2.5, mx.float16),
        "empty": mx.zeros((0, 4)),
    }
    return write("small.safetensors", arrays, config='{"depth": 3}', note="kept")


def read(path):
    checkpoint = Checkpoint(path)
    return checkpoint.header, checkpoint.arrays(checkpoint.header.tensors)


def test_without_a_dtype_every_tensor_stays_as_it_is(small, tmp_path):
    header, arrays = read(convert(small, tmp_path / "copy.safetensors"))
    before, wanted = read(small)
    assert header.metadata.items() > before.metadata.items() and header.config == {"depth": 3}
    for name, value in wanted.items():
        assert arrays[name].dtype == value.dtype and mx.array_equal(arrays[name], value)


def test_a_dtype_changes_floating_point_tensors_alone(small, tmp_path):
    _, arrays = read(convert(small, tmp_path / "copy.safetensors", dtype=mx.float16))
    _, before = read(small)
    assert {n: v.dtype for n, v in arrays.items() if n != "count"} == dict.fromkeys(
        before.keys() - {"count"}, mx.float16
    )
    assert arrays["count"].dtype == mx.int32
    assert mx.array_equal(arrays["b.weight"], before["b.weight"].astype(mx.float16))


def test_shards_become_one_file(write, tmp_path):
    first = write("model/model-00001-of-00002.safetensors", {"a": np.ones(2, np.float32)})
    write("model/model-00002-of-00002.safetensors", {"b": np.zeros((3, 2), np.float32)})
    header, arrays = read(convert(first.parent, tmp_path / "one.safetensors"))
    assert list(header.tensors) == ["a", "b"] and arrays["a"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["params.pth", "legacy.pth", "half.pth", "views.pth", "module_prefix.pkl"])
def test_a_torch_file_keeps_names_and_values(tmp_path, name):
    _, arrays = read(convert(FILES / name, tmp_path / "x.safetensors"))
    for tensor, value in read_torch_file(FILES / name).items():
        assert arrays[tensor].dtype == value.dtype and mx.array_equal(arrays[tensor], value)


def test_float8_is_decoded_when_a_dtype_is_given(write_raw, tmp_path):
    codes = bytes(range(0, 120, 5))
    tensors = {
        "x.weight": ("F8_E4M3", [4, 6], codes),
        "x.weight_scale": ("F32", [], struct.pack("<f", 0.5)),
        "x.input_scale": ("F32", [], struct.pack("<f", 9.0)),
        "y.weight": ("F32", [1], bytes(4)),
    }
    path = write_raw("eight.safetensors", tensors)
    header, arrays = read(convert(path, tmp_path / "wide.safetensors", dtype=mx.bfloat16))
    assert set(header.tensors) == {"x.weight", "y.weight"}
    wanted = decode_e4m3(mx.array(np.frombuffer(codes, np.uint8)).reshape(4, 6)) * 0.5
    assert mx.array_equal(arrays["x.weight"], wanted.astype(mx.bfloat16))
    with pytest.raises(CheckpointError, match="Give --dtype"):
        convert(path, tmp_path / "same.safetensors")


def test_a_pickle_is_converted_beside_itself_once(tmp_path):
    path = tmp_path / "flownet.pkl"
    shutil.copyfile(FILES / "module_prefix.pkl", path)
    beside = as_safetensors(path)
    assert beside == tmp_path / "flownet.pkl.safetensors"
    made = beside.stat().st_mtime_ns
    assert as_safetensors(path) == beside and beside.stat().st_mtime_ns == made
    assert as_safetensors(beside) == beside


def test_a_pickle_that_changed_is_converted_again(tmp_path):
    path = tmp_path / "net.pth"
    shutil.copyfile(FILES / "bare.pth", path)
    first = Checkpoint(as_safetensors(path)).header
    shutil.copyfile(FILES / "half.pth", path)
    again = Checkpoint(as_safetensors(path)).header
    assert {info.dtype for info in first.tensors.values()} == {"F32"}
    assert {info.dtype for info in again.tensors.values()} == {"F16"}


def test_a_folder_that_cannot_be_written_to_says_the_command(tmp_path, monkeypatch):
    path = tmp_path / "net.pth"
    shutil.copyfile(FILES / "bare.pth", path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(CheckpointError, match=r"convert_weights\.py .*net\.pth --output FILE"):
        as_safetensors(path)


def test_targets_that_cannot_be_are_refused(small, tmp_path):
    with pytest.raises(CheckpointError, match=r"does not end in \.safetensors"):
        convert(small, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="is the source itself"):
        convert(small, small)
    with pytest.raises(CheckpointError, match="cannot be written"):
        convert(small, tmp_path / "nowhere/x.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "absent.pth", tmp_path / "x.safetensors")


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_bytes", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_safetensors(tmp_path / "x.safetensors", {"a": (mx.float32, (2,))}, lambda name: mx.zeros(2))
    assert not list(tmp_path.iterdir())


def test_an_interrupted_writer_leaves_the_old_file(small, tmp_path):
    def stop(name):
        raise KeyboardInterrupt

    before = small.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(small, {"a": (mx.float32, (2,))}, stop)
    assert small.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]
