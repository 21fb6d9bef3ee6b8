"""Low-rank adapters, merged while loading."""

import json

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.lora import Lora, LoraMerge, split_strength
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.ltx.transformer import Transformer

DOWN, UP = np.arange(6.0).reshape(2, 3).astype(np.float32), np.arange(10.0).reshape(5, 2).astype(np.float32) / 7


@pytest.fixture
def base(write, layer_arrays):
    return Checkpoint(write("base.safetensors", layer_arrays))


@pytest.fixture
def merged_first(base, layers, layer_arrays):
    """``merged_first(path, strength)``: the weight of ``first`` after merging, and before."""

    def run(path, strength=1.0):
        model = load(layers, base, loras=[Lora.open(path, strength)])
        return np.array(model.first.weight), layer_arrays["model.diffusion_model.first.weight"]

    return run


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("diffusion_model.first.lora_A.weight", "diffusion_model.first.lora_B.weight"),
        ("transformer.first.lora_A.weight", "transformer.first.lora_B.weight"),
        ("base_model.model.diffusion_model.first.lora_A.default.weight",
         "base_model.model.diffusion_model.first.lora_B.default.weight"),
        ("diffusion_model.first.lora_down.weight", "diffusion_model.first.lora_up.weight"),
        ("lora_unet_first.lora_down.weight", "lora_unet_first.lora_up.weight"),
        ("first.lora_A.weight", "first.lora_B.weight"),
    ],
)  # fmt: skip
def test_every_naming_in_use_changes_the_same_weight(write, down, up, merged_first):
    after, before = merged_first(write("lora.safetensors", {down: DOWN, up: UP}), 0.5)
    np.testing.assert_allclose(after, before + 0.5 * UP @ DOWN, rtol=1e-6)


def test_names_with_underscores_for_dots_find_a_nested_module(base, write, layers, layer_arrays):
    arrays = {"lora_unet_second_0.lora_down.weight": np.ones((1, 5), np.float32),
              "lora_unet_second_0.lora_up.weight": np.ones((2, 1), np.float32)}  # fmt: skip
    model = load(layers, base, loras=[Lora.open(write("lora.safetensors", arrays))])
    np.testing.assert_allclose(
        model.second[0].weight, layer_arrays["model.diffusion_model.second.0.weight"] + 1, rtol=1e-6
    )


def test_alpha_divides_by_the_rank_where_a_file_has_it(write, merged_first):
    arrays = {"diffusion_model.first.lora_down.weight": DOWN, "diffusion_model.first.lora_up.weight": UP,
              "diffusion_model.first.alpha": np.array(8.0, np.float32)}  # fmt: skip
    after, before = merged_first(write("lora.safetensors", arrays), 0.25)
    np.testing.assert_allclose(after, before + 0.25 * (8 / 2) * UP @ DOWN, rtol=1e-6)


def test_several_adapters_add_up_even_when_one_file_is_given_twice(base, write, layers, layer_arrays):
    one = write("one.safetensors", {"first.lora_A.weight": DOWN, "first.lora_B.weight": UP})
    two = write("two.safetensors", {"first.lora_A.weight": DOWN[:1], "first.lora_B.weight": UP[:, :1]})
    same = Checkpoint(one)
    model = load(layers, base, loras=[Lora(same, 1.0), Lora(same, -0.25), Lora.open(two, 2.0)])
    before = layer_arrays["model.diffusion_model.first.weight"]
    np.testing.assert_allclose(
        model.first.weight, before + 0.75 * UP @ DOWN + 2 * UP[:, :1] @ DOWN[:1], rtol=1e-5, atol=1e-6
    )


def test_bfloat16_weights_are_rounded_once_after_a_float32_merge(write, layers, layer_arrays):
    random = np.random.default_rng(5)
    arrays = {n: mx.array(v).astype(mx.bfloat16) for n, v in layer_arrays.items()}
    base = Checkpoint(write("base.safetensors", arrays))
    down, up = (mx.array(random.normal(size=s)).astype(mx.bfloat16) for s in ((64, 3), (5, 64)))
    lora = Lora.open(write("lora.safetensors", {"first.lora_A.weight": down, "first.lora_B.weight": up}), 0.7)
    weight = load(layers, base, loras=[lora]).first.weight
    exact = np.array(arrays["model.diffusion_model.first.weight"].astype(mx.float32), np.float64) + np.float64(
        np.float32(0.7)
    ) * np.array(up.astype(mx.float32), np.float64) @ np.array(down.astype(mx.float32), np.float64)
    assert weight.dtype == mx.bfloat16
    assert mx.array_equal(weight, mx.array(exact.astype(np.float32)).astype(mx.bfloat16))
    wide = load(layers, base, loras=[lora], dtype=mx.float32).first.weight
    np.testing.assert_allclose(wide, exact, rtol=1e-5, atol=1e-5)


