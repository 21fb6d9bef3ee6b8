import gzip
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.rrdbnet import RRDBNet, RRDBNetConfig
from LTX_2_MLX.models.srvgg import SRVGG

TESTS = Path(__file__).parents[1]
SMALL = RRDBNetConfig(num_features=6, num_blocks=2, growth=4)


def manifest(name: str) -> Header:
    spec = json.loads(gzip.decompress((TESTS / f"manifests/{name}.pth.json.gz").read_bytes()))
    return Header({name: TensorInfo(tuple(shape), dtype, 0) for name, (shape, dtype) in spec["tensors"].items()})


@pytest.mark.parametrize("name", ["RealESRGAN_x4", "RealESRGAN_x4plus"])
def test_every_published_tensor_is_exactly_one_parameter_of_the_right_shape(name):
    header = manifest(name)
    config = RRDBNet.Config.from_header(header)
    assert config == RRDBNetConfig(64, 23, 32, unshuffle=1, doublings=2)
    shapes = {name: tuple(value.shape) for name, value in tree_flatten(RRDBNet(config).parameters())}
    landed = {RRDBNet.parameter_name(name): info.shape for name, info in header.tensors.items()}
    assert len(landed) == len(header.tensors) == 702 and landed.keys() == shapes.keys()
    for name, shape in landed.items():
        assert (tuple(shape[i] for i in (0, 2, 3, 1)) if len(shape) == 4 else shape) == shapes[name], name


def published(config: RRDBNetConfig) -> dict[str, mx.array]:
    """Random weights under today's names, in published axis order."""
    mx.random.seed(4)
    return {
        name: mx.contiguous(value.transpose(0, 3, 1, 2)) if value.ndim == 4 else value
        for name, value in tree_flatten(RRDBNet(config).parameters())
    }


def trunk_name(name: str) -> str:
    """Today's name as 2018's training code had it."""
    parts = name.split(".")
    if parts[0] == "body":
        return f"RRDB_trunk.{parts[1]}.RDB{parts[2][3]}.{parts[3]}.{parts[4]}"
    outer = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_up3": "upconv3"}
    return ".".join([(outer | {"conv_hr": "HRconv"}).get(parts[0], parts[0]), parts[1]])


def counted_name(name: str, config: RRDBNetConfig) -> str:
    """Today's name as the first release had it: each doubling is three layers, the last two begin two after."""
    parts = name.split(".")
    if parts[0] == "body":
        return f"model.1.sub.{parts[1]}.RDB{parts[2][3]}.{parts[3]}.0.{parts[4]}"
    if parts[0] == "conv_body":
        return f"model.1.sub.{config.num_blocks}.{parts[1]}"
    last = 3 * config.doublings + 2
    numbers = {"conv_first": 0, "conv_up1": 3, "conv_up2": 6, "conv_up3": 9, "conv_hr": last, "conv_last": last + 2}
    return f"model.{numbers[parts[0]]}.{parts[1]}"


@pytest.mark.parametrize(
    ("folded", "unshuffle", "num_blocks", "num_tensors"), [(12, 2, 23, 702), (3, 1, 6, 192)], ids=["x2plus", "anime_6B"]
)
def test_other_published_sizes_are_told_by_names_and_shapes(folded, unshuffle, num_blocks, num_tensors):
    """Their files differ from x4plus in the first convolution and in the number of blocks alone."""
    tensors = {
        name: info
        for name, info in manifest("RealESRGAN_x4plus").tensors.items()
        if not name.startswith("body.") or int(name.split(".")[1]) < num_blocks
    }
    tensors["conv_first.weight"] = TensorInfo((64, folded, 3, 3), "F32", 0)
    config = RRDBNet.Config.from_header(Header(tensors))
    assert len(tensors) == num_tensors
    assert config == RRDBNetConfig(64, num_blocks, 32, unshuffle=unshuffle, doublings=2)
    assert RRDBNet(config).scale == 4 // unshuffle


