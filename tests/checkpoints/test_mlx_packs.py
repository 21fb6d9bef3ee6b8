"""Packs for MLX of other tools: split, renamed, turned and quantised, they load as the published file does."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
from mlx.utils import tree_flatten
from safetensors import safe_open
from typer.testing import CliRunner

from LTX_2_MLX import cli, read_video
from LTX_2_MLX.checkpoints.convert import convert
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.cli.generate import main
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder, AudioEncoder
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.models.ltx.vocoder import BandwidthExtensionVocoder

PREFIX = "model.diffusion_model."
NETWORKS = (Transformer, TextFeatures, VideoEncoder, VideoDecoder, AudioEncoder, AudioDecoder)
# The published order of axes -> MLX's.
TURNED = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
# Every matrix of the blocks fills groups of 32.
WIDE = {
    "attention_head_dim": 16, "cross_attention_dim": 64, "audio_attention_head_dim": 8, "audio_cross_attention_dim": 32,
    "connector_attention_head_dim": 16, "audio_connector_attention_head_dim": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("published") / "ltx-2.3-22b-distilled.safetensors"
    section = tiny_checkpoints.transformer_section_2_3(**WIDE)
    return tiny_checkpoints.write_weights(path, generation="2.3", sound=True, transformer=section)


def write_pack(published: Path, folder: Path, *, bits: int | None = None) -> Path:
    """A published file as mlx-forge lays it out."""
    folder.mkdir()
    parts: dict[str, dict[str, mx.array]] = {}
    for name, value in mx.load(str(published)).items():
        for part, own in part_and_name(name):
            turned = mx.contiguous(turn(value, name, part))
            quantised = quantise(own, turned, bits) if part == "transformer" else {own: turned}
            parts.setdefault(part, {}).update({f"{part}.{key}": array for key, array in quantised.items()})
    for part, tensors in parts.items():
        file = "transformer-distilled" if part == "transformer" else part
        mx.save_safetensors(str(folder / f"{file}.safetensors"), tensors)
    with safe_open(str(published), "np") as file:
        metadata = file.metadata()
    (folder / "embedded_config.json").write_text(metadata["config"])
    (folder / "config.json").write_text(json.dumps({"model_version": "2.3.0", "is_v2": True, "num_layers": 48}))
    return folder


def part_and_name(name: str) -> list[tuple[str, str]]:
    if name.startswith("vae.per_channel_statistics."):
        kind = name.rsplit(".", 1)[-1].split("-")[0]
        return [
            ("vae_decoder", f"per_channel_statistics.{kind}"),
            ("vae_encoder", f"per_channel_statistics._{kind}_of_means"),
        ]
    if name.startswith("vae."):
        _, half, rest = name.split(".", 2)
        return [(f"vae_{half}", rest)]
    if name.startswith("audio_vae."):
        return [("audio_vae", name.removeprefix("audio_vae.").replace("ics.mean-", "ics._mean-").replace(
            "ics.std-", "ics._std-").replace("-of-", "_of_"))]  # fmt: skip
    if name.startswith("vocoder."):
        return [("vocoder", name.replace("vocoder.", ""))]
    bare = name.removeprefix(PREFIX)
    if "_embeddings_connector." in name or name == bare:
        return [("connector", bare)]
    for theirs, ours in (
        (".to_out.0.", ".to_out."), (".ff.net.0.proj.", ".ff.proj_in."), (".ff.net.2.", ".ff.proj_out."),
        (".audio_ff.net.0.proj.", ".audio_ff.proj_in."), (".audio_ff.net.2.", ".audio_ff.proj_out."),
        (".linear_1.", ".linear1."), (".linear_2.", ".linear2."),
    ):  # fmt: skip
        bare = bare.replace(theirs, ours)
    return [("transformer", bare)]


def turn(value: mx.array, name: str, part: str) -> mx.array:
    last = name.rsplit(".", 1)[-1]
    if part in ("transformer", "connector") or value.ndim < 3:
        return value
    if part == "vocoder" and "ups." in name and last == "weight":
        return value.transpose(1, 2, 0)
    is_turned = last == "filter" or last.endswith("_basis") or (last == "weight" and "conv" in name)
    return value.transpose(TURNED[value.ndim]) if is_turned else value


def quantise(name: str, value: mx.array, bits: int | None) -> dict[str, mx.array]:
    is_matrix = "transformer_blocks" in name and name.endswith(".weight") and value.ndim == 2
    if bits is None or not is_matrix or value.shape[-1] % 32:
        return {name: value}
    path = name.removesuffix("weight")
    packed, scales, biases = mx.quantize(value, group_size=32, bits=bits)
    return {name: packed, f"{path}scales": scales, f"{path}biases": biases}


def parameters(network, checkpoint: Checkpoint) -> dict[str, mx.array]:
    return dict(tree_flatten(load(network, checkpoint).parameters()))


def test_every_network_of_a_pack_loads_as_the_published_file_does(published, tmp_path):
    pack, whole = Checkpoint(write_pack(published, tmp_path / "pack")), Checkpoint(published)
    assert pack.header.config.items() >= whole.header.config.items()
    for network in (*NETWORKS, BandwidthExtensionVocoder):
        got, expected = parameters(network, pack), parameters(network, whole)
        assert got.keys() == expected.keys()
        assert all(bool((got[name] == expected[name]).all()) for name in expected), network


@pytest.mark.parametrize("bits", [4, 8])
def test_bits_of_a_quantised_pack_are_told_by_its_shapes(published, tmp_path, bits):
    pack = Checkpoint(write_pack(published, tmp_path / "pack", bits=bits))
    got, expected = parameters(Transformer, pack), parameters(Transformer, Checkpoint(published))
    quantised = [name.removesuffix(".scales") for name in got if name.endswith(".scales")]
    assert len(quantised) > 20
    for path in quantised:
        stored = (got[f"{path}.{key}"] for key in ("weight", "scales", "biases"))
        value, whole = mx.dequantize(*stored, group_size=32, bits=bits), expected[f"{path}.weight"]
        assert value.shape == whole.shape
        assert float(mx.abs(value - whole).max() / mx.abs(whole).max()) < 2 / 2**bits
    plain = [name for name in expected if name.removesuffix(".weight") not in quantised]
    assert all(bool((got[name] == expected[name]).all()) for name in plain)


def test_upscaler_of_a_pack_loads_with_the_config_beside_it(tmp_path):
    published = tiny_checkpoints.write_upscaler(tmp_path / "published.safetensors")
    tensors = {}
    for name, value in mx.load(str(published)).items():
        is_turned = value.ndim > 2 and name.endswith((".weight", ".kernel"))
        tensors[f"spatial_upscaler_x2_v1_1.{name}"] = value.transpose(TURNED[value.ndim]) if is_turned else value
    tensors = {name: mx.contiguous(value) for name, value in tensors.items()}
    pack = tmp_path / "spatial_upscaler_x2_v1_1.safetensors"
    mx.save_safetensors(str(pack), tensors)
    with pytest.raises(CheckpointError, match=r"no spatial_upscaler_x2_v1_1_config\.json beside it"):
        Checkpoint(pack)
    with safe_open(str(published), "np") as file:
        config = json.loads(file.metadata()["config"])
    settings = {"config": config, "model_version": "2.3.0"}
    (tmp_path / "spatial_upscaler_x2_v1_1_config.json").write_text(json.dumps(settings))
    got, expected = parameters(LatentUpscaler, Checkpoint(pack)), parameters(LatentUpscaler, Checkpoint(published))
    assert all(bool((got[name] == expected[name]).all()) for name in expected)


def test_part_of_a_pack_is_converted_to_the_published_form(published, tmp_path):
    folder = write_pack(published, tmp_path / "pack")
    converted = convert(folder / "vae_decoder.safetensors", tmp_path / "vae.safetensors")
    got, expected = parameters(VideoDecoder, Checkpoint(converted)), parameters(VideoDecoder, Checkpoint(published))
    assert all(bool((got[name] == expected[name]).all()) for name in expected)


def run(*words):
    return CliRunner().invoke(cli.as_program(main), [str(word) for word in words])


def test_video_of_a_pack_is_that_of_the_published_file(published, tmp_path):
    gemma = tiny_checkpoints.write_gemma(tmp_path / "gemma")
    pack = write_pack(published, tmp_path / "pack")
    given = ("a ball", "--gemma", gemma, "--pipeline", "one-stage", "--steps", 1, "--cfg", 1)
    given += ("--height", 64, "--width", 64, "--frames", 9, "--allow-blank")
    videos = []
    for number, weights in enumerate((published, pack)):
        result = run(*given, "--weights", weights, "-o", tmp_path / f"{number}.webm")
        assert result.exit_code == 0, result.stderr
        videos.append(read_video(tmp_path / f"{number}.webm"))
    assert np.array_equal(videos[0].array(), videos[1].array()) and videos[1].audio is not None
    assert "transformer-distilled.safetensors counts as distilled, by its name" in " ".join(result.stderr.split())


def test_variant_chooses_between_the_transformers_of_a_pack(published, tmp_path):
    gemma = tiny_checkpoints.write_gemma(tmp_path / "gemma")
    pack = write_pack(published, tmp_path / "pack", bits=8)
    shutil.copy(pack / "transformer-distilled.safetensors", pack / "transformer-dev.safetensors")
    given = ("a ball", "--gemma", gemma, "--weights", pack, "--pipeline", "one-stage", "--dry-run")
    refused, chosen = run(*given), run(*given, "--model-variant", "distilled")
    assert refused.exit_code == cli.REFUSED and "--model-variant dev or distilled" in " ".join(refused.stderr.split())
    assert chosen.exit_code == 0 and "8 steps" in chosen.stdout + chosen.stderr, chosen.stderr


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("transformer_blocks.0.attn1.to_out.weight", "pack for mlx-video"),
        ("per_channel_statistics.mean_of_means", "pack for mlx-video"),
        ("text_encoder.model.language_model.norm.weight", "text encoder of an MLX pack"),
        ("transformer.patchify_proj.weight", r"without the model's whole config \(embedded_config\.json\)"),
        ("vae_decoder_conv.per_channel_statistics.mean", "without the model's whole config"),
    ],
)
def test_packs_without_a_whole_config_are_refused_with_the_reason(tmp_path, name, line):
    # As the packs of LTX-2.5 have it.
    (tmp_path / "embedded_config.json").write_text(json.dumps({"transformer": {}, "scheduler": {}}))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {name: mx.zeros((2, 2))})
    with pytest.raises(CheckpointError, match=line):
        Checkpoint(tmp_path / "model.safetensors")
    assert run("a ball", "--weights", tmp_path, "--gemma", tmp_path).exit_code == cli.REFUSED
