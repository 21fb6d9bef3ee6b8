"""Scale, naming and purpose of adapters as trainers write them."""

import json
from pathlib import Path

import numpy as np
import pytest

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.lora import Lora, LoraMerge
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.ltx.transformer import Transformer

ADAPTERS = Path(__file__).parents[1] / "cases" / "adapters"
DEMO = Path(__file__).parents[2] / "weights" / "demo" / "ltx-2-demo-dev.safetensors"
RANK = 4
DOWN = np.arange(12.0).reshape(RANK, 3).astype(np.float32)
UP = np.arange(20.0).reshape(5, RANK).astype(np.float32) / 7
WEIGHT = "model.diffusion_model.first.weight"


@pytest.fixture
def added(write, layers, layer_arrays):
    """``added(path)``: the update of ``first`` after merging, in units of ``UP @ DOWN``, and the note."""
    base = Checkpoint(write("base.safetensors", layer_arrays))

    def run(path):
        notes: list[str] = []
        model = load(layers, base, loras=[Lora.open(path)], note=notes.append)
        update = np.array(model.first.weight) - layer_arrays[WEIGHT]
        scale = float((update * (UP @ DOWN)).sum() / ((UP @ DOWN) ** 2).sum())
        np.testing.assert_allclose(update, scale * UP @ DOWN, atol=1e-3)
        return round(scale, 4), notes[0]

    return run


def pair(down="diffusion_model.first.lora_A.weight", up="diffusion_model.first.lora_B.weight"):
    return {down: DOWN, up: UP}


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        ({"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 16})}, 4),
        ({"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 2})}, 0.5),
        ({"lora_adapter_metadata": json.dumps(
            {"transformer.r": 8, "transformer.rank_pattern": {"first": 4}, "transformer.lora_alpha": 8,
             "transformer.alpha_pattern": {"second.0": 5, "first": 12}})}, 3),
        ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 16, "transformer.use_rslora": True})}, 8),
        ({"transformer.lora_alpha": "2", "transformer.r": "4"}, 0.5),
        ({"lora_alpha": "8", "r": "4", "use_rslora": "True"}, 4),
        ({"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 16})}, 1),
        ({"author": "someone"}, 1),
    ],
)  # fmt: skip
def test_scale_follows_the_metadata(write, added, metadata, scale):
    got, note = added(write("lora.safetensors", pair(), **metadata))
    assert got == scale and f"scale {scale:g}" in note.lower()
    assert ("from the file's metadata" in note) == (scale != 1)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"r": 4, "lora_alpha": 16}, 4),
        ({"r": 8, "rank_pattern": {"first": 4}, "lora_alpha": 8}, 2),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"^diffusion_model.first": 1, "first": 2}}, 0.5),
        ({"r": 4, "lora_alpha": 16, "use_rslora": True}, 8),
    ],
)
def test_peft_folder_has_its_scale_in_its_config(write, added, config, scale):
    path = write("peft/adapter_model.safetensors", pair(
        "base_model.model.first.lora_A.weight", "base_model.model.first.lora_B.weight"))  # fmt: skip
    (path.parent / "adapter_config.json").write_text(json.dumps(config))
    for given in (path, path.parent):
        got, note = added(given)
        assert got == scale and "adapter_config.json" in note


