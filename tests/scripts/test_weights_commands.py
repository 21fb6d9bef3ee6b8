"""The commands that fetch, inspect and convert weights, as users type them."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from LTX_2_MLX import cli
from LTX_2_MLX.checkpoints.catalog import ENTRIES
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.transfer import RemoteFile

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests/goldens/esrgan/checkpoint_files"


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_command", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module, *arguments):
    return CliRunner().invoke(cli.as_program(module.main), list(map(str, arguments)))


@pytest.fixture
def download(monkeypatch, tmp_path):
    """The command with a hub that answers at once and fetches nothing."""
    from LTX_2_MLX.checkpoints import download as library
    from LTX_2_MLX.cli import download_weights

    module = load("download_weights")
    module.fetched = []
    monkeypatch.setattr(download_weights, "weights_folder", lambda: tmp_path / "weights")
    monkeypatch.setattr(library, "look_up", lambda entry: [RemoteFile(f.path, 3 * 10**9) for f in entry.files])
    monkeypatch.setattr(library, "is_here", lambda entry, remote: False)
    monkeypatch.setattr(library, "fetch", lambda entry, remote, weights, advance: module.fetched.append(remote.path))
    monkeypatch.setattr(library, "free_bytes", lambda folder: 10**11)
    return module


@pytest.mark.parametrize("arguments", [[], ["--list"]])
def test_the_list_shows_every_published_file_with_size_and_licence(download, arguments):
    result = run(download, *arguments)
    assert result.exit_code == 0 and all(entry.name in result.output for entry in ENTRIES)
    line = next(line for line in result.output.splitlines() if line.startswith("ltx-2-19b-dev "))
    assert "43.30 GB" in line and "LTX-2 Community License" in line


def test_size_licence_and_free_disk_are_shown_before_anything_is_fetched(download):
    result = run(download, "ltx-2-19b-dev", "rife-4.22.lite", "--dry-run")
    assert result.exit_code == 0 and not download.fetched
    for text in (
        "ltx-2-19b-dev: 1 files, 3.00 GB",
        "LTX-2 Community License",
        "MIT",
        "To fetch: 6.00 GB. Free disk: 100.0 GB",
    ):
        assert text in result.output
    assert run(download, "ltx-2-19b-dev", "rife-4.22.lite").exit_code == 0
    assert download.fetched == ["ltx-2-19b-dev.safetensors", "flownet.pkl"]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_fetched(download, monkeypatch):
    monkeypatch.setattr("LTX_2_MLX.checkpoints.download.free_bytes", lambda folder: 4 * 10**9)
    result = run(download, "ltx-2-19b-dev")
    assert result.exit_code == 2 and "HF_HOME" in result.output and not download.fetched
    assert run(download, "ltx-2-19b-dev", "--force").exit_code == 0 and download.fetched


def test_an_unknown_name_is_one_line(download):
    result = run(download, "nothing")
    assert result.exit_code == 2 and "'nothing' is not in the catalogue" in result.output


def test_conversion_writes_beside_the_file_and_says_so(tmp_path):
    path = tmp_path / "net.pth"
    shutil.copyfile(FILES / "params.pth", path)
    module = load("convert_weights")
    assert run(module, path).exit_code == 0
    result = run(module, path, "--dtype", "float16", "-o", tmp_path / "half.safetensors")
    assert result.exit_code == 0 and "half.safetensors" in result.output
    tensors = Checkpoint(tmp_path / "half.safetensors").header.tensors
    assert {info.dtype for info in tensors.values()} == {"F16"}
    assert list(tensors) == list(Checkpoint(tmp_path / "net.pth.safetensors").header.tensors)


@pytest.mark.parametrize(
    "arguments", [["-o", "nowhere/x.safetensors"], ["--dtype", "float8"], ["-q", "3"], ["-o", "x.pth"]]
)
def test_conversions_that_cannot_be_end_with_exit_code_2(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(FILES / "params.pth", "net.pth")
    assert run(load("convert_weights"), "net.pth", *arguments).exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


def test_group_size_without_quantisation_is_refused(tmp_path):
    given = (FILES / "params.pth", "-o", tmp_path / "out.safetensors", "--group-size", "32")
    result = run(load("convert_weights"), *given)
    assert result.exit_code == 2 and "without --quantize" in result.output and not list(tmp_path.iterdir())


def test_inspection_prints_a_table_or_json():
    module = load("inspect_checkpoint")
    result = run(module, FILES / "params.pth")
    assert result.exit_code == 0 and "SRVGG" in result.output and "F32" in result.output
    found = json.loads(run(module, FILES / "params.pth", "--json").output)
    assert found["parts"][0]["name"] == "SRVGG" and found["num_bytes"] == 4 * 712


def test_inspection_of_what_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(load("inspect_checkpoint"), "weights/ltx-2/ltx-2-19b-dev.safetensors")
    assert result.exit_code == 2 and "download_weights.py ltx-2-19b-dev" in result.output
