"""Gemma 3 as other tools keep it: in a diffusers repository, and in a single file."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from LTX_2_MLX import cli, read_video
from LTX_2_MLX.checkpoints.gemma3 import encode_prompts, load_gemma
from LTX_2_MLX.cli.generate import main
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.pipelines.generation.files import text_encoder_digest
from LTX_2_MLX.pipelines.generation.split_files import kind_of

PROMPT = "a blue ball"


@pytest.fixture
def folder(tmp_path) -> Path:
    """As ``google/gemma-3-12b-it`` has it."""
    return tiny_checkpoints.write_gemma(tmp_path / "gemma")


def as_diffusers(folder: Path, target: Path) -> Path:
    """``text_encoder/`` in two shards under the names of newer libraries, and ``tokenizer/``."""
    encoder, tokenizer = target / "text_encoder", target / "tokenizer"
    encoder.mkdir(parents=True)
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tokenizer / name)
    shutil.copy(folder / "config.json", encoder / "config.json")
    tensors = {
        name.replace("language_model.model.", "model.language_model."): value
        for name, value in load_file(folder / "model.safetensors").items()
    }
    weight_map = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, encoder / shard)
        weight_map |= dict.fromkeys(names, shard)
    (encoder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return target


def as_single_file(folder: Path, path: Path, *, inside: bool) -> Path:
    """One file under ComfyUI's names; ``inside``: config and tokenizer in it, else beside it.

    Its SentencePiece model is none: the tokenizers in the form of the Hugging Face library come before it.
    """
    path.parent.mkdir()
    tensors = {
        name.replace("language_model.model.", "model."): value
        for name, value in load_file(folder / "model.safetensors").items()
    }
    tensors["spiece_model"] = np.zeros(7, np.uint8)
    if not inside:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(folder / name, path.parent / name)
        save_file(tensors, path)
        return path
    for name, file in (("tokenizer_json", "tokenizer.json"), ("hf_asset__tokenizer_config.json",) * 2):
        data = (folder / file.removeprefix("hf_asset__")).read_bytes()
        tensors[name] = np.frombuffer(data, np.uint8).copy()
    save_file(tensors, path, metadata={"gemma_config": (folder / "config.json").read_text()})
    return path


def states(path: Path) -> list[mx.array]:
    return encode_prompts(load_gemma(path), [PROMPT], max_length=32)[0]


@pytest.fixture(params=["diffusers repository", "its text_encoder", "file", "file with all inside"])
def other(request, folder, tmp_path) -> Path:
    if "file" in request.param:
        return as_single_file(folder, tmp_path / "comfy" / "gemma_3_12B_it.safetensors", inside="all" in request.param)
    repository = as_diffusers(folder, tmp_path / "ltx-2")
    return repository / "text_encoder" if "its" in request.param else repository


def test_states_are_those_of_the_published_folder(folder, other):
    got, expected = states(other), states(folder)
    assert len(got) == len(expected)
    assert all(bool((mine == theirs).all()) for mine, theirs in zip(got, expected, strict=True))


def test_digest_knows_a_tokenizer_that_lies_elsewhere(folder, other):
    encoder = other / "text_encoder" if (other / "text_encoder").is_dir() else other
    before = text_encoder_digest(encoder)
    assert before == text_encoder_digest(encoder)
    tokenizers = [*other.parent.rglob("tokenizer.json")]
    for tokenizer in tokenizers:
        if tokenizer.parent != folder:
            tokenizer.write_text(tokenizer.read_text() + " ")
            assert text_encoder_digest(encoder) != before


def test_file_without_its_tokenizer_or_config_is_refused_with_what_to_do(folder, tmp_path):
    path = as_single_file(folder, tmp_path / "comfy" / "gemma_3_12B_it.safetensors", inside=False)
    (path.parent / "tokenizer.json").unlink()
    save_file({name: value for name, value in load_file(path).items() if name != "spiece_model"}, path)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json beside it\. Put the tokenizer\.json and the config"):
        load_gemma(path)
    shutil.copy(folder / "tokenizer.json", path.parent)
    (path.parent / "config.json").unlink()
    weights = tiny_checkpoints.write_weights(tmp_path / "weights.safetensors")
    result = run(PROMPT, "--weights", weights, "--gemma", path, "--pipeline", "one-stage", "--dry-run")
    assert result.exit_code == cli.REFUSED
    assert "no Gemma 3, nor a Gemma 4" in result.stderr and "config.json beside it" in " ".join(result.stderr.split())


def test_file_is_known_as_a_text_encoder_among_the_files_of_a_model(folder, tmp_path):
    for inside in (False, True):
        path = as_single_file(folder, tmp_path / f"inside-{inside}" / "gemma.safetensors", inside=inside)
        assert kind_of(path) == "text encoder"


def run(*words):
    return CliRunner().invoke(cli.as_program(main), [str(word) for word in words])


def test_video_is_the_same_and_the_repository_is_found_beside_the_weights(folder, tmp_path):
    repository = as_diffusers(folder, tmp_path / "ltx-2")
    weights = tiny_checkpoints.write_weights(repository / "ltx-2-19b-distilled.safetensors")
    file = as_single_file(folder, tmp_path / "comfy" / "gemma_3_12B_it.safetensors", inside=True)
    given = (PROMPT, "--weights", weights, "--pipeline", "one-stage", "--steps", 1, "--cfg", 1, "--no-audio")
    given += ("--height", 64, "--width", 64, "--frames", 9, "--allow-blank")
    videos = []
    for number, gemma in enumerate((folder, repository, file, None)):
        words = () if gemma is None else ("--gemma", gemma)
        result = run(*given, *words, "-o", tmp_path / f"{number}.webm")
        assert result.exit_code == 0, result.stderr
        videos.append(read_video(tmp_path / f"{number}.webm").array())
    assert all(np.array_equal(video, videos[0]) for video in videos[1:])
