import gzip
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.ltx.latent_upscaler import ClipGroupNorm, LatentUpscaler
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, LatentStatisticsConfig
from LTX_2_MLX.shapes import LatentShape
from LTX_2_MLX.verify.case import Case

TESTS = Path(__file__).parents[2]
MANIFESTS = {
    "ltx-2-spatial-upscaler-x2-1.0": LatentShape(13, 30, 44),
    "ltx-2-temporal-upscaler-x2-1.0": LatentShape(25, 15, 22),
    "ltx-2.3-spatial-upscaler-x1.5-1.0": LatentShape(13, 23, 33),
    "ltx-2.3-spatial-upscaler-x2-1.0": LatentShape(13, 30, 44),
    "ltx-2.3-spatial-upscaler-x2-1.1": LatentShape(13, 30, 44),
    "ltx-2.3-temporal-upscaler-x2-1.0": LatentShape(25, 15, 22),
}


def _manifest(name: str, **changes) -> Header:
    spec = json.loads(gzip.decompress((TESTS / f"manifests/{name}.safetensors.json.gz").read_bytes()))
    tensors = {key: TensorInfo(tuple(shape), dtype, 0) for key, (shape, dtype) in spec["tensors"].items()}
    return Header(tensors=tensors, config=spec["metadata"]["config"] | changes)


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_published_tensor_is_exactly_one_parameter_of_the_right_shape(name):
    header = _manifest(name)
    network = LatentUpscaler(LatentUpscaler.Config.from_header(header))
    shapes = {parameter: tuple(value.shape) for parameter, value in tree_flatten(network.parameters())}
    landed = {published: LatentUpscaler.parameter_name(published) for published in header.tensors}
    assert sorted(landed.values()) == sorted(shapes)
    for published, parameter in landed.items():
        shape = header.tensors[published].shape
        moved = (shape[0], *shape[2:], shape[1]) if published.endswith("weight") and len(shape) > 1 else shape
        assert moved == shapes[parameter], published
    assert network.config.output_shape(LatentShape(13, 15, 22)) == MANIFESTS[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spatial_scale": 3.0}, "spatial_scale is 3"),
        ({"spatial_upsample": False}, "neither space nor time"),
        ({"dims": 2}, "dims"),
        ({"mid_channels": 100}, "mid_channels is 100"),
        ({"mid_channels": 32 * 10**9}, "at most 8192 is supported"),
        ({"blur": True}, "blur"),
        ({"rational_resampler": "yes"}, "rational_resampler"),
    ],
)
def test_config_that_no_network_here_computes_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        LatentUpscaler.Config.from_header(_manifest("ltx-2-spatial-upscaler-x2-1.0", **changes))


def test_file_of_another_network_is_not_an_upscaler():
    assert LatentUpscaler.Config.from_header(Header(tensors={}, config={"vae": {}})) is None


def test_scale_is_a_fraction():
    config = LatentUpscaler.Config.from_header(_manifest("ltx-2.3-spatial-upscaler-x1.5-1.0"))
    assert config.scale == Fraction(3, 2)
    assert replace(config, rational_resampler=False).scale == 2
    assert LatentUpscaler.Config.from_header(_manifest("ltx-2-temporal-upscaler-x2-1.0")).scale == 1


@pytest.fixture(scope="module")
def temporal(tmp_path_factory):
    case = Case.open(TESTS / "goldens/ltx2/temporal_upscaler_x2/v2_0", tmp_path_factory.mktemp("upscaler"))
    return load(LatentUpscaler, case.checkpoint())


def test_latents_of_another_width_are_refused(temporal):
    statistics = LatentStatistics(LatentStatisticsConfig(channels=12))
    with pytest.raises(RequestError, match="12 channels, the latent upscaler takes 8"):
        temporal.upscale(mx.zeros((1, 2, 3, 4, 12)), statistics)


def test_samples_of_a_batch_do_not_meet(temporal):
    latent = mx.random.normal((2, 3, 4, 5, 8))
    together = temporal(latent)
    for number in range(2):
        alone = temporal(latent[number : number + 1])
        assert np.allclose(np.array(together[number]), np.array(alone[0]), atol=1e-4)


def test_group_norm_is_exact_over_many_values_far_from_zero():
    norm, random = ClipGroupNorm(64), np.random.default_rng(1)
    norm.weight, norm.bias = mx.array(random.normal(size=64)), mx.array(random.normal(size=64))
    x = random.normal(100, 0.5, size=(2, 5, 31, 47, 64)).astype(np.float32)
    grouped = x.astype(np.float64).reshape(2, -1, 32, 2)
    mean, deviation = grouped.mean(axis=(1, 3), keepdims=True), grouped.std(axis=(1, 3), keepdims=True)
    expected = ((grouped - mean) / np.sqrt(deviation**2 + 1e-5)).reshape(x.shape)
    expected = expected * np.array(norm.weight) + np.array(norm.bias)
    assert np.abs(np.array(norm(mx.array(x))) - expected).max() < 2e-4