def test_what_an_adapter_changes_is_told_in_one_line(base, write, layers):
    arrays = {"first.lora_A.weight": DOWN, "first.lora_B.weight": UP,
              "text_embedding_projection.aggregate_embed.lora_A.weight": DOWN,
              "text_embedding_projection.aggregate_embed.lora_B.weight": UP}  # fmt: skip
    notes = []
    load(layers, base, loras=[Lora.open(write("style.safetensors", arrays), 0.8)], note=notes.append)
    (line,) = notes
    assert line.startswith("style.safetensors at strength 0.8 changes 1 tensors of Layers; 1 of other networks")
    assert "text_embedding_projection.aggregate_embed" in line


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"diffusion_model.elsewhere.lora_A.weight": DOWN, "diffusion_model.elsewhere.lora_B.weight": UP},
         "changes nothing in the Layers"),
        ({"first.lora_A.weight": DOWN, "first.lora_B.weight": UP,
          "third.lora_A.weight": DOWN, "third.lora_B.weight": UP}, "lacks 1 of its 2 modules (third)"),
        ({"first.lora_A.weight": np.ones((2, 4), np.float32), "first.lora_B.weight": UP},
         "is (5, 4), the weight is (5, 3)"),
        ({"first.lora_A.weight": DOWN, "first.lora_B.weight": np.ones((5, 3), np.float32)}, "do not belong together"),
        ({"first.lora_A.weight": DOWN}, "is not a LoRA"),
        ({"first.lora_A.weight": DOWN, "first.lora_B.weight": UP, "second.0.lora_A.weight": DOWN}, "one half of 1"),
        ({"first.lora_A.weight": DOWN, "first.lora_B.weight": UP, "first.dora_scale": UP}, "DoRA"),
        ({"first.hada_w1_a": DOWN}, "is not a LoRA"),
        ({"first.lora_A.weight": DOWN, "first.lora_B.weight": UP, "first.alpha": UP}, "is not one number"),
        ({"first.lora_A.weight": DOWN.astype(np.int32), "first.lora_B.weight": UP}, "is I32, expected F32"),
        ({"first.lora_A.weight": DOWN, "first.lora_B.weight": UP,
          "lora_unet_first.lora_A.weight": DOWN, "lora_unet_first.lora_B.weight": UP}, "two updates of first"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_one_clear_error(base, write, arrays, says, layers):
    path = write("lora.safetensors", arrays)
    with pytest.raises(CheckpointError) as caught:
        load(layers, base, loras=[Lora.open(path)])
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_adapter_for_another_model_names_both_files(base, write, layers):
    path = write("lora.safetensors", {"first.lora_A.weight": np.ones((2, 9), np.float32), "first.lora_B.weight": UP})
    with pytest.raises(CheckpointError, match=r"lora\.safetensors was made for another model than .*base\.safetensors"):
        load(layers, base, loras=[Lora.open(path)])


def test_strength_follows_the_last_colon():
    assert split_strength("a/b.safetensors") == ("a/b.safetensors", 1.0)
    assert split_strength("a/b.safetensors:0.8") == ("a/b.safetensors", 0.8)
    assert split_strength("owner/repo:file.safetensors") == ("owner/repo:file.safetensors", 1.0)
    assert split_strength("owner/repo:file.safetensors:-1.5") == ("owner/repo:file.safetensors", -1.5)


@pytest.mark.parametrize("strength", ["nan", "inf", "-inf", "1e999"])
def test_strengths_that_are_no_number_are_refused(base, strength):
    with pytest.raises(RequestError, match="finite"):
        split_strength(f"lora.safetensors:{strength}")
    with pytest.raises(RequestError, match="finite"):
        Lora.open(base.path, float(strength))


@pytest.mark.parametrize(
    ("lora", "model", "changed", "aside"),
    [
        ("ltx-2-19b-distilled-lora-384", "ltx-2-19b-dev", 1370, 1),
        ("ltx-2.3-22b-distilled-lora-384", "ltx-2.3-22b-dev", 1660, 0),
    ],
)
def test_every_update_of_the_published_distilled_adapters_lands(full_size, lora, model, changed, aside):
    adapter = Lora(full_size(f"{lora}.safetensors"))
    checkpoint = full_size(f"{model}.safetensors.transformer")
    merge = LoraMerge(Transformer, checkpoint, [adapter])
    linears = {
        name for name, info in checkpoint.header.tensors.items()
        if name.endswith(".weight") and len(info.shape) == 2 and Transformer.parameter_name(name)
    }  # fmt: skip
    assert merge.changed == linears and len(linears) == changed
    assert len(adapter.checkpoint.header.tensors) == 2 * (changed + aside)
    assert ("text_embedding_projection.aggregate_embed" in merge.notes[0]) == bool(aside)


@pytest.mark.parametrize(
    ("lora", "model"),
    [("ltx-2-19b-distilled-lora-384", "ltx-2.3-22b-dev"), ("ltx-2.3-22b-distilled-lora-384", "ltx-2-19b-dev")],
)
def test_the_adapter_of_another_generation_is_refused(full_size, lora, model):
    adapter = Lora(full_size(f"{lora}.safetensors"))
    with pytest.raises(CheckpointError, match="made for another model"):
        LoraMerge(Transformer, full_size(f"{model}.safetensors.transformer"), [adapter])


@pytest.mark.parametrize(
    ("kinds", "model", "line"),
    [
        (("attn", "ff"), "ltx-2.3-22b-dev", "none of the gates that LTX-2.3 has and LTX-2 has not"),
        (("attn",), "ltx-2.3-22b-dev", "does not say for which generation it was trained"),
        (("attn", "ff"), "ltx-2-19b-dev", "does not say for which generation it was trained"),
        (("attn", "ff", "adaln"), "ltx-2-19b-dev", None),
    ],
)
def test_adapter_of_blocks_that_fits_every_generation_is_warned_about(full_size, write_holes, kinds, model, line):
    published = full_size("ltx-2-19b-distilled-lora-384.safetensors").header.tensors
    own = {
        name: ("BF16", list(info.shape)) for name, info in published.items()
        if any(kind in name for kind in kinds) and ("blocks" in name or "adaln" in kinds)
    }  # fmt: skip
    adapter = Lora.open(write_holes("style.safetensors", own))
    (note,) = LoraMerge(Transformer, full_size(f"{model}.safetensors.transformer"), [adapter]).notes
    assert f"changes {len(own) // 2} tensors" in note
    assert ("expect poor results" in note) == (line is not None) and (line or "") in note


def test_names_of_diffusers_find_the_published_modules(full_size, write):
    def pair(module, shape, rank=2):
        return {f"transformer.{module}.lora_A.weight": np.ones((rank, shape[1]), np.float32),
                f"transformer.{module}.lora_B.weight": np.ones((shape[0], rank), np.float32)}  # fmt: skip

    arrays = (
        pair("proj_in", (4096, 128))
        | pair("audio_proj_in", (2048, 128))
        | pair("time_embed.linear", (6 * 4096, 4096))
        | pair("av_cross_attn_audio_v2a_gate.linear", (2048, 2048))
        | pair("transformer_blocks.47.audio_to_video_attn.to_out.0", (4096, 2048))
    )
    merge = LoraMerge(
        Transformer, full_size("ltx-2-19b-dev.safetensors.transformer"), [Lora.open(write("l.safetensors", arrays))]
    )
    assert {name.removeprefix("model.diffusion_model.") for name in merge.changed} == {
        "patchify_proj.weight", "audio_patchify_proj.weight", "adaln_single.linear.weight",
        "av_ca_v2a_gate_adaln_single.linear.weight", "transformer_blocks.47.audio_to_video_attn.to_out.0.weight",
    }  # fmt: skip
    assert json.dumps(merge.notes).count("changes 5 tensors") == 1
