"""Defaults of a checkpoint, by its generation and by its own metadata; files as users name them."""

import json
from fractions import Fraction
from types import SimpleNamespace

import mlx.core as mx
import pytest
from safetensors.numpy import load_file, save_file

from LTX_2_MLX.diffusion.sampler import REFINEMENT
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines.generation.files import ModelDefaults, open_models, usual_dtype, version_of
from LTX_2_MLX.pipelines.generation.options import Options


def header(**metadata):
    return Header(tensors={}, metadata=metadata)


@pytest.mark.parametrize(
    ("text", "version"),
    [("2.3.0", (2, 3, 0)), ("2.3.rc1", (2, 3)), ("2.4-rc2", (2, 4)), ("", ()), ("new", ()), ("2", (2,))],
)
def test_version_is_read_from_every_spelling(text, version):
    assert version_of(header(model_version=text)) == version


@pytest.mark.parametrize(
    ("version", "crf", "block", "sampler"),
    [
        (None, 33, 29, "euler"), ("2.0", 33, 29, "euler"), ("2.3.0", 33, 28, "euler"), ("2.4-rc2", 18, 28, "euler"),
        ("2.5", 18, 28, "ancestral"), ("3.0", 18, 28, "ancestral"),
    ],
)  # fmt: skip
def test_generation_sets_what_differs_between_generations(version, crf, block, sampler):
    found = ModelDefaults.from_header(header(**({"model_version": version} if version else {})))
    assert (found.image_crf, found.stg_block, found.distilled_sampler) == (crf, block, sampler)


def test_published_defaults_hold_where_the_model_says_nothing():
    found = ModelDefaults.from_header(header())
    assert (found.height, found.width, found.num_frames, found.frame_rate) == (480, 704, 97, 24)
    assert (found.steps, found.steps_stage1, found.steps_stage2, found.cfg) == (30, 15, 3, 5.0)


def test_model_may_bring_defaults_of_its_own():
    own = {
        "height": 64,
        "width": 96,
        "num_frames": 17,
        "frame_rate": "24000/1001",
        "cfg": 3,
        "audio_cfg": 1.5,
        "notice": "Small.",
    }
    found = ModelDefaults.from_header(header(defaults=json.dumps(own)))
    assert (found.height, found.width, found.num_frames, found.notice) == (64, 96, 17, "Small.")
    assert found.frame_rate == Fraction(24000, 1001) and found.cfg == 3.0 and found.steps == 30
    assert found.audio_cfg == 1.5
    assert found.refinement == REFINEMENT


def test_model_may_bring_noise_levels_of_its_own_for_the_refinement():
    found = ModelDefaults.from_header(header(defaults=json.dumps({"refinement": [0.6, 0.25, 0]})))
    assert found.refinement == (0.6, 0.25, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '{"height": "tall"}', '{"height": 0}', '{"frame_rate": "1/0"}', "3", '{"refinement": [0.5, 0.6, 0]}',
        '{"refinement": [2, 1, 0]}', '{"refinement": [0]}', '{"refinement": [0.5, 0.1]}', '{"refinement": 0.5}',
    ],
)  # fmt: skip
def test_damaged_defaults_are_refused(text):
    with pytest.raises(CheckpointError, match="own defaults"):
        ModelDefaults.from_header(header(defaults=text))


def test_bypassed_block_lies_at_the_same_depth_in_a_small_network():
    found = ModelDefaults.from_header(header())
    assert found.stg_blocks(48) == (29,)
    assert found.stg_blocks(6) == (3,)
    assert found.stg_blocks(1) == (0,)


@pytest.fixture
def opened_loras(files, tmp_path, monkeypatch):
    """``opened_loras(*loras)``: the adapters that are opened in a folder with ``weights/mine/style.safetensors``."""
    folder = tmp_path / "weights" / "mine"
    folder.mkdir(parents=True)
    save_file(load_file(files.lora), str(folder / "style.safetensors"))
    monkeypatch.chdir(tmp_path)

    def opened(*loras):
        options = Options(
            "A ball",
            pipeline="one-stage",
            weights=str(files.weights),
            model_variant="distilled",
            gemma=str(files.gemma),
            lora=loras,
        )
        return [(lora.checkpoint.path.name, lora.strength) for lora in open_models(options, pytest.fail).loras]

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
def test_lora_is_a_path_or_a_file_of_a_repository_with_its_strength(opened_loras, given, strength):
    assert opened_loras(given) == [("style.safetensors", strength)]


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("someone/styles", "Give someone/styles:FILE"),
        ("someone/styles:other.safetensors:0.5", "download_weights.py someone/styles:other.safetensors"),
        ("auto", "Give a path"),
        ("nowhere.safetensors", "does not exist"),
    ],
)
def test_lora_that_is_not_here_says_how_to_get_it(opened_loras, given, advice):
    with pytest.raises(CheckpointError) as refused:
        opened_loras(given)
    assert advice in str(refused.value)


@pytest.mark.parametrize(
    ("backend", "stored", "num_bytes", "dtype"),
    [
        ("gpu", "F16", 2**30, mx.float16),
        ("gpu", "BF16", 2**30, mx.bfloat16),
        ("gpu", "F8_E4M3", 2**30, mx.bfloat16),
        ("gpu", "F16", 2**20, mx.float32),
        ("cpu", "F16", 2**30, mx.float32),
    ],
)
def test_a_model_runs_in_the_type_it_is_stored_in(backend, stored, num_bytes, dtype):
    tensors = {
        "blocks": TensorInfo(shape=(num_bytes,), dtype=stored, num_bytes=num_bytes),
        "norms": TensorInfo(shape=(1024,), dtype="F32", num_bytes=4096),
    }
    checkpoint = SimpleNamespace(header=Header(tensors=tensors, metadata={}))
    with as_backend(backend):
        assert usual_dtype(checkpoint) == dtype
