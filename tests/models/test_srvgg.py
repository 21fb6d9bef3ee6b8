import gzip
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.ops.device import as_backend

TESTS = Path(__file__).parents[1]
PUBLISHED = {
    "realesr-animevideov3": SRVGGConfig(64, 16, 4),
    "realesr-general-x4v3": SRVGGConfig(64, 32, 4),
    "realesr-general-wdn-x4v3": SRVGGConfig(64, 32, 4),
}


def manifest(name: str) -> Header:
    spec = json.loads(gzip.decompress((TESTS / f"manifests/{name}.pth.json.gz").read_bytes()))
    return Header({name: TensorInfo(tuple(shape), dtype, 0) for name, (shape, dtype) in spec["tensors"].items()})


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_tensor_is_exactly_one_parameter_of_the_right_shape(name):
    header = manifest(name)
    config = SRVGG.Config.from_header(header)
    assert config == PUBLISHED[name]
    shapes = {name: tuple(value.shape) for name, value in tree_flatten(SRVGG(config).parameters())}
    landed = {SRVGG.parameter_name(name): info.shape for name, info in header.tensors.items()}
    assert len(landed) == len(header.tensors) and landed.keys() == shapes.keys()
    for name, shape in landed.items():
        assert (tuple(shape[i] for i in (0, 2, 3, 1)) if len(shape) == 4 else shape) == shapes[name], name


def tensors(*shapes: tuple[int, ...], prefix: str = "") -> Header:
    return Header({f"{prefix}body.{i}.weight": TensorInfo(shape, "F32", 0) for i, shape in enumerate(shapes)})


@pytest.mark.parametrize("prefix", ["", "module.", "netG."])
def test_sizes_come_from_shapes_whatever_wraps_the_names(prefix):
    header = tensors((20, 3, 3, 3), (20,), (20, 20, 3, 3), (20,), (27, 20, 3, 3), prefix=prefix)
    assert SRVGG.Config.from_header(header) == SRVGGConfig(20, 1, 3)
    assert SRVGG.parameter_name(f"{prefix}body.2.bias") == "body.2.bias"


@pytest.mark.parametrize(
    "header",
    [
        tensors((20, 3, 3, 3), (20,), (26, 20, 3, 3)),
        tensors((20, 3, 3, 3), (20,), (20, 20, 3, 3), (20,)),
        tensors((20, 3, 3, 3), (20,), ()),
        Header(tensors((20, 3, 3, 3), (20,)).tensors | {"body.90000.weight": TensorInfo((48, 20, 3, 3), "F32", 0)}),
    ],
    ids=["no scale", "no last convolution", "no axes", "holes"],
)
def test_what_only_looks_like_it_is_refused(header):
    with pytest.raises(CheckpointError, match="layers body"):
        SRVGG.Config.from_header(header)


def test_other_networks_are_left_to_others():
    assert SRVGG.Config.from_header(Header({"conv_first.weight": TensorInfo((64, 3, 3, 3), "F32", 0)})) is None
    assert SRVGG.Config.from_header(tensors((20,), (20,))) is None


def test_with_nothing_learned_each_pixel_is_repeated():
    network = SRVGG(SRVGGConfig(4, 1, 3))
    network.load_weights([(name, mx.zeros_like(value)) for name, value in tree_flatten(network.parameters())])
    frames = np.random.default_rng(0).random((2, 5, 7, 3), dtype=np.float32)
    got = np.array(network(mx.array(frames)))
    assert np.array_equal(got, frames.repeat(3, axis=1).repeat(3, axis=2))


def test_a_pixel_reaches_as_far_as_said_and_no_farther():
    mx.random.seed(2)
    network = SRVGG(SRVGGConfig(6, 3, 2))
    network.load_weights([(name, mx.ones_like(value) / 9) for name, value in tree_flatten(network.parameters())])
    frames = np.zeros((1, 1, 31, 3), np.float32)
    touched = frames.copy()
    touched[0, 0, 15] = 1
    changed = np.array(network(mx.array(touched)) - network(mx.array(frames)))[0].any(axis=(0, 2))
    assert np.flatnonzero(changed)[[0, -1]].tolist() == [2 * (15 - network.reach), 2 * (15 + network.reach) + 1]


@pytest.mark.parametrize("size", [(2, 65, 66), (1, 64, 67)])
def test_large_frames_give_the_same_by_the_forms_of_both_backends(size):
    mx.random.seed(4)
    network = SRVGG(SRVGGConfig(48, 2, 2))
    for layer in network.body[1:-1:2]:
        layer.weight = mx.random.normal(layer.weight.shape)
    frames = mx.random.uniform(shape=(*size, 3))
    results = []
    for backend in ("cpu", "gpu"):
        with as_backend(backend):
            results.append(np.array(network(frames)))
    np.testing.assert_allclose(results[0], results[1], atol=2e-6)


def test_network_for_grey_images_is_refused():
    header = tensors((20, 1, 3, 3), (20,), (20, 20, 3, 3), (20,), (12, 20, 3, 3))
    with pytest.raises(CheckpointError, match="takes 1 channels, expected RGB images"):
        SRVGG.Config.from_header(header)
