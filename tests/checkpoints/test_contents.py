"""What inspection says of a file."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from LTX_2_MLX.checkpoints.contents import inspect
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.verify.case import Case

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture
def case_file(tmp_path):
    return lambda name: Case.open(GOLDENS / name, tmp_path).write_checkpoint("file.safetensors")


def test_the_published_19b_file_holds_transformer_and_connectors(full_size):
    contents = inspect(full_size("ltx-2-19b-dev.safetensors.transformer").path)
    found = {network.name: network for network in contents.networks}
    assert set(found) == {"Transformer", "TextFeatures"} and not contents.others
    assert found["Transformer"].num_tensors == 3510 and found["Transformer"].precision.keys() == {"BF16"}
    assert found["Transformer"].num_bytes == pytest.approx(2 * 18.88e9, rel=1e-3)
    assert contents.num_bytes == pytest.approx(40.62e9, rel=1e-3)
    assert all(network.problem is None for network in contents.networks)
    assert contents.config["transformer"]["num_layers"] == 48


def test_the_float8_file_shows_its_precision(full_size):
    contents = inspect(full_size("ltx-2-19b-distilled-fp8.safetensors.transformer").path)
    assert next(iter(contents.networks[0].precision)) == "F8_E4M3"
    assert contents.networks[0].problem is None


def test_gemma_is_told_apart_from_its_vision_part(full_size, tmp_path):
    folder = tmp_path / "gemma"
    folder.mkdir()
    file = full_size("gemma-3-12b-it").path
    file.rename(folder / "model.safetensors")
    contents = inspect(folder)
    assert [network.name for network in contents.networks] == ["Gemma"]
    assert {network.name for network in contents.others} == {"vision_tower", "multi_modal_projector"}
    assert contents.networks[0].num_bytes == pytest.approx(23.5e9, rel=1e-2)


def test_an_adapter_is_called_one(full_size):
    contents = inspect(full_size("ltx-2-19b-distilled-lora-384.safetensors").path)
    assert [network.name for network in contents.others] == ["LoRA"] and not contents.networks
    assert contents.others[0].num_tensors == 2742


@pytest.mark.parametrize(
    ("case", "networks"),
    [
        ("ltx2/video_vae_2_0", {"VideoEncoder", "VideoDecoder"}),
        ("ltx2/temporal_upscaler_x2", {"LatentUpscaler"}),
        ("esrgan/srvgg_x4_conv16", {"SRVGG"}),
    ],
)
def test_networks_are_recognised_by_their_contents(case_file, case, networks):
    contents = inspect(case_file(find_case(case)))
    assert {network.name for network in contents.networks} == networks
    assert all(network.problem is None for network in contents.networks)


def find_case(name):
    return next(path.parent for path in sorted((GOLDENS / name).rglob("case.json"))).relative_to(GOLDENS)


def test_pickled_files_are_inspected_without_being_converted():
    path = GOLDENS / "esrgan/checkpoint_files/half.pth"
    contents = inspect(path)
    assert [network.name for network in contents.networks] == ["SRVGG"] and contents.networks[0].precision.keys() == {
        "F16"
    }
    assert not path.with_name("half.pth.safetensors").exists()


def test_what_is_wrong_with_a_network_is_said(write, full_size):
    spec = json.loads(
        gzip.decompress((GOLDENS.parent / "manifests/ltx-2-19b-dev.safetensors.transformer.json.gz").read_bytes())
    )
    config = spec["metadata"]["config"]
    names = {"model.diffusion_model.patchify_proj.weight": np.zeros((4096, 128), np.float16)}
    contents = inspect(write("part.safetensors", names, config=json.dumps(config)))
    assert contents.networks[0].name == "Transformer" and "0 transformer blocks" in contents.networks[0].problem
    config["transformer"]["num_layers"] = "many"
    contents = inspect(write("odd.safetensors", names, config=json.dumps(config)))
    assert "num_layers is 'many'" in contents.networks[0].problem


def test_a_published_name_tells_the_variant(full_size):
    path = full_size("ltx-2-19b-dev.safetensors.transformer").path
    named = path.rename(path.with_name("ltx-2-19b-dev.safetensors"))
    assert inspect(named).entry.variant == "dev"


def test_a_file_that_cannot_be_read_is_one_error(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        inspect(tmp_path / "absent.safetensors")
