"""Headers of .safetensors files, whole, damaged and hostile."""

import json
import random
import struct

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.checkpoints.reader import Checkpoint, parse_json
from LTX_2_MLX.errors import CheckpointError


@pytest.fixture
def small(write):
    """Three tensors, a config, and text in several scripts."""
    arrays = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(5, dtype=np.int32),
        "c": mx.array([1.5, -2.0], mx.bfloat16),
    }
    return write("small.safetensors", arrays, config=json.dumps({"layers": 3, "name": "模型 Ω"}), format="pt")


@pytest.fixture
def with_header(tmp_path):
    """``with_header(json, data)`` writes a file with that header, text or bytes."""

    def build(header, data=b"", length=None):
        text = header if isinstance(header, bytes) else header.encode()
        path = tmp_path / "crafted.safetensors"
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
        return path

    return build


def refusal(path):
    """The message of the one error that opening gives."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_names_shapes_values_and_config_are_read(small):
    checkpoint = Checkpoint(small)
    header = checkpoint.header
    assert {n: (i.shape, i.dtype, i.num_bytes) for n, i in header.tensors.items()} == {
        "a.weight": ((2, 3), "F32", 24), "b": ((5,), "I32", 20), "c": ((2,), "BF16", 4),
    }  # fmt: skip
    assert header.config == {"layers": 3, "name": "模型 Ω"} and header.metadata["format"] == "pt"
    arrays = checkpoint.arrays(["c", "a.weight"])
    assert list(arrays) == ["c", "a.weight"] and arrays["c"].tolist() == [1.5, -2.0]
    assert arrays["a.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_checkpoint_keeps_no_array_that_the_caller_drops(write):
    path = write("large.safetensors", {"x": np.zeros((256, 1024), np.float32)})
    checkpoint = Checkpoint(path)
    before = mx.get_active_memory()
    array = checkpoint.arrays(["x"])["x"]
    mx.eval(array)
    assert mx.get_active_memory() - before >= 1 << 20
    del array
    assert mx.get_active_memory() - before < 1 << 16


def test_a_file_cut_anywhere_is_one_error(small):
    whole = small.read_bytes()
    for length in range(len(whole)):
        small.write_bytes(whole[:length])
        refusal(small)
    small.write_bytes(whole + b"\0")
    assert "truncated or damaged" in refusal(small)


def test_flipped_bits_in_the_header_give_a_header_or_one_error(small):
    whole, chance = small.read_bytes(), random.Random(11)
    header_bytes = 8 + struct.unpack("<Q", whole[:8])[0]
    for _ in range(800):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 3)):
            damaged[chance.randrange(header_bytes)] ^= 1 << chance.randrange(8)
        small.write_bytes(damaged)
        try:
            checkpoint = Checkpoint(small)
            mx.eval(checkpoint.arrays(checkpoint.header.tensors))
        except CheckpointError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "header",
    [
        "", "[]", "3", "null", "nonsense", '{"a": 1', b"\xff\xfe{}", b"\xef\xbb\xbf{}", '{"x": NaN}',
        "[" * 200_000, '{"a":' * 200_000, '{"a": ' + "9" * 6000 + "}",
        '{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "x": 3}',
        '{"x": {"dtype": "F32", "dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}',
    ],
)  # fmt: skip
def test_a_header_that_is_no_json_object_is_refused(with_header, header):
    assert "not a readable safetensors file" in refusal(with_header(header, bytes(8)))


@pytest.mark.parametrize(
    "entries",
    [
        {"x": 3}, {"x": None}, {"x": []}, {"x": {}}, {"x": "F32"},
        {"x": {"dtype": "F32", "shape": [2]}},
        {"x": entry(dtype=["F32"])}, {"x": entry(dtype={})},
        {"x": entry(shape=2)}, {"x": entry(shape=None)}, {"x": entry(shape="22")}, {"x": entry(shape=[2.0])},
        {"x": entry(shape=[True, 2])}, {"x": entry(shape=[-2, -1])}, {"x": entry(shape=[10**40])},
        {"x": entry(shape=[1] * 15 + [2, 1])}, {"x": entry(shape=[[2]])}, {"x": entry(shape={"a": 2})},
        {"x": entry(offsets=[0])}, {"x": entry(offsets=[0, 8, 8])}, {"x": entry(offsets=[8, 0])},
        {"x": entry(offsets="08")}, {"x": entry(offsets=[0, 8.0])}, {"x": entry(offsets=[None, 8])},
        {"x": entry(offsets=[0, 10**30])}, {"x": entry(offsets=[1, 9])}, {"x": entry(offsets=[-8, 0])},
        {"x": entry(), "y": entry()}, {"x": entry(), "y": entry(offsets=[4, 12])},
        {"x": entry(shape=[1], offsets=[0, 4]), "y": entry(shape=[1], offsets=["4", 8])},
        {"a\nb": entry()}, {"\ud800": entry()}, {"\x1b[31m": entry()},
        {"__metadata__": {"config": 3}, "x": entry()}, {"__metadata__": [1], "x": entry()},
    ],
)  # fmt: skip
def test_a_header_that_is_wrong_about_a_tensor_is_refused(with_header, entries):
    assert "damaged" in refusal(with_header(json.dumps(entries), bytes(8)))


def test_an_unknown_dtype_is_named(with_header):
    assert "tensor x has the unknown dtype 'F4'" in refusal(with_header(json.dumps({"x": entry("F4")}), bytes(8)))


def test_gaps_and_unused_bytes_are_refused(with_header):
    gap = {"x": entry(shape=[1], offsets=[0, 4]), "y": entry(shape=[1], offsets=[8, 12])}
    assert "wrong about tensor y" in refusal(with_header(json.dumps(gap), bytes(12)))
    assert "describes 8 bytes of tensors, the file has 9" in refusal(with_header(json.dumps({"x": entry()}), bytes(9)))


@pytest.mark.parametrize("length", [0, 7, 2**63, 2**64 - 1, 10**9])
def test_a_wrong_length_of_the_header_is_refused(with_header, length):
    assert "not a readable safetensors file" in refusal(with_header('{"x": 3}', length=length))


def test_a_header_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 10**9))
        file.truncate(2 * 10**9)
    assert "not a readable safetensors file" in refusal(path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('{"a": NaN}', "it holds NaN"), ('{"a": -Infinity}', "it holds -Infinity"),
        ('{"a": 1, "a": 2}', "a name twice"),
        ("[]", "not a JSON object"), ("3", "not a JSON object"), ('{"a"', "is not JSON"),
        ('{"a":' * 100_000, "nested too deeply"), ('{"a": ' + "9" * 6000 + "}", "is not JSON"),
    ],
)  # fmt: skip
def test_a_config_that_is_no_json_object_is_refused(write, config, says):
    assert says in refusal(write("x.safetensors", {"x": np.zeros(2, np.float32)}, config=config))


def test_metadata_and_config_may_be_missing(with_header):
    for metadata in ({}, {"__metadata__": None}, {"__metadata__": {}}):
        header = Checkpoint(with_header(json.dumps(metadata | {"x": entry()}), bytes(8))).header
        assert header.config == {} and header.metadata == {} and list(header.tensors) == ["x"]


def test_a_file_that_is_not_there_or_not_a_file_is_named(tmp_path):
    assert "absent.safetensors does not exist" in refusal(tmp_path / "absent.safetensors")
    assert "holds no .safetensors file" in refusal(tmp_path)
    assert "cannot be read" in refusal(tmp_path / ("x" * 5000))


def test_tensors_that_mlx_cannot_read_are_named_when_they_are_wanted(write_raw):
    path = write_raw("x.safetensors", {"x": ("F64", [1], bytes(8)), "y": ("F32", [1], bytes(4))})
    checkpoint = Checkpoint(path)
    with pytest.raises(CheckpointError, match="tensor x is F64, which MLX does not read"):
        checkpoint.arrays(["y"])


def test_a_file_that_shrinks_after_it_was_opened_is_one_error(small):
    checkpoint = Checkpoint(small)
    small.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        checkpoint.arrays(["b"])
    assert "\n" not in str(caught.value)


def test_shards_are_joined_and_an_index_names_those_that_count(write):
    first = write("model/model-00001-of-00002.safetensors", {"a": np.zeros(2, np.float32)})
    write("model/model-00002-of-00002.safetensors", {"b": np.ones(3, np.float32)})
    write("model/unrelated.safetensors", {"a": np.zeros(9, np.float32)})
    folder = first.parent
    assert "both hold the tensor a" in refusal(folder)
    index = folder / "model.safetensors.index.json"
    places = {"a": first.name, "b": "model-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"weight_map": places}))
    checkpoint = Checkpoint(folder)
    assert set(checkpoint.header.tensors) == {"a", "b"} and checkpoint.arrays(["b"])["b"].tolist() == [1, 1, 1]
    index.write_text(json.dumps({"weight_map": places | {"c": "model-00003-of-00003.safetensors"}}))
    assert "lacks 1 of 3 files (model-00003-of-00003.safetensors)" in refusal(folder)
    for broken in ("{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "{}"):
        index.write_text(broken)
        assert "index.json" in refusal(folder)


def test_config_json_of_a_folder_stands_behind_the_metadata(write):
    path = write("model/x.safetensors", {"a": np.zeros(2, np.float32)}, config='{"layers": 3}')
    (path.parent / "config.json").write_text('{"layers": 5, "model_type": "gemma3"}')
    assert Checkpoint(path.parent).header.config == {"layers": 3, "model_type": "gemma3"}
    assert Checkpoint(path).header.config == {"layers": 3}


def test_json_is_parsed_strictly():
    assert parse_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    for text in ('{"a": {"b": 1, "b": 1}}', "[NaN]", b"\xff", "", "[" * 10**6):
        with pytest.raises(ValueError):
            parse_json(text)
