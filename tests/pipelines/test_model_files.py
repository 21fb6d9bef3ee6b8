"""Which files a film is made with, as users write them."""

import mlx.core as mx
import pytest
from safetensors.numpy import load_file, save_file

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.pipelines.model_files import FileOptions, find_models


@pytest.fixture
def found(files, tmp_path, monkeypatch):
    """``found(*loras)``: the adapters that are opened in a folder with ``weights/mine/style.safetensors``."""
    place = tmp_path / "weights" / "mine"
    place.mkdir(parents=True)
    save_file(load_file(files.lora), str(place / "style.safetensors"))
    monkeypatch.chdir(tmp_path)

    def opened(*loras):
        options = FileOptions(
            weights=str(files.weights), variant="distilled", gemma=None, loras=loras, dtype=mx.float32
        )
        return [(lora.checkpoint.path.name, lora.strength) for lora in find_models(options, pytest.fail).loras]

    return opened


@pytest.mark.parametrize(
    ("given", "strength"),
    [
        ("weights/mine/style.safetensors", 1.0),
        ("weights/mine/style.safetensors:0.5", 0.5),
        ("someone/styles:style.safetensors", 1.0),
        ("someone/styles:deep/style.safetensors:-0.25", -0.25),
    ],
)
def test_lora_is_a_path_or_a_file_of_a_repository_with_its_strength(found, given, strength):
    assert found(given) == [("style.safetensors", strength)]


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("someone/styles", "Give someone/styles:FILE"),
        ("someone/styles:other.safetensors:0.5", "download_weights.py someone/styles:other.safetensors"),
        ("auto", "Give a path"),
        ("nowhere.safetensors", "does not exist"),
    ],
)
def test_lora_that_is_not_here_says_how_to_get_it(found, given, cure):
    with pytest.raises(CheckpointError) as refused:
        found(given)
    assert cure in str(refused.value)
