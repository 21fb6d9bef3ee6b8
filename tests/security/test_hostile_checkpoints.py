"""Weights and tokenizers of strangers: refused in one line, or read without writing or starting anything unasked."""

import json
import shutil
import time
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from LTX_2_MLX import cli, files
from LTX_2_MLX.checkpoints.contents import inspect
from LTX_2_MLX.checkpoints.convert import as_safetensors, convert
from LTX_2_MLX.checkpoints.gemma_tokenizer import GemmaTokenizer
from LTX_2_MLX.checkpoints.quantization import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint, read_header
from LTX_2_MLX.checkpoints.torch_file import read_torch_file
from LTX_2_MLX.cli import convert_weights, generate, inspect_checkpoint, upscale
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.files import content_digest
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.pipelines.generation.files import ModelDefaults
from LTX_2_MLX.pipelines.generation.record import saved_record

INPUTS = Path(__file__).parent / "inputs"
ROOT = Path(__file__).parents[2]
GEMMA = ROOT / "weights" / "demo" / "gemma"


def run(command, *words):
    return CliRunner().invoke(cli.as_program(command.main), [str(word) for word in words])


@pytest.fixture
def copied(tmp_path):
    """The inputs of a folder, copied to where they may be harmed."""
    return lambda name: Path(shutil.copytree(INPUTS / name, tmp_path / name))


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("path", sorted(INPUTS.glob("pth-*/*.pth")), ids=lambda path: path.name)
def test_torch_files_that_never_end_or_unfold_are_refused(path, stored, tmp_path):
    if stored:
        # The pickle's own checks, behind that of the compression.
        if path.name == "storage_bomb.pth":
            pytest.skip("its size is its fault")
        with zipfile.ZipFile(path) as before, zipfile.ZipFile(tmp_path / path.name, "w") as after:
            for entry in before.namelist():
                after.writestr(entry, before.read(entry))
        path = tmp_path / path.name
    with pytest.raises(CheckpointError):
        read_torch_file(path)


@pytest.mark.parametrize("name", ["wan0", "wanheads", "markup"])
def test_strange_headers_are_the_files_fault(name):
    result = run(inspect_checkpoint, INPUTS / "record-wrong-types" / f"{name}.safetensors")
    assert result.exit_code in (0, 2) and "bug in this program" not in result.stderr, result.stderr


def test_a_conversion_replaces_no_file_of_the_users(copied):
    folder = copied("conversion-overwrites")
    before = (folder / "model.pth.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="was not made by a conversion"):
        as_safetensors(folder / "model.pth")
    assert run(convert_weights, folder / "model.pth").exit_code == 2
    assert (folder / "model.pth.safetensors").read_bytes() == before


def test_a_dry_run_converts_nothing(copied, tmp_path):
    folder = copied("conversion-overwrites")
    (folder / "model.pth.safetensors").unlink()
    words = (folder / "picture.png", "-o", tmp_path / "o.png", "--model-path", folder / "model.pth")
    assert run(upscale, *words, "--dry-run").exit_code == 2
    assert not (folder / "model.pth.safetensors").exists()


def test_a_quantised_folder_holds_no_other_files(tmp_path):
    shutil.copytree(GEMMA, tmp_path / "gemma")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "gemma" / "notes.json").symlink_to("../secret.txt")
    convert(tmp_path / "gemma", tmp_path / "q8", quantize=Quantization(8, 32))
    assert not (tmp_path / "q8" / "notes.json").exists()
    (tmp_path / "gemma" / "added_tokens.json").symlink_to("../secret.txt")
    with pytest.raises(CheckpointError, match="link out of its folder"):
        convert(tmp_path / "gemma", tmp_path / "second", quantize=Quantization(8, 32))


