"""The ten published files of LTX-2.5 by name: what each holds, and that every tensor has one place."""

from collections import Counter

import pytest
from typer.testing import CliRunner

from LTX_2_MLX.checkpoints.contents import NETWORKS, UNUSED_TENSORS, inspect
from LTX_2_MLX.checkpoints.load import weights_bytes
from LTX_2_MLX.checkpoints.lora import Lora, LoraMerge
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.cli import inspect_checkpoint
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer

TRANSFORMERS = ("ltx-2.5-22b-dev-transformer-bf16", "ltx-2.5-22b-distilled-transformer-bf16")
GEMMA = "gemma4-12b-with-proj-ltx-2.5-bf16"
LORA = "ltx-2.5-22b-distilled-lora-450-bf16"
HOLDS = {
    TRANSFORMERS[0]: {"Transformer", "TextFeatures"},
    TRANSFORMERS[1]: {"Transformer", "TextFeatures"},
    LORA: set(),
    GEMMA: {"Gemma4"},
    "ltx-2.5-video-vae-bf16": {"VideoEncoder", "DiffusionVideoDecoder"},
    "ltx-2.5-video-vae-conv-bf16": {"VideoEncoder", "VideoDecoder"},
    "ltx-2.5-audio-vae-bf16": {"AudioEncoder", "AudioDecoder", "BandwidthExtensionVocoder"},
    "ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0": {"LatentUpscaler"},
    "ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0": {"LatentUpscaler"},
    "ltx-2.5-duration-head-bf16": {"DurationHead"},
}


@pytest.mark.parametrize("name", HOLDS)
def test_each_file_holds_its_networks_and_nothing_unknown(full_size, name):
    contents = inspect(full_size(f"{name}.safetensors").path)
    assert {network.name for network in contents.networks} == HOLDS[name]
    # Names and shapes of every network are those of its parameters, none missing and none left over.
    assert [network.problem for network in contents.networks] == [None] * len(HOLDS[name])
    assert all(others.note for others in contents.others)
    assert [others.name for others in contents.others if others.name == "LoRA"] == ["LoRA"] * (name == LORA)


@pytest.mark.parametrize("name", sorted(HOLDS.keys() - {LORA}))
def test_each_tensor_belongs_to_one_network(full_size, name):
    checkpoint = full_size(f"{name}.safetensors")
    present = [network for network in NETWORKS if network.__name__ in HOLDS[name] | {"TextFeatures"}]
    for tensor in checkpoint.header.tensors:
        owners = [network.__name__ for network in present if network.parameter_name(tensor) is not None]
        if "per_channel_statistics." in tensor:
            # Encoder and decoder load alone, so each has them.
            assert len(owners) in (2, 0)
        elif not owners:
            assert tensor.startswith(tuple(UNUSED_TENSORS)), tensor
        else:
            assert len(owners) == 1, tensor


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_text_features_are_complete_over_two_files(full_size, name):
    files = [full_size(f"{each}.safetensors").path for each in (name, GEMMA)]
    joined = Checkpoint(files)
    # The connectors, and the projections of the text encoder's file.
    assert weights_bytes(TextFeatures, joined) == 4_032_332_800 + 2_312_122_368
    projections = Counter(joined.file_of(tensor) for tensor in joined.header.tensors if "aggregate_embed" in tensor)
    assert projections == {files[1]: 4}


def test_every_tensor_of_the_lora_changes_one_matrix(full_size):
    weights = full_size(f"{TRANSFORMERS[0]}.safetensors")
    lora = Lora.open(full_size(f"{LORA}.safetensors").path)
    merge = LoraMerge(Transformer, weights, [lora])
    assert len(merge.changed) == len(lora.checkpoint.header.tensors) / 2 == 1660
    assert not any("match" in line for line in merge.notes)


def test_the_command_says_where_the_other_tensors_are(full_size):
    runner = CliRunner()
    transformer = full_size(f"{TRANSFORMERS[1]}.safetensors").path
    shown = runner.invoke(_app(), [str(transformer)])
    assert shown.exit_code == 0, shown.output
    assert "the projections are in the text encoder's file" in shown.output
    shown = runner.invoke(_app(), [str(full_size(f"{GEMMA}.safetensors").path)])
    assert shown.exit_code == 0, shown.output
    assert "images, not used for text" in shown.output
    assert "of the text features" in shown.output


def _app():
    import typer

    app = typer.Typer()
    app.command()(inspect_checkpoint.main)
    return app