@pytest.mark.parametrize("dtype", ["U8", "I32", "I64", "F16", "BF16", "F32", "F64"])
def test_alpha_tensor_of_any_number_type_goes_before_the_metadata(write_raw, added, dtype):
    numpy = {"U8": "<u1", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
    raw = np.array(6, numpy[dtype]).tobytes() if dtype in numpy else np.array(6, "<f4").tobytes()[2:]
    tensors = {
        "diffusion_model.first.lora_down.weight": ("F32", list(DOWN.shape), DOWN.tobytes()),
        "diffusion_model.first.lora_up.weight": ("F32", list(UP.shape), UP.tobytes()),
        "diffusion_model.first.alpha": (dtype, [], raw),
    }
    metadata = {"__metadata__": {"lora_alpha": "100", "r": "4"}}
    scale, note = added(write_raw("lora.safetensors", tensors, metadata))
    assert scale == 1.5 and "from its alpha tensors" in note


@pytest.mark.parametrize(
    "metadata",
    [
        {"lora_alpha": "much", "r": "4"},
        {"lora_alpha": "[8]"},
        {"lora_adapter_metadata": "{"},
        {"lora_adapter_metadata": "[1]"},
        {"lora_adapter_metadata": json.dumps({"lora_alpha": True})},
        {"lora_adapter_metadata": json.dumps({"lora_alpha": 8, "alpha_pattern": {"(a+)+": 2}})},
        {"lora_adapter_metadata": json.dumps({"lora_alpha": 8, "alpha_pattern": [2]})},
    ],
)
def test_settings_that_cannot_be_read_are_refused(write, added, metadata):
    with pytest.raises(CheckpointError, match=r"strength of its training|its strength cannot be determined"):
        added(write("lora.safetensors", pair(), **metadata))


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("transformer.first.lora.down.weight", "transformer.first.lora.up.weight"),
        ("lora_transformer_first.lora_down.weight", "lora_transformer_first.lora_up.weight"),
        ("lycoris_first.lora_down.weight", "lycoris_first.lora_up.weight"),
        ("transformer.first.lora_linear_layer.down.weight", "transformer.first.lora_linear_layer.up.weight"),
    ],
)
def test_names_of_trainers(write, added, down, up):
    assert added(write("lora.safetensors", pair(down, up)))[0] == 1


@pytest.fixture(scope="module")
def demo_weight():
    """``demo_weight(adapter, strength)``: a merged weight of the demo's transformer, and the adapter's note."""
    checkpoint = Checkpoint(DEMO)
    name = "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight"
    weight = checkpoint.arrays([name])[name]

    def merged(adapter, strength=1.0):
        merge = LoraMerge(Transformer, checkpoint, [Lora.open(ADAPTERS / adapter, strength)])
        return np.array(merge.apply(name, weight)), len(merge.changed), merge.notes[0]

    return merged


@pytest.mark.parametrize(
    ("adapter", "strength"),
    [
        ("diffusers_alpha16_r4.safetensors", 4.0),
        ("simpletuner_alpha2_r4.safetensors", 0.5),
        ("onetrainer_alpha4.safetensors", 1.0),
        ("old_diffusers.safetensors", 1.0),
        ("simpletuner_connectors.safetensors", 1.0),
    ],
)
def test_published_adapter_equals_the_plain_one_at_its_scale(demo_weight, adapter, strength):
    plain, num_changed, _ = demo_weight("plain.safetensors", strength)
    weight, changed, note = demo_weight(adapter)
    assert np.array_equal(weight, plain) and changed == num_changed == 3
    assert ("of other networks are not changed" in note) == ("connectors" in adapter)


def test_adapter_for_a_reference_video_says_so(demo_weight):
    assert "reference video" in demo_weight("iclora.safetensors")[2]
    assert "reference video" not in demo_weight("plain.safetensors")[2]


@pytest.mark.parametrize(
    ("name", "metadata", "warned"),
    [
        ("ltx-2.3-22b-style.safetensors", {}, "LTX-2.3"),
        ("style.safetensors", {"ss_base_model_version": "ltx2.3"}, "LTX-2.3"),
        ("style.safetensors", {"model_version": "2.5.1"}, "LTX-2.5"),
        ("ltx2.5_style.safetensors", {}, "LTX-2.5"),
        ("ltx-2-19b-style.safetensors", {}, None),
        ("ltx2_style.safetensors", {"model_version": "2.0.0"}, None),
        ("style.safetensors", {}, None),
    ],
)
def test_adapter_of_another_generation_is_warned_about(write, layers, layer_arrays, name, metadata, warned):
    base = Checkpoint(write("base.safetensors", layer_arrays, model_version="2.0.0"))
    (note,) = LoraMerge(layers, base, [Lora.open(write(name, pair(), **metadata))]).notes
    assert ("trained for" in note) == (warned is not None)
    assert warned is None or f"trained for {warned}, this checkpoint is LTX-2" in note