GROWING = {"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 20}


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Precompiled", "precompiled_charsmap": "////"},
        {"type": "Sequence", "normalizers": [GROWING] * 8},
        {"type": "Sequence", "normalizers": [GROWING | {"pattern": {"String": "a"}}]},
        {"type": "Sequence", "normalizers": {"a": 1}},
    ],
)
def test_tokenizers_that_panic_or_grow_are_refused(normalizer, tmp_path):
    facts = json.loads((GEMMA / "tokenizer.json").read_text(encoding="utf-8")) | {"normalizer": normalizer}
    (tmp_path / "tokenizer.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="normalizer"):
        GemmaTokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"continuing_subword_prefix": "aaaa"}},
        {"model": {"end_of_word_suffix": "aaaa"}},
        {"post_processor": {"special_tokens": {}}},
        {"post_processor": {"special_tokens": []}},
        {"post_processor": {"single": [{"SpecialToken": {"id": ["<bos>"], "type_id": 0}}]}},
    ],
)
def test_tokenizers_whose_parts_do_not_fit_are_refused_before_rust_panics(changes, tmp_path, capfd):
    facts = json.loads((GEMMA / "tokenizer.json").read_text(encoding="utf-8"))
    for part, fields in changes.items():
        facts[part] |= fields
    (tmp_path / "tokenizer.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError):
        GemmaTokenizer.from_folder(tmp_path)(["a ball"])
    assert "panicked" not in capfd.readouterr().err


def test_a_length_that_is_no_number_is_not_used(tmp_path):
    shutil.copy(GEMMA / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": true}')
    assert GemmaTokenizer.from_folder(tmp_path).max_length == 1024


class PanicException(BaseException):
    """As Rust's panics arrive in Python: no Exception."""


@pytest.mark.parametrize(
    "failure", [MemoryError(), RecursionError("too deep"), PanicException("index 3"), ValueError()]
)
def test_failures_inside_the_tokenizer_are_the_files(failure, monkeypatch):
    tokenizer = GemmaTokenizer.from_folder(GEMMA)

    class Failing:
        def encode(self, text):
            raise failure

    monkeypatch.setattr(tokenizer, "_tokenizer", Failing())
    with pytest.raises(CheckpointError, match=r"tokenizer.json is damaged"):
        tokenizer(["a ball"])


@pytest.mark.parametrize("failure", [MemoryError(), RecursionError("too deep")])
def test_failures_inside_json_are_the_files(failure, monkeypatch, tmp_path):
    def fail(text):
        raise failure

    path = tmp_path / "a.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    monkeypatch.setattr(files._DECODER, "decode", fail)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_header(path)


@pytest.mark.parametrize("text", ["1e99999999", "9" * 5000, "1/0", "nan", "x", '"1e999"'])
def test_rates_in_a_checkpoints_metadata_are_bounded(text):
    with pytest.raises(CheckpointError, match="own defaults"):
        ModelDefaults.from_header(Header({}, {"defaults": json.dumps({"frame_rate": text})}))
    with pytest.raises(CheckpointError, match="own defaults"):
        ModelDefaults.from_header(Header({}, {"defaults": '{"height": 1e999}'}))


@pytest.mark.parametrize("path", ["/dev/zero", "missing"])
def test_digests_are_of_files(path):
    with pytest.raises(RequestError, match=r"is not a file|cannot be read"):
        content_digest(path)


def test_a_header_of_very_many_tensors_is_inspected_in_seconds_and_little_memory(tmp_path):
    path, count = tmp_path / "many.safetensors", 40_000
    entries = {
        f"model.diffusion_model.transformer_blocks.{index}.attn1.to_q.weight": {
            "dtype": "F32",
            "shape": [1],
            "data_offsets": [4 * index, 4 * index + 4],
        }
        for index in range(count)
    }
    header = json.dumps(entries | {"__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4 * count))
    start = time.process_time()
    contents = inspect(path)
    assert sum(part.num_tensors for part in contents.others) == count and contents.metadata == {"format": "pt"}
    assert time.process_time() - start < 10
    tensors, _ = read_header(path)
    assert list(tensors) == list(entries)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": ' + b"[" * 5_000_000,
        b'{"a":[' + b"[]," * 1_500_000 + b"[]]}",
        b'{"__metadata__":{' + b",".join(b'"%d":"x"' % index for index in range(500_000)),
        b'{"__metadata__":{},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' + b" " * 4_000_000 + b"}",
    ],
)
def test_large_headers_that_describe_no_tensors_are_refused(text, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(CheckpointError, match="Download it again"):
        read_header(path)


def test_a_folder_of_settings_that_never_end_is_refused(tmp_path):
    (tmp_path / "request.json").symlink_to("/dev/zero")
    with pytest.raises(RequestError, match=r"cannot be read \(not a file\)"):
        saved_record(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "model.safetensors.index.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="not a file"):
        Checkpoint(tmp_path)


def test_a_whole_disk_is_no_model(tmp_path):
    # As weights of a record, it ended in "a bug in this program".
    outcome = run(generate, "a ball", "--weights", "/", "-o", tmp_path / "o.mp4", "--dry-run")
    assert outcome.exit_code == 2 and "bug" not in outcome.output, outcome.output


def test_a_folder_of_very_many_files_gets_no_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MAX_FILES", 10)
    for index in range(11):
        (tmp_path / f"{index}.bin").write_bytes(b"x")
    with pytest.raises(RequestError, match="more than 10 files, so it is no model"):
        content_digest(tmp_path)
