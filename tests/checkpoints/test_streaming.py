import json
import struct
import threading
import time
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints import load as load_module
from LTX_2_MLX.checkpoints.convert import convert
from LTX_2_MLX.checkpoints.gemma3 import encode_prompts, load_gemma
from LTX_2_MLX.checkpoints.load import load, weights_bytes
from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.quantization import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.models.ltx.transformer import StreamInput, Transformer

BLOCKS = 7


def _write(folder, **changes):
    section = tiny_checkpoints.transformer_section(num_layers=BLOCKS, **changes)
    return Checkpoint(tiny_checkpoints.write_weights(folder / "weights.safetensors", transformer=section))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Seven blocks with layers that fill groups of 32."""
    sizes = {"attention_head_dim": 16, "audio_attention_head_dim": 8}
    widths = {"cross_attention_dim": 64, "audio_cross_attention_dim": 32}
    return _write(tmp_path_factory.mktemp("weights"), **sizes, **widths)


@pytest.fixture(scope="module")
def eight_bit_floats(weights, tmp_path_factory):
    """The same file with every block's matrices as 8-bit floats and a scale, as the published ones are."""
    arrays, metadata = mx.load(str(weights.path), return_metadata=True)
    tensors = {}
    for name, array in arrays.items():
        if "transformer_blocks" not in name or not name.endswith(".weight") or "norm" in name:
            tensors[name] = ("F32", list(array.shape), np.array(array).tobytes())
            continue
        # Codes below 120 are finite, with or without the sign bit.
        codes = np.random.default_rng(len(name)).integers(0, 120, array.shape)
        tensors[name] = ("F8_E4M3", list(array.shape), (codes + 128 * (codes % 2)).astype(np.uint8).tobytes())
        tensors[f"{name}_scale"] = ("F32", [], np.float32(0.001).tobytes())
    header, end = {"__metadata__": metadata}, 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(raw)]}
        end += len(raw)
    text = json.dumps(header).encode()
    path = tmp_path_factory.mktemp("fp8") / "weights-fp8.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(raw for _, _, raw in tensors.values()))
    return Checkpoint(path)


def _streams(seed=3):
    random = np.random.default_rng(seed)

    def stream(tokens, channels, axes):
        starts = np.abs(random.normal(size=(1, axes, tokens))).astype(np.float32)
        return StreamInput(
            latent=mx.array(random.normal(size=(1, tokens, channels)).astype(np.float32)),
            sigma=mx.array([0.6]),
            positions=mx.array(np.stack([starts, starts + 1], axis=-1)),
            context=mx.array(random.normal(size=(1, 5, tiny_checkpoints.TEXT_WIDTH)).astype(np.float32)),
        )

    return stream(6, tiny_checkpoints.LATENT_CHANNELS, 3), stream(4, 16, 1)


def _velocities(model, seed=3):
    return [np.array(v.astype(mx.float32)) for v in model(*_streams(seed), evaluate_blocks=True)]


def _block_bytes(weights):
    return sum(info.num_bytes for name, info in weights.header.tensors.items() if "transformer_blocks.0." in name)


def _equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["plain", "16 bit", "quantised", "adapter", "adapter and quantised"])
def test_streamed_blocks_give_the_very_bits_of_resident_ones(weights, tmp_path, kind):
    options = {"dtype": mx.bfloat16} if kind == "16 bit" else {}
    if "adapter" in kind:
        options["loras"] = [
            Lora.open(tiny_checkpoints.write_lora(tmp_path / "lora.safetensors", weights.path), 0.7)
        ] * 2
    if "quantised" in kind:
        options["quantize"] = Quantization(8, 32)
    resident = load(Transformer, weights, **options)
    streamed = load(Transformer, weights, stream_blocks=True, **options)
    for seed in (3, 4):
        assert _equal(_velocities(streamed, seed), _velocities(resident, seed))


def test_eight_bit_floats_are_streamed_as_they_are(eight_bit_floats):
    for options in ({"dtype": mx.float32}, {}, {"dtype": mx.float32, "quantize": Quantization(8, 32)}):
        resident = load(Transformer, eight_bit_floats, **options)
        streamed = load(Transformer, eight_bit_floats, stream_blocks=True, **options)
        assert _equal(_velocities(streamed), _velocities(resident))


def test_file_in_few_bits_is_streamed_as_it_is(weights, tmp_path):
    file = Checkpoint(convert(weights.path, tmp_path / "few.safetensors", quantize=Quantization(4, 32)))
    assert _equal(_velocities(load(Transformer, file, stream_blocks=True)), _velocities(load(Transformer, file)))


def test_streamed_gemma_gives_the_very_bits_of_the_resident_one(tmp_path):
    folder = tiny_checkpoints.write_gemma(tmp_path / "gemma")
    prompts = ["a red ball", "two stars rise over sand at night"]
    resident, _ = encode_prompts(load_gemma(folder), prompts)
    streamed, _ = encode_prompts(load_gemma(folder, stream_blocks=True), prompts)
    assert len(streamed) == len(resident) > 2
    assert _equal(map(np.array, streamed), map(np.array, resident))


