"""Gemma 4 from its published single file: names, config, tokenizer, streamed layers."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

from LTX_2_MLX.checkpoints.contents import UNUSED_TENSORS
from LTX_2_MLX.checkpoints.gemma3 import GemmaConfig, encode_prompts
from LTX_2_MLX.checkpoints.gemma4 import Gemma4, Gemma4Config, load_gemma4
from LTX_2_MLX.checkpoints.load import weights_bytes
from LTX_2_MLX.checkpoints.quantization import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.verify.case import Case

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "goldens/ltx25/gemma4_tiny"
PROMPTS = ["A red fox runs.", "the old lighthouse keeper climbs the stairs"]


@pytest.fixture(scope="module")
def published() -> Header:
    name = "manifests/gemma4-12b-with-proj-ltx-2.5-bf16.safetensors.json.gz"
    spec = json.loads(gzip.decompress((TESTS / name).read_bytes()))
    tensors = {name: TensorInfo(tuple(shape), dtype, 0) for name, (shape, dtype) in spec["tensors"].items()}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in spec["metadata"].items()}
    return Header(tensors=tensors, metadata=metadata)


@pytest.fixture
def file(tmp_path) -> Path:
    return Case.open(GOLDEN, tmp_path).write_checkpoint()


def test_every_published_tensor_has_its_place(published):
    config = Gemma4Config.from_header(published)
    assert (config.num_hidden_layers, config.global_head_dim, config.num_global_key_value_heads) == (48, 512, 1)
    shapes = {name: tuple(value.shape) for name, value in tree_flatten(Gemma4(config).parameters())}
    landed = {}
    others = []
    for name, info in published.tensors.items():
        parameter = Gemma4.parameter_name(name)
        if parameter is None:
            others.append(name)
        else:
            landed[parameter] = info.shape
    assert landed == shapes
    assert all(name.startswith(tuple(UNUSED_TENSORS)) for name in others)


def test_published_file_is_not_taken_for_gemma_3(published):
    assert GemmaConfig.from_header(published) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ({"enable_moe_block": True}, "enable_moe_block"),
        ({"hidden_size": "24"}, "hidden_size"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"rope_parameters": {}}, "rope_parameters"),
        ({"rms_norm_eps": 7.0}, "rms_norm_eps"),
    ],
)
def test_config_that_is_not_supported_is_refused(file, change, message):
    header = Checkpoint(file).header
    config = json.loads(header.metadata["gemma_config"])
    config["text_config"] |= change
    with pytest.raises(CheckpointError, match=message):
        Gemma4Config.from_header(replace(header, metadata={"gemma_config": json.dumps(config)}))


def test_layers_read_from_disk_give_the_same_states(file):
    resident, mask = encode_prompts(load_gemma4(file, dtype=mx.float32), PROMPTS, max_length=64)
    streamed, _ = encode_prompts(load_gemma4(file, dtype=mx.float32, stream_blocks=True), PROMPTS, max_length=64)
    assert len(resident) == 8
    assert mask.shape == (2, 64)
    for one, other in zip(resident, streamed, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))


def test_prompts_of_one_batch_do_not_see_each_other(file):
    encoder = load_gemma4(file, dtype=mx.float32)
    both, _ = encode_prompts(encoder, PROMPTS, max_length=64)
    alone, _ = encode_prompts(encoder, PROMPTS[:1], max_length=64)
    for one, other in zip(both, alone, strict=True):
        np.testing.assert_allclose(np.array(one[:1]), np.array(other), atol=1e-5)


@pytest.fixture
def wide_file(tmp_path):
    """Groups of 32 need wider layers than the golden case has, so its tensors are stretched."""
    case = Case.open(GOLDEN, tmp_path)
    config = case.spec["metadata"]["gemma_config"]["text_config"]
    config |= {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32, "global_head_dim": 64}
    widths = {24: 96, 40: 160, 32: 128, 16: 64, 64: 256, 8: 32}
    for name, shape in case.spec["tensors"].items():
        if name.startswith(("model.layers.", "model.embed", "model.norm")) and "layer_scalar" not in name:
            case.spec["tensors"][name] = [widths.get(n, n) for n in shape]
    return case.write_checkpoint()


@pytest.mark.parametrize("bits", [8, 4])
def test_plan_of_quantised_layers_is_what_they_take_and_streaming_changes_no_bit(wide_file, bits):
    quantization = Quantization(bits, 32)
    resident = load_gemma4(wide_file, dtype=mx.float32, quantize=quantization)
    taken = sum(value.nbytes for _, value in tree_flatten(resident.network.parameters()))
    planned = weights_bytes(Gemma4, Checkpoint(wide_file), dtype=mx.float32, quantize=quantization)
    assert abs(planned - taken) <= 0.15 * taken
    assert planned < 0.6 * weights_bytes(Gemma4, Checkpoint(wide_file), dtype=mx.float32)
    streamed = load_gemma4(wide_file, dtype=mx.float32, quantize=quantization, stream_blocks=True)
    states = [encode_prompts(encoder, PROMPTS, max_length=64)[0] for encoder in (resident, streamed)]
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))


def test_eight_bits_are_close_to_sixteen(wide_file):
    plain, _ = encode_prompts(load_gemma4(wide_file, dtype=mx.float32), PROMPTS, max_length=64)
    quantized = load_gemma4(wide_file, dtype=mx.float32, quantize=Quantization(8, 32))
    coarse, _ = encode_prompts(quantized, PROMPTS, max_length=64)
    # Of the first layer: with random weights, later ones multiply what comes in.
    error = float(mx.sqrt(mx.mean((plain[1] - coarse[1]) ** 2)) / mx.sqrt(mx.mean(plain[1] ** 2)))
    assert 0 < error < 0.02


def test_file_without_its_tokenizer_is_refused(file, tmp_path):
    tensors = load_file(file)
    del tensors["tokenizer_json"]
    save_file(tensors, tmp_path / "bare.safetensors", metadata=Checkpoint(file).header.metadata)
    with pytest.raises(CheckpointError, match="no tokenizer in it"):
        load_gemma4(tmp_path / "bare.safetensors")


def test_tokenizer_stored_as_signed_bytes_is_read(file, tmp_path):
    tensors = load_file(file)
    tensors["tokenizer_json"] = tensors["tokenizer_json"].view(np.int8)
    save_file(tensors, tmp_path / "signed.safetensors", metadata=Checkpoint(file).header.metadata)
    ids, _ = load_gemma4(tmp_path / "signed.safetensors").tokenizer(PROMPTS, 32)
    wanted, _ = load_gemma4(file).tokenizer(PROMPTS, 32)
    np.testing.assert_array_equal(ids, wanted)
