"""From what a user writes to a path on this machine."""

from pathlib import Path

import pytest

from LTX_2_MLX.checkpoints import resolve as module
from LTX_2_MLX.checkpoints.catalog import ENTRIES
from LTX_2_MLX.checkpoints.resolve import ResolvedFile, entry_by_name, installed_path, resolve, weights_folders
from LTX_2_MLX.errors import CheckpointError

GEMMA = ("config.json", "tokenizer.json", "tokenizer_config.json", "model-00001-of-00001.safetensors")
DEMO = (
    "demo/ltx-2-demo-distilled.safetensors", "demo/ltx-2-demo-dev.safetensors", "demo/gemma/config.json",
    "demo/ltx-2-demo-spatial-upscaler-x2.safetensors",
)  # fmt: skip


def test_a_path_is_itself(machine):
    folder = machine(["mine/model.safetensors"])
    path = folder / "weights/mine/model.safetensors"
    assert resolve(path, "model") == resolve(str(path), "model") == ResolvedFile(path)


@pytest.mark.parametrize("place", ["ltx-2/", "", "anything/"])
@pytest.mark.parametrize(
    "given",
    ["ltx-2-19b-dev", "LTX-2-19B-dev", "ltx-2-19b-dev.safetensors", "Lightricks/LTX-2:ltx-2-19b-dev.safetensors"],
)
def test_a_published_file_is_found_by_each_of_its_names(machine, place, given):
    folder = machine([f"{place}ltx-2-19b-dev.safetensors"])
    resolved = resolve(given, "model")
    assert resolved.path == folder / f"weights/{place}ltx-2-19b-dev.safetensors"
    assert resolved.family == "LTX-2" and resolved.entry.variant == "dev"


def test_files_in_the_hub_cache_are_found(machine):
    folder = machine(
        cached={"Lightricks/LTX-2.3": ["ltx-2.3-22b-dev.safetensors"], "someone/else": ["sub/x.safetensors"]}
    )
    home = folder / "hub/models--Lightricks--LTX-2.3/snapshots/c0ffee"
    assert resolve("ltx-2.3-22b-dev", "model").path == home / "ltx-2.3-22b-dev.safetensors"
    assert resolve("Lightricks/LTX-2.3", "model").entry.name == "ltx-2.3-22b-dev"
    assert resolve("someone/else:sub/x.safetensors", "distilled-lora").path.name == "x.safetensors"


def test_a_folder_counts_only_when_it_is_whole(machine):
    folder = machine([f"gemma/gemma-3-12b-it/{name}" for name in GEMMA[:3]])
    entry = entry_by_name("gemma-3-12b-it")
    assert installed_path(entry) is None
    machine([f"gemma/gemma-3-12b-it/{GEMMA[3]}"])
    assert installed_path(entry) == folder / "weights/gemma/gemma-3-12b-it"
    assert installed_path(entry_by_name("gemma-3-12b-it-4bit")) is None


def test_a_plain_gemma_folder_serves_as_the_text_encoder_and_never_as_the_demos(machine):
    folder = machine([f"gemma/{name}" for name in GEMMA])
    assert resolve("auto", "text-encoder").path == folder / "weights/gemma"
    assert installed_path(entry_by_name("demo-gemma")) is None


def test_a_gemma_in_the_cache_is_its_snapshot_folder(machine):
    machine(cached={"mlx-community/gemma-3-12b-it-4bit": GEMMA})
    resolved = resolve("auto", "text-encoder")
    assert resolved.entry.name == "gemma-3-12b-it-4bit" and (resolved.path / "tokenizer.json").is_file()


def test_a_repository_without_a_file_means_its_file_of_that_role(machine):
    machine(["real-esrgan/RealESRGAN_x2.pth"])
    assert resolve("ai-forever/Real-ESRGAN", "upscaler").path.name == "RealESRGAN_x2.pth"
    machine(["real-esrgan/RealESRGAN_x4.pth.safetensors"])
    assert resolve("ai-forever/Real-ESRGAN", "upscaler").path.name == "RealESRGAN_x4.pth.safetensors"
    with pytest.raises(CheckpointError, match=r"elfgum/RIFE-4\.22\.lite has no model"):
        resolve("elfgum/RIFE-4.22.lite", "model")