def test_blocks_have_no_weights_but_while_they_are_handed_out(weights):
    model = load(Transformer, weights, stream_blocks=True)
    before = mx.get_active_memory()
    _velocities(model)
    mx.synchronize()
    # Tables of positions may stay; a block's weights may not.
    assert mx.get_active_memory() - before < 0.1 * _block_bytes(weights)
    # What is left in the network is what stands around the blocks.
    assert not [name for name, _ in model.named_modules() if name.startswith("blocks")]


def test_walk_that_ends_early_leaves_no_weights_behind(weights):
    model = load(Transformer, weights, stream_blocks=True)
    before = mx.get_active_memory()
    walk = iter(model.blocks)
    mx.eval(next(walk).parameters())
    mx.eval(next(walk).parameters())
    assert mx.get_active_memory() > before
    walk.close()
    del walk
    # The block that was being read ahead goes once it has been read, on a stream of its own.
    deadline = time.monotonic() + 300
    while mx.get_active_memory() - before >= 0.1 * _block_bytes(weights):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_peak_is_a_few_blocks_where_resident_holds_them_all(tmp_path):
    # 256 wide, so that weights outweigh the handful of tokens.
    sizes = {"attention_head_dim": 64, "audio_attention_head_dim": 32, "num_attention_heads": 4}
    weights = _write(tmp_path, **sizes, cross_attention_dim=256, audio_cross_attention_dim=128)

    def peak(**options):
        mx.clear_cache()
        mx.reset_peak_memory()
        start = mx.get_active_memory()
        model = load(Transformer, weights, **options)
        _velocities(model)
        return mx.get_peak_memory() - start

    whole, few = weights_bytes(Transformer, weights), weights_bytes(Transformer, weights, stream_blocks=True)
    assert whole <= peak() < 1.1 * whole
    assert peak(stream_blocks=True) < 1.2 * few < 0.75 * whole


def test_next_block_is_read_before_it_is_asked_for(weights, monkeypatch):
    model = load(Transformer, weights, stream_blocks=True)
    asked, read = [], []
    arrays = Checkpoint.arrays

    def noted(self, names):
        names = list(names)
        read.append({int(name.split("transformer_blocks.")[1].split(".")[0]) for name in names})
        return arrays(self, names)

    monkeypatch.setattr(Checkpoint, "arrays", noted)
    for number, _ in enumerate(model.blocks):
        asked.append((number, [max(numbers) for numbers in read]))
    assert all(seen == list(range(min(number + 2, BLOCKS))) for number, seen in asked)


def test_bytes_of_streaming_are_told_before_loading(weights):
    told = partial(weights_bytes, Transformer, weights)
    assert told(stream_blocks=True) < told()
    assert told(stream_blocks=True, quantize=Quantization(8, 32)) <= told(stream_blocks=True)


def test_network_loaded_in_one_thread_runs_in_another(weights):
    model = load(Transformer, weights, stream_blocks=True)
    results = []

    def run():
        # MLX's default stream of a thread is its own too.
        results.append(_velocities(model))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert _equal(results[0], _velocities(load(Transformer, weights)))


@pytest.mark.parametrize("stream_blocks", [False, True])
def test_the_host_reads_tensors_before_anything_is_computed_from_them(
    stream_blocks, eight_bit_floats, weights, tmp_path, monkeypatch
):
    """A GPU that waits for the disk inside a command buffer is ended by macOS."""
    opened = {}
    read = set()
    finished_too_early = []
    open_arrays, evaluate = Checkpoint.arrays, mx.eval
    finish = load_module._Finish.__call__

    def note_arrays(checkpoint, names):
        arrays = open_arrays(checkpoint, names)
        opened.update({id(array): array for array in arrays.values()})
        return arrays

    def note_evaluated(*trees):
        evaluate(*trees)
        read.update(id(array) for _, array in tree_flatten(trees))

    def note_finish(finisher, name, value):
        if id(value) in opened and id(value) not in read:
            finished_too_early.append(name)
        return finish(finisher, name, value)

    lora = Lora.open(tiny_checkpoints.write_lora(tmp_path / "lora.safetensors", weights.path), 0.7)
    monkeypatch.setattr(Checkpoint, "arrays", note_arrays)
    monkeypatch.setattr(mx, "eval", note_evaluated)
    monkeypatch.setattr(load_module._Finish, "__call__", note_finish)
    for checkpoint, loras in ((weights, [lora]), (eight_bit_floats, [])):
        model = load(Transformer, checkpoint, loras=loras, stream_blocks=stream_blocks)
        if not stream_blocks:
            assert opened.keys() <= read
        else:
            first_block = next(iter(model.blocks))
            assert len(read & opened.keys()) > len(first_block.parameters())
    assert not finished_too_early
