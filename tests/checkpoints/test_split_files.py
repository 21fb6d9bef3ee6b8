"""Checkpoints that lie in several files, as other tools and newer releases lay them out."""

import json
from pathlib import Path

import pytest
from mlx.utils import tree_flatten
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import write_weights

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder

PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("whole") / "whole.safetensors")


@pytest.fixture
def split(whole, tmp_path):
    """``split(prefix)``: transformer, connectors and autoencoder in a file each, the first two without a prefix."""
    with safe_open(whole, "np") as file:
        config = json.loads(file.metadata()["config"])
    tensors = load_file(whole)

    def is_text(name: str) -> bool:
        return "embeddings_connector" in name or name.startswith("text_emb")

    def write(prefix: str = PREFIX, **changes: dict) -> Path:
        sections = {"transformer": config["transformer"], "vae": config["vae"]}
        parts = {
            "1_vae": ("vae", [name for name in tensors if name.startswith("vae.")]),
            "2_connectors": ("transformer", [name for name in tensors if is_text(name)]),
            "3_transformer": (
                "transformer",
                [name for name in tensors if name.startswith("model.") and not is_text(name)],
            ),
        }
        for part, (section, names) in parts.items():
            values = sections[section] | changes.get(part, {})
            renamed = {
                (prefix + name.removeprefix(PREFIX) if part == "3_transformer" else name): tensors[name]
                for name in names
            }
            metadata = {"config": json.dumps({section: values})}
            save_file(renamed, tmp_path / f"{part}.safetensors", metadata=metadata)
        return tmp_path

    return write


def same_weights(network, one: Checkpoint, other: Checkpoint) -> bool:
    weights = [dict(tree_flatten(load(network, checkpoint).parameters())) for checkpoint in (one, other)]
    return all(bool((value == weights[1][name]).all()) for name, value in weights[0].items())


@pytest.mark.parametrize("prefix", [PREFIX, ""])
def test_split_files_load_as_the_whole_file_does(whole, split, prefix):
    folder = split(prefix)
    for checkpoint in (Checkpoint(folder), Checkpoint(sorted(folder.glob("*.safetensors"), reverse=True))):
        assert checkpoint.header.config == Checkpoint(whole).header.config
        for network in (Transformer, TextFeatures, VideoEncoder, VideoDecoder):
            assert same_weights(network, Checkpoint(whole), checkpoint)


def test_files_that_macos_keeps_beside_others_are_passed_over(split):
    folder = split()
    for name in ("._1_vae.safetensors", "._model.safetensors.index.json"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07" + bytes(4092))
    assert len(Checkpoint(folder).files) == 3


def test_files_that_contradict_each_other_are_refused(split):
    folder = split(**{"2_connectors": {"num_layers": 77}})
    with pytest.raises(CheckpointError, match=r"transformer\.num_layers = .*another file"):
        Checkpoint(folder)


def test_two_files_of_one_network_are_refused(split, whole):
    folder = split()
    with pytest.raises(CheckpointError, match="both hold the tensor"):
        Checkpoint([folder, whole])


def test_each_file_keeps_its_own_metadata(split):
    folder = split()
    for part, version in (("1_vae", "2.4.9"), ("3_transformer", "2.5.0")):
        path = folder / f"{part}.safetensors"
        with safe_open(path, "np") as file:
            metadata = file.metadata()
        save_file(load_file(path), path, metadata=metadata | {"model_version": version})
    checkpoint = Checkpoint(folder)
    decoder = checkpoint.file_of("vae.decoder.conv_in.conv.weight")
    assert checkpoint.metadata_of[decoder]["model_version"] == "2.4.9"
    blocks = checkpoint.file_of(f"{PREFIX}patchify_proj.weight")
    assert checkpoint.metadata_of[blocks]["model_version"] == "2.5.0"