def test_automatic_prefers_published_files_to_the_demo(machine):
    machine(DEMO)
    assert resolve("auto", "model").is_demo
    machine(["ltx-2/ltx-2-19b-dev.safetensors"])
    assert resolve("auto", "model").entry.name == "ltx-2-19b-dev"
    with pytest.raises(
        CheckpointError, match=r"ltx-2-19b-distilled is not on this machine.*43\.3 GB.*download_weights\.py ltx"
    ):
        resolve("ltx-2-19b-distilled", "model")


def test_automatic_obeys_the_variant(machine):
    folder = machine(DEMO)
    assert resolve("auto", "model", variant="dev").path == folder / "weights/demo/ltx-2-demo-dev.safetensors"
    machine(["ltx-2.3/ltx-2.3-22b-distilled.safetensors", "ltx-2/ltx-2-19b-dev-fp8.safetensors"])
    assert resolve("auto", "model", variant="dev").entry.name == "ltx-2-19b-dev-fp8"
    assert resolve("auto", "model", variant="distilled").entry.name == "ltx-2.3-22b-distilled"


def test_companions_come_from_the_family_of_their_model(machine):
    machine(
        [
            *DEMO,
            "ltx-2/ltx-2-spatial-upscaler-x2-1.0.safetensors",
            "ltx-2.3/ltx-2.3-spatial-upscaler-x2-1.0.safetensors",
        ]
    )
    machine(["ltx-2.3/ltx-2.3-22b-dev.safetensors", "ltx-2/ltx-2-19b-dev.safetensors", "my-model.safetensors"])
    for name, family in {"ltx-2.3-22b-dev": "LTX-2.3", "ltx-2-19b-dev": "LTX-2", "demo-dev": "demo"}.items():
        model = resolve(name, "model")
        assert resolve("auto", "spatial-upscaler", model=model).family == family
    demo = resolve("weights/demo/ltx-2-demo-dev.safetensors", "model")
    assert demo.is_demo and resolve("auto", "text-encoder", model=demo).path.name == "gemma"
    own = resolve("weights/my-model.safetensors", "model")
    assert own.family is None and resolve("auto", "spatial-upscaler", model=own).family == "LTX-2"
    with pytest.raises(CheckpointError, match="gemma-3-12b-it is not on this machine"):
        resolve("auto", "text-encoder", model=own)


def test_the_demo_that_is_not_there_is_said_so(machine):
    machine()
    with pytest.raises(CheckpointError, match=r"demo model is missing as well.*clone.*download_weights\.py"):
        resolve("auto", "model")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("weights/ltx-2/ltx-2-19b-dev.safetensors", "Get it: python scripts/download_weights.py ltx-2-19b-dev"),
        ("weights/nothing.safetensors", "does not exist"),
        ("no-such-name", "a catalogue name"),
        ("owner/repository", "has no model in the catalogue"),
        ("owner/repository:file.safetensors", "download_weights.py owner/repository:file.safetensors"),
        ("Lightricks/LTX-2:ltx-2-19b-dev.safetensors", "download_weights.py ltx-2-19b-dev"),
        ("", "does not exist"),
        ("a/b/c:d", "does not exist"),
        ("../../etc:passwd", "does not exist"),
        ("..:..", "does not exist"),
        ("a\0b", "does not exist"),
        ("x" * 5000, "does not exist"),
    ],
)
def test_what_is_not_there_is_one_line_that_says_what_to_do(machine, given, says):
    machine()
    with pytest.raises(CheckpointError) as caught:
        resolve(given, "model")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_weights_lie_beside_the_package_and_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert weights_folders() == [Path(module.__file__).parents[2] / "weights"]
    (tmp_path / "weights").mkdir()
    assert weights_folders()[0] == (tmp_path / "weights").resolve()


def test_names_in_the_catalogue_are_unique_and_say_what_they_are():
    names = [entry.name.lower() for entry in ENTRIES]
    assert len(set(names)) == len(names)
    for entry in ENTRIES:
        assert entry_by_name(entry.name) is entry and entry.networks and entry.licence
        assert (entry.repository is None) != (entry.url is None) or entry.family == "demo"
        assert all(file.sha256 is None or len(file.sha256) == 64 for file in entry.files)
