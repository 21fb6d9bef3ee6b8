import gzip
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.rife import IFNet, pad_for, padding_multiple
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.ops.sampling import resize, warp
from LTX_2_MLX.verify.case import Case

TESTS = Path(__file__).parents[1]


def header() -> Header:
    spec = json.loads(gzip.decompress((TESTS / "manifests/flownet.pkl.json.gz").read_bytes()))
    return Header({name: TensorInfo(tuple(shape), dtype, 0) for name, (shape, dtype) in spec["tensors"].items()})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    case = Case.open(TESTS / "goldens/rife/procedure", tmp_path_factory.mktemp("rife"))
    return case.write_checkpoint()


@pytest.fixture(scope="module")
def network(checkpoint) -> IFNet:
    return load(IFNet, Checkpoint(checkpoint))


def frames(height: int, width: int) -> list[mx.array]:
    random = np.random.default_rng(5)
    return [mx.array(random.random((1, height, width, 3), dtype=np.float32)) for _ in range(2)]


def test_every_published_tensor_is_exactly_one_parameter_of_the_right_shape():
    network = IFNet(IFNet.Config.from_header(header()))
    shapes = {name: tuple(value.shape) for name, value in tree_flatten(network.parameters())}
    landed = {IFNet.parameter_name(name): info.shape for name, info in header().tensors.items()}
    assert len(landed) == len(header().tensors) == 128 and landed.keys() == shapes.keys()
    for name, shape in landed.items():
        transposed = "lastconv" in name or "cnn3" in name
        order = (1, 2, 3, 0) if transposed else (0, 2, 3, 1)
        moved = tuple(shape[i] for i in order) if name.endswith("weight") and len(shape) == 4 else shape
        assert moved == shapes[name], name


@pytest.mark.parametrize("name", ["module.teacher.conv0.0.0.weight", "module.caltime.0.weight", "caltime.8.bias"])
def test_tensors_of_training_are_left_out(name):
    assert IFNet.parameter_name(name) is None


def test_missing_tensors_are_named(checkpoint, tmp_path):
    weights = mx.load(str(checkpoint))
    del weights["module.block2.convblock.3.beta"]
    mx.save_safetensors(str(tmp_path / "flownet.safetensors"), weights)
    with pytest.raises(CheckpointError, match=r"block2\.convblock\.3\.beta"):
        load(IFNet, Checkpoint(tmp_path / "flownet.safetensors"))


def test_other_versions_are_not_taken_for_this_one():
    tensors = dict(header().tensors)
    tensors["module.block0.conv0.1.0.weight"] = TensorInfo((256, 128, 3, 3), "F32", 0)
    assert IFNet.Config.from_header(Header(tensors)) is None


@pytest.mark.parametrize(("scale", "multiple"), [(0.25, 128), (0.5, 64), (1, 32), (2, 32), (4, 32)])
def test_padding_follows_the_scale(scale, multiple):
    assert padding_multiple(scale) == multiple
    padded = pad_for(mx.ones((1, 33, 65, 3)), scale)
    assert padded.shape[1] % multiple == padded.shape[2] % multiple == 0 and padded.sum().item() == 33 * 65 * 3


@pytest.mark.parametrize("scale", [0.3, 0, -1, 8])
def test_other_scales_are_refused(scale):
    with pytest.raises(RequestError, match=r"0\.25, 0\.5, 1"):
        padding_multiple(scale)


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_every_scale_and_odd_sizes_give_a_frame_of_the_same_size(network, scale):
    made = network(*frames(33, 47), 0.5, scale=scale)
    assert made.shape == (1, 33, 47, 3) and mx.isfinite(made).all().item()


def by_full_size(network: IFNet, first: mx.array, second: mx.array, scale: float) -> mx.array:
    """The reference's own order: everything is computed at the frame's full size and then reduced."""
    height, width = first.shape[1:3]
    flow = None
    known = None
    for i, step in enumerate((8, 4, 2, 1)):
        size = int(height * scale / step), int(width * scale / step)
        warped = [first, second]
        if flow is not None:
            warped = [warp(first, flow[..., :2]), warp(second, flow[..., 2:])]
        colors = [frame[..., :3] for frame in warped]
        features = [frame[..., 3:] for frame in warped]
        inputs = [*colors, *features, mx.full((first.shape[0], height, width, 1), 0.5)]
        if known is not None:
            inputs.append(known)
        inputs = [resize(array, *size) for array in inputs]
        if flow is not None:
            inputs.append(resize(flow, *size) * scale / step)
        output = resize(network[f"block{i}"](mx.concatenate(inputs, axis=-1), 13), height, width)
        change = output[..., :4] * step / scale
        known = output[..., 4:]
        flow = change if flow is None else flow + change
    weight = mx.sigmoid(known[..., :1])
    warped_first = warp(first[..., :3], flow[..., :2])
    warped_second = warp(second[..., :3], flow[..., 2:])
    return warped_first * weight + warped_second * (1 - weight)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(("scale", "size"), [(0.5, (64, 128)), (1.0, (64, 32)), (2.0, (32, 64)), (4.0, (32, 32))])
def test_reduced_sizes_give_the_same_as_full_size(network, scale, size, backend):
    with as_backend(backend):
        first, second = (network.encode_frame(frame) for frame in frames(*size))
        expected = by_full_size(network, first, second, scale)
        computed = network.between(first, second, 0.5, scale)
    assert (mx.abs(computed - expected).max() / mx.abs(expected).max()).item() < 1e-4


def test_frames_of_a_batch_do_not_touch(network):
    (a, b), (c, d) = frames(32, 64), [frame[:, ::-1] for frame in frames(32, 64)]
    together = network(mx.concatenate([a, c]), mx.concatenate([b, d]), 0.3)
    apart = mx.concatenate([network(a, b, 0.3), network(c, d, 0.3)])
    np.testing.assert_allclose(np.array(together), np.array(apart), atol=2e-5)


def test_half_precision_keeps_flow_in_float32_and_comes_near(network, checkpoint):
    half = load(IFNet, Checkpoint(checkpoint), dtype=mx.float16)
    first, second = frames(32, 64)
    encoded = [half.encode_frame(frame) for frame in (first, second)]
    estimate = None
    for i in range(half.num_blocks):
        estimate = half.refine(estimate, i, *encoded, 0.5, 1.0)
        assert (estimate.flow.dtype, estimate.mask_and_features.dtype) == (mx.float32, mx.float16)
    assert mx.abs(half(first, second) - network(first, second)).mean().item() < 0.02
