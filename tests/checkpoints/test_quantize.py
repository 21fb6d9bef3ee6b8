import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import tiny_checkpoints
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.convert import convert
from LTX_2_MLX.checkpoints.gemma3 import Gemma, encode_prompts, load_gemma
from LTX_2_MLX.checkpoints.load import load, weights_bytes
from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.quantization import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer

EIGHT = Quantization(8, group_size=32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Four blocks, video 64 wide and audio 32, so that every layer of the two inner ones fills groups of 32."""
    section = tiny_checkpoints.transformer_section(
        num_layers=4,
        attention_head_dim=16,
        cross_attention_dim=64,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=32,
    )
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    return Checkpoint(tiny_checkpoints.write_weights(path, transformer=section))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """A folder whose layers are 24 and 48 wide; only those of 32 or 64 inputs can be grouped."""
    return tiny_checkpoints.write_gemma(tmp_path_factory.mktemp("text") / "gemma")


def _parameters(model):
    return dict(tree_flatten(model.parameters()))


def _same(first, second):
    first, second = _parameters(first), _parameters(second)
    return first.keys() == second.keys() and all(mx.array_equal(first[n], second[n]) for n in first)


def _quantized(model):
    return {path for path, module in model.named_modules() if isinstance(module, nn.QuantizedLinear)}


def test_only_layers_of_inner_blocks_are_quantised(weights):
    model = load(Transformer, weights, quantize=EIGHT)
    chosen = _quantized(model)
    assert {path.split(".")[1] for path in chosen} == {"1", "2"}
    linear = {path for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.QuantizedLinear)}
    inner = {path for path in linear if path.startswith(("blocks.1.", "blocks.2."))}
    assert {path for path in inner - chosen if not path.endswith("to_gate_logits")} == set()
    # Both streams' attentions to themselves, to text and to each other, and the feed-forward layers.
    assert len(chosen) == 2 * 2 * (3 * 4 + 2)


def test_quantised_weight_is_within_half_a_step_of_the_file(weights):
    plain, coarse = load(Transformer, weights), load(Transformer, weights, quantize=EIGHT)
    layer = coarse.blocks[1].video.feed_forward.project_out
    wanted = np.array(plain.blocks[1].video.feed_forward.project_out.weight)
    got = np.array(mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=32, bits=8))
    groups = wanted.reshape(len(wanted), -1, 32)
    step = np.repeat((groups.max(-1) - groups.min(-1)) / 255, 32, axis=-1)
    # The scale is stored so that zero is met exactly, which can cost up to one more step.
    assert (np.abs(got - wanted) <= 1.5 * step).all()
    assert (got != wanted).any()


@pytest.mark.parametrize("bits", [8, 4])
def test_file_in_few_bits_loads_as_the_plain_file_quantised_while_loading(weights, tmp_path, bits):
    quantization = Quantization(bits, group_size=32)
    file = Checkpoint(convert(weights.path, tmp_path / "few.safetensors", quantize=quantization))
    assert _same(load(Transformer, file), load(Transformer, weights, quantize=quantization))
    assert _same(load(TextFeatures, file), load(TextFeatures, weights))
    assert file.header.metadata["config"] == weights.header.metadata["config"]


def test_file_in_few_bits_names_its_layers_as_published(weights, tmp_path):
    file = Checkpoint(convert(weights.path, tmp_path / "few.safetensors", quantize=EIGHT))
    extra = file.header.tensors.keys() - weights.header.tensors.keys()
    assert file.header.tensors.keys() - extra == weights.header.tensors.keys()
    stems = {name.removesuffix(".scales") for name in extra if name.endswith(".scales")}
    assert extra == {f"{stem}.{part}" for stem in stems for part in ("scales", "biases")}
    assert "model.diffusion_model.transformer_blocks.1.attn1.to_out.0" in stems


def test_precision_and_bits_change_together(weights, tmp_path):
    file = Checkpoint(convert(weights.path, tmp_path / "few.safetensors", dtype=mx.bfloat16, quantize=EIGHT))
    assert {info.dtype for info in file.header.tensors.values()} == {"BF16", "U32"}
    assert _same(load(Transformer, file), load(Transformer, weights, dtype=mx.bfloat16, quantize=EIGHT))


def test_bytes_are_told_before_loading(weights, tmp_path):
    few = Checkpoint(convert(weights.path, tmp_path / "few.safetensors", quantize=EIGHT))
    for file, quantize in ((weights, None), (weights, EIGHT), (few, None)):
        model = load(Transformer, file, quantize=quantize)
        held = sum(value.nbytes for value in _parameters(model).values())
        assert weights_bytes(Transformer, file, quantize=quantize) == held


def test_adapters_are_merged_before_quantising(weights, tmp_path):
    lora = Lora.open(tiny_checkpoints.write_lora(tmp_path / "lora.safetensors", weights.path))
    merged = load(Transformer, weights, loras=[lora])
    coarse = load(Transformer, weights, loras=[lora], quantize=EIGHT)
    plain = merged.blocks[2].audio.self_attention.to_k.weight
    layer = coarse.blocks[2].audio.self_attention.to_k
    for part, wanted in EIGHT.apply(plain).items():
        assert mx.array_equal(layer[part], wanted)


def test_adapter_on_a_file_in_few_bits_is_refused(weights, tmp_path):
    file = Checkpoint(convert(weights.path, tmp_path / "few.safetensors", quantize=EIGHT))
    lora = Lora.open(tiny_checkpoints.write_lora(tmp_path / "lora.safetensors", weights.path))
    with pytest.raises(CheckpointError, match="is quantised, and adapters are merged before that"):
        load(Transformer, file, loras=[lora])


def test_quantising_twice_is_refused(weights, tmp_path):
    path = convert(weights.path, tmp_path / "few.safetensors", quantize=EIGHT)
    with pytest.raises(RequestError, match="quantised already"):
        load(Transformer, Checkpoint(path), quantize=EIGHT)
    with pytest.raises(RequestError, match="quantised already"):
        convert(path, tmp_path / "again.safetensors", quantize=EIGHT)


def test_widths_that_fill_no_group_are_named(tmp_path):
    section = tiny_checkpoints.transformer_section(num_layers=3)
    path = tiny_checkpoints.write_weights(tmp_path / "narrow.safetensors", transformer=section)
    with pytest.raises(
        RequestError, match="groups of 128: the widths of the layers that may be quantised are 24, 56, 96, 224"
    ):
        load(Transformer, Checkpoint(path), quantize=Quantization(8, 128))


@pytest.mark.parametrize(("bits", "group_size"), [(3, 64), (16, 64), (8, 48)])
def test_bits_and_groups_that_are_not_offered_are_refused(bits, group_size):
    with pytest.raises(RequestError, match=str(bits if bits not in (4, 8) else group_size)):
        Quantization(bits, group_size)


def test_scales_that_do_not_fit_their_weight_are_refused(weights, tmp_path):
    path = convert(weights.path, tmp_path / "few.safetensors", quantize=EIGHT)
    arrays, metadata = mx.load(str(path), return_metadata=True)
    name = "model.diffusion_model.transformer_blocks.1.ff.net.2.scales"
    arrays[name] = arrays[name][:, :1]
    mx.save_safetensors(str(path), arrays, metadata)
    with pytest.raises(CheckpointError, match="which is no quantisation of"):
        load(Transformer, Checkpoint(path))


def test_gemma_folder_in_few_bits_gives_the_states_of_one_quantised_while_loading(gemma, tmp_path):
    folder = convert(gemma, tmp_path / "gemma-8bit", quantize=EIGHT)
    assert json.loads((folder / "config.json").read_text())["quantization"] == {"bits": 8, "group_size": 32}
    stored, direct = load_gemma(folder), load_gemma(gemma, quantize=EIGHT)
    assert _quantized(stored.network) == _quantized(direct.network) != set()
    for first, second in zip(*(encode_prompts(e, ["a red ball"])[0] for e in (stored, direct)), strict=True):
        assert mx.array_equal(first, second)


def test_gemma_keeps_its_embedding_and_stays_near_its_states(gemma):
    plain, coarse = load_gemma(gemma), load_gemma(gemma, quantize=EIGHT)
    assert type(coarse.network.model.embed_tokens) is nn.Embedding
    wanted, got = (encode_prompts(e, ["a red ball"])[0][-1] for e in (plain, coarse))
    error = mx.abs(got - wanted).max() / mx.abs(wanted).max()
    assert 0 < error.item() < 0.05


def test_output_folder_is_for_gemma_alone(weights, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights.path.read_bytes())
    with pytest.raises(CheckpointError, match="no Gemma folder"):
        convert(folder, tmp_path / "other", quantize=EIGHT)


def test_file_without_a_network_that_can_be_quantised_is_refused(tmp_path):
    path = tiny_checkpoints.write_upscaler(tmp_path / "upscaler.safetensors")
    with pytest.raises(RequestError, match="holds no LTX-2 transformer and no Gemma 3"):
        convert(path, tmp_path / "few.safetensors", quantize=EIGHT)


def test_gemma_quantises_no_embedding():
    assert Gemma.quantizes("model.layers.0.mlp.up_proj", None)
    assert not Gemma.quantizes("model.embed_tokens", None)
