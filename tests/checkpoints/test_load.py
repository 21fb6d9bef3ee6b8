"""From a checkpoint to an evaluated network."""

import struct
import time

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.load import load, weights_bytes
from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.quantization import decode_e4m3
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.ltx.transformer import Transformer

START = "model.diffusion_model."


class AnyConfig:
    @classmethod
    def from_header(cls, header):
        return cls()


class Convolutions(nn.Module):
    """One of every kind of convolution."""

    Config = AnyConfig

    def __init__(self, config):
        super().__init__()
        self.line = nn.Conv1d(2, 3, 5)
        self.plane = nn.Conv2d(2, 3, (3, 5))
        self.space = nn.Conv3d(2, 3, (1, 3, 5))
        self.line_back = nn.ConvTranspose1d(2, 3, 5)
        self.plane_back = nn.ConvTranspose2d(2, 3, (3, 5))
        self.space_back = nn.ConvTranspose3d(2, 3, (1, 3, 5))

    @staticmethod
    def parameter_name(published):
        return published


def test_every_tensor_lands_and_the_network_is_frozen(write, layers, layer_arrays):
    model = load(layers, Checkpoint(write("a.safetensors", layer_arrays)))
    held = dict(tree_flatten(model.parameters()))
    assert {f"{START}{name}" for name in held} == set(layer_arrays)
    assert all(np.array_equal(held[name.removeprefix(START)], value) for name, value in layer_arrays.items())
    assert not tree_flatten(model.trainable_parameters())


def test_tensors_of_other_networks_are_left_alone(write, layers, layer_arrays):
    others = {"vae.decoder.x": np.zeros((2, 3)), f"{START}video_embeddings_connector.x": np.zeros(7)}
    load(layers, Checkpoint(write("a.safetensors", layer_arrays | others)))