@pytest.mark.parametrize("doublings", [1, 2, 3])
@pytest.mark.parametrize("generation", ["trunk", "counted", "wrapped"])
def test_every_generation_of_names_is_the_same_network(tmp_path, generation, doublings):
    config = RRDBNetConfig(6, 2, 4, doublings=doublings)
    weights = published(config)
    rename = {"trunk": trunk_name, "counted": lambda n: counted_name(n, config), "wrapped": lambda n: f"module.{n}"}
    for file, names in (("today", lambda name: name), ("old", rename[generation])):
        mx.save_safetensors(str(tmp_path / f"{file}.safetensors"), {names(n): v for n, v in weights.items()})
    today, old = (load([SRVGG, RRDBNet], Checkpoint(tmp_path / f"{f}.safetensors")) for f in ("today", "old"))
    frames = mx.array(np.random.default_rng(0).random((2, 5, 7, 3), dtype=np.float32))
    assert today.scale == old.scale == 2**doublings
    assert np.array_equal(np.array(today(frames)), np.array(old(frames)))


@pytest.mark.parametrize(("unshuffle", "scale"), [(1, 4), (2, 2), (4, 1)])
def test_folding_pixels_shows_in_the_first_convolution(unshuffle, scale):
    config = RRDBNetConfig(6, 1, 4, unshuffle=unshuffle)
    header = Header({n: TensorInfo(tuple(v.shape), "F32", 0) for n, v in published(config).items()})
    assert RRDBNet.Config.from_header(header) == config
    network = RRDBNet(config)
    assert network.scale == scale
    assert network(mx.zeros((1, 8, 12, 3))).shape == (1, 8 * scale, 12 * scale, 3)


def changed(**shapes: tuple[int, ...]) -> Header:
    tensors = {n: TensorInfo(tuple(v.shape), "F32", 0) for n, v in published(SMALL).items()}
    return Header(tensors | {name.replace("__", "."): TensorInfo(s, "F32", 0) for name, s in shapes.items()})


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (changed(conv_first__weight=(6, 4, 3, 3)), "takes 4 channels, expected 3, 12 or 48"),
        (changed(body__0__rdb1__conv1x1__weight=(4, 6, 1, 1)), r"ESRGAN\+"),
    ],
)
def test_relatives_are_refused_by_what_makes_them_different(header, said):
    with pytest.raises(CheckpointError, match=said):
        RRDBNet.Config.from_header(header)


def test_unknown_files_are_refused_with_their_first_names(tmp_path):
    mx.save_safetensors(str(tmp_path / "swin.safetensors"), {"layers.0.attn.qkv.weight": mx.zeros((3, 3))})
    with pytest.raises(CheckpointError, match=r"no SRVGG or RRDBNet.*layers\.0\.attn\.qkv\.weight"):
        load([SRVGG, RRDBNet], Checkpoint(tmp_path / "swin.safetensors"))


def test_missing_and_surplus_tensors_are_named(tmp_path):
    weights = published(SMALL)
    weights["body.1.rdb3.conv6.weight"] = weights.pop("body.1.rdb3.conv5.weight")
    mx.save_safetensors(str(tmp_path / "broken.safetensors"), weights)
    with pytest.raises(CheckpointError, match=r"lacks.*conv5\.weight.*has.*conv6\.weight"):
        load(RRDBNet, Checkpoint(tmp_path / "broken.safetensors"))


@pytest.mark.parametrize("last", ["conv_last.weight", "model.10.weight"])
def test_network_that_does_not_end_in_rgb_is_refused(last):
    counted = last.startswith("model")
    names = (
        "model.0.weight",
        "model.1.sub.0.RDB1.conv1.0.weight",
        "model.3.weight",
        "model.6.weight",
        "model.8.weight",
    )
    if not counted:
        names = ("conv_first.weight", "body.0.rdb1.conv1.weight")
    shapes = {name: TensorInfo((8, 8, 3, 3), "F32", 0) for name in names} | {
        names[0]: TensorInfo((8, 3, 3, 3), "F32", 0)
    }
    with pytest.raises(CheckpointError, match=r"conv_last\.weight has shape \(1, 8, 3, 3\), expected 3 channels"):
        RRDBNet.Config.from_header(Header(shapes | {last: TensorInfo((1, 8, 3, 3), "F32", 0)}))
