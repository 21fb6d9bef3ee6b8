"""Pairs of files of ncnn: Real-ESRGAN's two networks by the order of their layers, and what is refused."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.checkpoints.convert import as_safetensors, convert
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.ncnn_file import read_ncnn_files
from LTX_2_MLX.checkpoints.resolve import open_checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.rrdbnet import RRDBNet
from LTX_2_MLX.models.srvgg import SRVGG

RANDOM = np.random.default_rng(3)


class Pair:
    """Layers and weights as ncnn's converter writes them: half floats with their mark, biases in single floats."""

    def __init__(self):
        self.lines, self.data, self.tensors = ["Input data 0 1 data"], b"", {}

    def convolve(self, name: str, outputs: int, inputs: int, *, half: bool = True, leaky: bool = False) -> None:
        weight = RANDOM.normal(0, 0.1, (outputs, inputs, 3, 3)).astype("<f2" if half else "<f4")
        bias = RANDOM.normal(0, 0.1, outputs).astype("<f4")
        end = " 9=2 -23310=1,2.000000e-01" if leaky else ""
        self.lines.append(f"Convolution {name} 1 1 a b 0={outputs} 1=3 4=1 5=1 6={weight.size}{end}")
        mark = (0x01306B47 if half else 0).to_bytes(4, "little")
        raw = weight.tobytes()
        self.data += mark + raw + b"\0" * (-len(raw) % 4) + bias.tobytes()
        self.tensors |= {f"{name}.weight": weight, f"{name}.bias": bias}

    def activate(self, name: str, channels: int) -> None:
        slopes = RANDOM.uniform(0, 0.3, channels).astype("<f4")
        self.lines.append(f"PReLU {name} 1 1 a b 0={channels}")
        self.data += slopes.tobytes()
        self.tensors[f"{name}.weight"] = slopes

    def write(self, path: Path) -> Path:
        path.write_text("\n".join(["7767517", f"{len(self.lines)} {len(self.lines)}", *self.lines]) + "\n")
        path.with_suffix(".bin").write_bytes(self.data)
        return path


def compact(half: bool = True) -> Pair:
    pair = Pair()
    pair.convolve("body.0", 5, 3, half=half)
    pair.activate("body.1", 5)
    pair.convolve("body.2", 5, 5)
    pair.activate("body.3", 5)
    pair.convolve("body.4", 12, 5)
    pair.lines += ["PixelShuffle s 1 1 a b 0=2", "Interp r 1 1 a b 0=1 1=2.0 2=2.0", "BinaryOp p 2 1 a b c"]
    return pair


def large() -> Pair:
    pair = Pair()
    pair.convolve("conv_first", 5, 3)
    for dense in (1, 2, 3):
        for index in range(4):
            pair.convolve(f"body.0.rdb{dense}.conv{index + 1}", 3, 5 + 3 * index, leaky=True)
            pair.lines.append("Concat c 2 1 a b c 0=0")
        pair.convolve(f"body.0.rdb{dense}.conv5", 5, 17)
        pair.lines.append("Eltwise e 2 1 a b c 0=1 -23301=2,2.000000e-01,1.000000e+00")
    pair.lines.append("Eltwise e 2 1 a b c 0=1 -23301=2,2.000000e-01,1.000000e+00")
    pair.convolve("conv_body", 5, 5)
    pair.lines.append("BinaryOp p 2 1 a b c")
    for index in (1, 2):
        pair.lines.append("Interp r 1 1 a b 0=1 1=2.0 2=2.0")
        pair.convolve(f"conv_up{index}", 5, 5, leaky=True)
    pair.convolve("conv_hr", 5, 5, leaky=True)
    pair.convolve("conv_last", 3, 5)
    return pair


@pytest.mark.parametrize(("make", "network"), [(compact, SRVGG), (large, RRDBNet)])
def test_layers_get_their_published_names_and_every_number(make, network, tmp_path):
    pair = make()
    tensors = read_ncnn_files(pair.write(tmp_path / "a.param"))
    assert tensors.keys() == pair.tensors.keys()
    for name, expected in pair.tensors.items():
        assert np.array_equal(np.array(tensors[name]), expected), name
    model = load(network, open_checkpoint(str(tmp_path / "a.param"), "upscaler"), dtype=mx.float32)
    frames = mx.zeros((1, 4, 6, 3))
    assert model(frames).shape == (1, 4 * model.scale, 6 * model.scale, 3)


def test_single_floats_are_read_as_well(tmp_path):
    tensors = read_ncnn_files(compact(half=False).write(tmp_path / "a.param"))
    assert tensors["body.0.weight"].dtype == mx.float32 and tensors["body.2.weight"].dtype == mx.float16


def test_either_file_of_the_pair_may_be_named_and_a_conversion_is_used_again(tmp_path):
    path = compact().write(tmp_path / "a.param")
    converted = as_safetensors(path.with_suffix(".bin"))
    assert converted == tmp_path / "a.param.safetensors"
    made = converted.stat().st_mtime_ns
    assert as_safetensors(path).stat().st_mtime_ns == made
    changed = compact()
    changed.data = changed.data[:-4] + b"\0\0\0\0"
    changed.write(path)
    assert as_safetensors(path).stat().st_mtime_ns != made


def test_missing_half_of_the_pair_is_named(tmp_path):
    path = compact().write(tmp_path / "a.param")
    path.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match=r"a\.bin does not exist.*side by side"):
        convert(path, tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda pair: setattr(pair, "data", pair.data[:-4]), "end after"),
        (lambda pair: setattr(pair, "data", pair.data + b"\0\0\0\0"), "the layers take"),
        (lambda pair: pair.lines.append("LSTM l 1 1 a b 0=4"), "its layers are"),
        (lambda pair: pair.lines.insert(1, "Convolution x 1 1 a b 0=5 1=3 4=1 5=1 6=135"), "do not alternate"),
        (lambda pair: pair.lines.__setitem__(1, "Convolution x 1 1 a b 0=5 1=1 4=1 5=1 6=135"), "no convolution of 3"),
        (lambda pair: pair.lines.__setitem__(1, "Convolution x 1 1 a b 0=99999999999 1=3 6=135"), "channels"),
        (lambda pair: pair.lines.__setitem__(1, "Convolution x 1 1 a b 0=-5 1=3 6=135"), "channels"),
        (lambda pair: pair.lines.__setitem__(1, "Convolution x y 1 a b"), "invalid literal"),
        (lambda pair: setattr(pair, "data", b"\x38\x4b\x0d\0" + pair.data[4:]), "stored as"),
    ],
)
def test_other_networks_and_damage_are_refused(damage, said, tmp_path):
    pair = compact()
    damage(pair)
    with pytest.raises(CheckpointError, match=said):
        convert(pair.write(tmp_path / "a.param"), tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_large_network_with_another_activation_is_refused(tmp_path):
    pair = large()
    pair.lines[2] = pair.lines[2].replace("2.000000e-01", "1.000000e-01")
    with pytest.raises(CheckpointError, match="activation"):
        read_ncnn_files(pair.write(tmp_path / "a.param"))