def test_axes_are_turned_by_the_class_of_the_layer(write):
    shapes = {"line": (3, 2, 5), "plane": (3, 2, 3, 5), "space": (3, 2, 1, 3, 5)}
    shapes |= {f"{name}_back": (shape[1], shape[0], *shape[2:]) for name, shape in shapes.items()}
    random = np.random.default_rng(0)
    arrays = {f"{n}.weight": random.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    arrays |= {f"{n}.bias": np.zeros(3, np.float32) for n in shapes}
    model = load(Convolutions, Checkpoint(write("a.safetensors", arrays)))
    for name in shapes:
        published, held = arrays[f"{name}.weight"], np.array(model[name].weight)
        # Output channels come first in MLX, input channels last.
        back = np.moveaxis(held, -1, 1)
        np.testing.assert_array_equal(back.swapaxes(0, 1) if name.endswith("_back") else back, published)


def test_floating_point_tensors_take_the_dtype_and_others_keep_theirs(write, layers, layer_arrays):
    class Counting(layers):
        def __init__(self, config):
            super().__init__(config)
            self.count = mx.array([0, 0])

    arrays = layer_arrays | {f"{START}count": np.array([3, 4], np.int32)}
    model = load(Counting, Checkpoint(write("a.safetensors", arrays)), dtype=mx.float16)
    assert model.first.weight.dtype == mx.float16 and model.count.dtype == mx.int32


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop(f"{START}first.bias"), r"lacks 1 tensor \(first\.bias\)"),
        (lambda a: a.update({f"{START}third.weight": np.zeros(3)}), r"has 1 tensor \(third\.weight\) that the network"),
        (lambda a: a.update({f"{START}first.weight": np.zeros((3, 5))}), r"first\.weight in shape \(3, 5\), expected"),
        (lambda a: a.update({f"{START}first.weight": np.zeros((5, 3, 1))}), r"first\.weight in shape \(5, 3, 1\)"),
        (lambda a: a.update({f"{START}first.bias": np.zeros(5, np.int32)}), r"first\.bias as .*int32, expected"),
        (lambda a: a.pop(f"{START}first.weight"), "holds no Layers. Its first tensors: "),
        (lambda a: a.clear(), "holds no Layers. Its first tensors: none"),
    ],
)
def test_what_does_not_fit_is_named(write, layers, layer_arrays, change, says):
    arrays = {name: np.asarray(value, value.dtype) for name, value in layer_arrays.items()}
    change(arrays)
    arrays = {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in arrays.items()}
    path = write("a.safetensors", arrays)
    with pytest.raises(CheckpointError, match=says) as caught:
        load(layers, Checkpoint(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_two_tensors_of_one_meaning_are_refused(write, layers, layer_arrays):
    class Twice(layers):
        @staticmethod
        def parameter_name(published):
            return published.removeprefix(START).replace("again", "first")

    arrays = layer_arrays | {f"{START}again.weight": layer_arrays[f"{START}first.weight"]}
    with pytest.raises(CheckpointError, match=r"two tensors mean first\.weight"):
        load(Twice, Checkpoint(write("a.safetensors", arrays)))


def test_the_first_class_that_recognises_the_file_is_taken(write, layers, layer_arrays):
    class Other(layers):
        class Config:
            @classmethod
            def from_header(cls, header):
                return None

    checkpoint = Checkpoint(write("a.safetensors", layer_arrays))
    assert type(load([Other, layers], checkpoint)) is layers
    with pytest.raises(CheckpointError, match="holds no Other or Other"):
        load([Other, Other], checkpoint)


def test_a_file_that_shrinks_while_it_is_read_is_one_error(write, layers, layer_arrays, monkeypatch):
    path = write("a.safetensors", layer_arrays)
    checkpoint, opened = Checkpoint(path), mx.load

    def shrinking(*arguments, **options):
        arrays = opened(*arguments, **options)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 40)
        return arrays

    monkeypatch.setattr(mx, "load", shrinking)
    with pytest.raises(CheckpointError, match=r"\.weight cannot be read"):
        load(layers, checkpoint)


def float8(values):
    """The nearest codes of E4M3, one by one."""
    table = np.array(decode_e4m3(mx.arange(256).astype(mx.uint8)))
    table = np.where(np.isnan(table), np.inf, table)
    return np.abs(table[None] - np.asarray(values, np.float32).reshape(-1, 1)).argmin(axis=1).astype(np.uint8)


def test_codes_of_float8_mean_what_the_format_says():
    table = np.array(decode_e4m3(mx.arange(256).astype(mx.uint8)))
    for code, value in {
        0x00: 0,
        0x01: 2**-9,
        0x07: 7 * 2**-9,
        0x08: 2**-6,
        0x38: 1,
        0x7E: 448,
        0xFE: -448,
        0xB9: -1.125,
    }.items():
        assert table[code] == value
    assert np.isnan(table[[0x7F, 0xFF]]).all() and np.isfinite(np.delete(table, [0x7F, 0xFF])).all()
    own = np.array(mx.from_fp8(mx.arange(256).astype(mx.uint8), mx.float32))
    np.testing.assert_array_equal(table, own)


@pytest.fixture
def float8_file(write_raw, layer_arrays):
    """The small file with the first weight in 8 bits and a scale, and what that weight means."""

    def build(scale=0.25, shape=()):
        tensors = {n: ("F32", list(v.shape), v.tobytes()) for n, v in layer_arrays.items()}
        codes = float8(layer_arrays[f"{START}first.weight"] / 0.25)
        tensors[f"{START}first.weight"] = ("F8_E4M3", [5, 3], codes.tobytes())
        if scale is not None:
            tensors[f"{START}first.weight_scale"] = ("F32", list(shape), struct.pack("<f", scale) * int(np.prod(shape)))
            tensors[f"{START}first.input_scale"] = ("F32", [], struct.pack("<f", 7.0))
        values = np.array(decode_e4m3(mx.array(codes))).reshape(5, 3) * (scale or 1)
        return Checkpoint(write_raw("float8.safetensors", tensors)), values

    return build


@pytest.mark.parametrize(("scale", "shape"), [(0.25, ()), (0.25, (1,)), (None, ())])
def test_float8_weights_are_decoded_with_their_scale(float8_file, layers, scale, shape):
    checkpoint, values = float8_file(scale, shape)
    np.testing.assert_array_equal(load(layers, checkpoint, dtype=mx.float32).first.weight, values)
    plain = load(layers, checkpoint)
    assert plain.first.weight.dtype == mx.bfloat16 and plain.first.bias.dtype == mx.float32


def test_one_scale_for_each_row_is_refused(float8_file, layers):
    checkpoint, _ = float8_file(0.25, (5,))
    with pytest.raises(CheckpointError, match=r"first\.weight_scale has shape \(5,\)"):
        load(layers, checkpoint)


def test_adapters_are_merged_into_decoded_float8_weights(float8_file, layers, write):
    checkpoint, values = float8_file()
    down, up = np.ones((1, 3), np.float32), np.arange(5, dtype=np.float32).reshape(5, 1)
    path = write("lora.safetensors", {"first.lora_A.weight": down, "first.lora_B.weight": up})
    model = load(layers, checkpoint, dtype=mx.float32, loras=[Lora.open(path, 0.5)])
    np.testing.assert_allclose(model.first.weight, values + 0.5 * up @ down, rtol=1e-6)


@pytest.mark.parametrize("kept", [(), (0, 1, 46, 47)])
def test_every_name_of_the_published_float8_file_lands(full_size, kept):
    def float8(name):
        return int(name.split("transformer_blocks.")[1].split(".")[0]) not in kept

    checkpoint = full_size("ltx-2-19b-distilled-fp8.safetensors.transformer", float8)
    eight = [name for name, info in checkpoint.header.tensors.items() if info.dtype == "F8_E4M3"]
    assert len(eight) == (48 - len(kept)) * 28 and len(checkpoint.header.tensors) > 2 * len(eight)
    sixteen = full_size("ltx-2-19b-distilled.safetensors.transformer")
    assert weights_bytes(Transformer, checkpoint) == weights_bytes(Transformer, sixteen)


class Many(nn.Module):
    """As many small tensors as the published transformer has."""

    Config = AnyConfig

    def __init__(self, config):
        super().__init__()
        self.blocks = [{f"part{i}": nn.Linear(64, 64) for i in range(42)} for _ in range(48)]

    @staticmethod
    def parameter_name(published):
        return published


def test_four_thousand_tensors_load_in_seconds_and_are_held_once(write):
    model = Many(AnyConfig())
    path = write("many.safetensors", dict(tree_flatten(model.parameters())))
    del model
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    # The process's own seconds, whatever else runs on the machine.
    start = time.process_time()
    model = load(Many, Checkpoint(path), dtype=mx.float32)
    seconds = time.process_time() - start
    held = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
    assert len(tree_flatten(model.parameters())) == 4032 and held > 1 << 24
    assert seconds < 60
    assert mx.get_peak_memory() - before < 1.1 * held


def test_casting_holds_one_tensor_twice_at_most(write):
    arrays = {f"blocks.{i}.part{j}.{k}": np.zeros((64, 64) if k == "weight" else 64, np.float32)
              for i in range(48) for j in range(42) for k in ("weight", "bias")}  # fmt: skip
    checkpoint = Checkpoint(write("many.safetensors", arrays))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = load(Many, checkpoint, dtype=mx.float16)
    held = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
    assert mx.get_peak_memory() - before < 1.1 * held
