"""Gemma 3: tokens, masks and the states of every layer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.gemma3 import Gemma, GemmaNorm, attention_masks, encode_prompts, load_gemma
from LTX_2_MLX.checkpoints.gemma_tokenizer import GemmaTokenizer
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header, TensorInfo

FOLDER = Path(__file__).parents[1] / "goldens/ltx2/gemma_tiny"
TEXT_CONFIG = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 7, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 420, "query_pre_attn_scalar": 12, "sliding_window": 5,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}  # fmt: skip
PROMPTS = ["a red fox", "the old lighthouse keeper climbs the stairs and looks over the sea"]


def config_of(text=TEXT_CONFIG, names=(), **beside):
    tensors = {name: TensorInfo(shape=(1,), dtype="F32", num_bytes=4) for name in names}
    return Gemma.Config.from_header(Header(tensors, config={"model_type": "gemma3", "text_config": text, **beside}))


@pytest.fixture
def folder(tmp_path):
    """``folder(prefix, quantize)`` writes a tiny Gemma as it is published, or as mlx-lm quantises it."""

    def build(prefix="language_model.model.", quantize=None, dtype=mx.float32, text=TEXT_CONFIG, extra=None):
        path = tmp_path / f"gemma{len(list(tmp_path.iterdir()))}"
        path.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(FOLDER / name, path)
        network, config = Gemma(config_of(text)), {"model_type": "gemma3", "text_config": text}
        mx.random.seed(4)
        weights = [(n, 0.3 * mx.random.normal(v.shape)) for n, v in tree_flatten(network.parameters())]
        network.load_weights([(name, value.astype(dtype)) for name, value in weights])
        if quantize:
            nn.quantize(
                network, class_predicate=lambda name, m: quantize if isinstance(m, nn.Linear | nn.Embedding) else False
            )
            config["quantization"] = {"group_size": 32, "bits": 4, **quantize}
        tensors = {n.replace("model.", prefix, 1): v for n, v in tree_flatten(network.parameters())}
        mx.save_safetensors(str(path / "model.safetensors"), tensors | (extra or {}))
        (path / "config.json").write_text(json.dumps(config))
        return path

    return build


@pytest.mark.parametrize("newer", [False, True])
def test_every_published_name_lands_on_one_parameter_of_its_shape(full_size, newer):
    header = full_size("gemma-3-12b-it").header
    if newer:
        rename = lambda n: n.replace("language_model.model.", "model.language_model.")  # noqa: E731
        header = replace(header, tensors={rename(name): info for name, info in header.tensors.items()})
    network = Gemma(Gemma.Config.from_header(header))
    parameters = {name: tuple(value.shape) for name, value in tree_flatten(network.parameters())}
    landed = {}
    for name, info in header.tensors.items():
        if (parameter := Gemma.parameter_name(name)) is not None:
            assert parameter not in landed
            landed[parameter] = info.shape
        else:
            assert "vision" in name or "multi_modal_projector" in name
    assert landed == parameters
    assert len(network.model.layers) == 48


def test_the_published_config_makes_every_sixth_layer_global(full_size):
    network = Gemma(Gemma.Config.from_header(full_size("gemma-3-12b-it").header))
    kinds = [
        (layer.self_attn.is_sliding, layer.self_attn.rope.base, layer.self_attn.rope.scale)
        for layer in network.model.layers
    ]
    assert kinds == [(True, 1e4, 1.0) if (i + 1) % 6 else (False, 1e6, 1 / 8) for i in range(48)]
    assert network.model.layers[0].self_attn.scale == 256**-0.5


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "model."])
def test_each_prefix_in_use_loads_the_same_network(folder, prefix):
    extra = {
        "vision_tower.x": mx.zeros(3),
        "model.vision_tower.x": mx.zeros(3),
        "language_model.lm_head.weight": mx.zeros(3),
    }
    states, _ = encode_prompts(load_gemma(folder(prefix, extra=extra)), PROMPTS, max_length=128)
    wanted, _ = encode_prompts(load_gemma(folder()), PROMPTS, max_length=128)
    assert all(mx.array_equal(a, b) for a, b in zip(states, wanted, strict=True))


@pytest.mark.parametrize("mode", [{"bits": 8, "group_size": 32}, {"bits": 4, "group_size": 32, "mode": "affine"}])
def test_a_folder_quantised_by_mlx_gives_what_its_rounded_weights_give(folder, mode):
    quantized = load_gemma(folder(quantize=mode))
    states, mask = encode_prompts(quantized, PROMPTS, max_length=128)
    whole = load_gemma(folder())
    rounded = {}
    for path, module in quantized.network.named_modules():
        if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            rounded[f"{path}.weight"] = mx.dequantize(
                module.weight, module.scales, module.biases, group_size=module.group_size, bits=module.bits
            )
    assert len(rounded) == 7 * 7 + 1
    whole.network.load_weights(list(rounded.items()), strict=False)
    wanted, _ = encode_prompts(whole, PROMPTS, max_length=128)
    for state, other in zip(states, wanted, strict=True):
        np.testing.assert_allclose(state, other, rtol=1e-3, atol=2e-4)
    assert mask.shape == (2, 128)


def test_scales_without_settings_are_refused(folder):
    path = folder(quantize={"bits": 8, "group_size": 32})
    (path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": TEXT_CONFIG}))
    with pytest.raises(CheckpointError, match=r"does not say how"):
        load_gemma(path)


def test_prompts_encoded_together_equal_prompts_encoded_alone(folder):
    encoder = load_gemma(folder())
    together, mask = encode_prompts(encoder, PROMPTS, max_length=128)
    for row, prompt in enumerate(PROMPTS):
        alone, own = encode_prompts(encoder, [prompt], max_length=128)
        assert mx.array_equal(own[0], mask[row])
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(a[0], b[row], rtol=1e-4, atol=2e-5)


def test_states_at_padding_are_zero_and_finite_elsewhere(folder):
    states, mask = encode_prompts(load_gemma(folder()), ["", PROMPTS[1]], max_length=128)
    assert len(states) == 8 and all(state.shape == (2, 128, 32) for state in states)
    assert mask.sum(axis=1).tolist()[0] == 1
    for state in states:
        assert mx.array_equal((state != 0).any(axis=-1), mask != 0)
        assert mx.isfinite(state).all()


def test_states_keep_the_dtype_of_the_weights_and_the_factor_is_rounded_to_it(folder):
    encoder = load_gemma(folder(dtype=mx.bfloat16))
    states, _ = encode_prompts(encoder, ["fox"], max_length=128)
    assert {state.dtype for state in states} == {mx.bfloat16}
    ids, _ = encoder.tokenizer(["fox"], 128)
    # sqrt(32) is 5.657, its bfloat16 5.65625.
    wanted = encoder.network.model.embed_tokens(mx.array(ids[0, -1:])) * mx.array(5.65625, mx.bfloat16)
    assert mx.array_equal(states[0][0, -1:], wanted)


def test_the_norm_keeps_float32_digits_of_its_weight():
    norm = GemmaNorm(4, 1e-6)
    norm.weight = mx.array([0.001, 0.002, -0.001, 20.03], mx.bfloat16)
    x = mx.array([[1.0, -1.0, 1.0, -1.0]], mx.bfloat16)
    wanted = (x.astype(mx.float32) * (1 + norm.weight.astype(mx.float32))).astype(mx.bfloat16)
    assert norm(x).dtype == mx.bfloat16 and mx.array_equal(norm(x), wanted)


def test_masks_follow_causality_window_and_padding():
    seen = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], bool)
    causal, near = (np.array(m)[:, 0] for m in attention_masks(mx.array(seen), 3))
    for b in range(2):
        for q in range(6):
            for k in range(6):
                sees = k <= q and (seen[b, k] or k == q)
                assert causal[b, q, k] == sees
                assert near[b, q, k] == (sees and q - k < 3)
    assert causal.any(-1).all() and near.any(-1).all()


def test_tokens_are_stripped_padded_on_the_left_and_cut_at_the_end():
    tokenizer = GemmaTokenizer.from_folder(FOLDER)
    ids, mask = tokenizer(["  a red fox ", "a red fox", ""], 64)
    assert (ids[0] == ids[1]).all() and ids.dtype == np.int32
    assert mask[2].sum() == 1 and ids[2, -1] == 2 and (ids[2, :-1] == 0).all()
    count = mask[0].sum()
    cut, full = tokenizer(["a red fox"], 3)
    assert count > 3 and full.sum() == 3 and (cut[0] == ids[0, -count:][:3]).all()


def test_bos_is_prepended_where_the_template_has_none(tmp_path):
    spec = json.loads((FOLDER / "tokenizer.json").read_text()) | {"post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    np.testing.assert_array_equal(
        GemmaTokenizer.from_folder(tmp_path)(["a red fox"], 32)[0],
        GemmaTokenizer.from_folder(FOLDER)(["a red fox"], 32)[0],
    )


def test_the_padded_length_is_1024_or_the_folders_own_limit(tmp_path):
    shutil.copy(FOLDER / "tokenizer.json", tmp_path)
    assert GemmaTokenizer.from_folder(FOLDER).max_length == 1024
    assert GemmaTokenizer.from_folder(tmp_path).max_length == 1024
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 256}')
    assert GemmaTokenizer.from_folder(tmp_path).max_length == 256


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8}}, "rope_type is 'yarn'"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
        ({"num_hidden_layers": -3}, "num_hidden_layers is -3"),
        ({"sliding_window": True}, "sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"]}, "one period"),
    ],
)
def test_config_values_that_change_the_mathematics_are_refused(change, says):
    with pytest.raises(CheckpointError, match=says):
        config_of(TEXT_CONFIG | change)


@pytest.mark.parametrize(
    "text",
    [
        [], 3, "text", {"rope_scaling": "linear"}, {"rope_scaling": [8]},
        {"rope_parameters": {"full_attention": 3}}, {"layer_types": 3}, {"layer_types": "full"},
        {"rope_scaling": {"rope_type": "linear", "factor": "8"}}, {"rope_scaling": {"rope_type": []}},
        {"rope_scaling": {"rope_type": "linear", "factor": 0}}, {"num_hidden_layers": 10**9},
        {"hidden_size": 1e3}, {"hidden_size": 10**30}, {"rms_norm_eps": -1e-6}, {"sliding_window_pattern": None},
        {"hidden_activation": {"a": 1}}, {"vocab_size": [1]},
    ],
)  # fmt: skip
def test_a_config_in_another_form_is_one_error(text):
    with pytest.raises(CheckpointError) as caught:
        config_of(text if not isinstance(text, dict) else TEXT_CONFIG | text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantization", [3, "4bit", [], {"bits": 4}, {"model.layers.0.mlp.up_proj": 3}])
def test_settings_of_quantisation_in_another_form_are_one_error(quantization):
    with pytest.raises(CheckpointError):
        config_of(names=["language_model.model.layers.0.mlp.up_proj.scales"], quantization=quantization)


def test_newer_ways_of_writing_the_config_mean_the_same():
    newer = {k: v for k, v in TEXT_CONFIG.items() if k != "rope_scaling"} | {
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"] + ["sliding_attention"]),
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    }
    assert config_of(newer) == config_of()
    assert Gemma.Config.from_header(Header({}, config={"model_type": "gemma3_text"} | TEXT_CONFIG)) == config_of()


def test_files_that_are_no_gemma_are_refused(folder, tmp_path):
    path = folder()
    config = (path / "config.json").read_text()
    (path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match=r"model_type in its config\.json is 'llama'"):
        load_gemma(path)
    (path / "config.json").write_text('{"model_type": "gemma3"')
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_gemma(path)
    (path / "config.json").write_text(config)
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged"):
        load_gemma(path)
    (path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        load_gemma(path)


def test_a_tokenizer_of_a_larger_model_is_refused(folder):
    path = folder(text=TEXT_CONFIG | {"vocab_size": 100})
    with pytest.raises(CheckpointError, match="different models"):
        encode_prompts(load_gemma(path), ["a red fox"], max_length=128)


def test_a_missing_layer_is_named(folder):
    path = folder()
    tensors = {n: v for n, v in mx.load(str(path / "model.safetensors")).items() if ".layers.6." not in n}
    mx.save_safetensors(str(path / "model.safetensors"), tensors)
    with pytest.raises(CheckpointError, match=r"lacks 13 tensors \(model\.layers\.6"):
        load_gemma(path)
