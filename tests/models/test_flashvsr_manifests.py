"""Every name of every published FlashVSR, Wan and tiny-autoencoder file lands on one parameter of its shape."""

import gzip
import json
from pathlib import Path

import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.load import AXIS_ORDERS
from LTX_2_MLX.models import tae
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.tae import ConditionalDecoder, LightTinyAutoencoder, TinyAutoencoder
from LTX_2_MLX.models.wan import vae
from LTX_2_MLX.models.wan.transformer import WanTransformer
from LTX_2_MLX.models.wan.vae import WanDecoder, WanEncoder

MANIFESTS = Path(__file__).parents[1] / "manifests"
# File -> the networks in it, together all of it.
NETWORKS = {
    "diffusion_pytorch_model_streaming_dmd.safetensors": [WanTransformer],
    "LQ_proj_in.ckpt": [LQProjection],
    "TCDecoder.ckpt": [ConditionalDecoder],
    "Wan2.1_VAE.pth": [WanEncoder, WanDecoder],
    "Wan2.2_VAE.pth": [WanEncoder, WanDecoder],
    "lightvaew2_1.pth": [WanEncoder, WanDecoder],
    "taew2_1.pth": [TinyAutoencoder],
    "lighttaew2_1.pth": [TinyAutoencoder],
    "taew2_2.safetensors": [TinyAutoencoder],
    "taehv1_5.pth": [TinyAutoencoder],
    "lighttaehy1_5.pth": [LightTinyAutoencoder],
}
PRESETS = {
    "Wan2.1_VAE.pth": vae.PRESETS["wan2.1"],
    "Wan2.2_VAE.pth": vae.PRESETS["wan2.2"],
    "lightvaew2_1.pth": vae.PRESETS["light"],
    "taew2_1.pth": tae.PRESETS["tae-w2.1"],
    "lighttaew2_1.pth": tae.PRESETS["tae-w2.1"],
    "taew2_2.safetensors": tae.PRESETS["tae-w2.2"],
    "taehv1_5.pth": tae.PRESETS["taehv1.5"],
}


def manifest(name: str) -> Header:
    spec = json.loads(gzip.decompress((MANIFESTS / f"{name}.json.gz").read_bytes()))
    return Header({name: TensorInfo(tuple(shape), dtype, 0) for name, (shape, dtype) in spec["tensors"].items()})


def parameter_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of a lazily built network's parameters, in the axis order of the files."""
    owners = {
        f"{path}.weight": AXIS_ORDERS[type(module)]
        for path, module in network.named_modules()
        if type(module) in AXIS_ORDERS
    }
    shapes = {}
    for name, value in tree_flatten(network.parameters()):
        order = owners.get(name, range(value.ndim))
        shapes[name] = tuple(value.shape[list(order).index(axis)] for axis in range(value.ndim))
    return shapes


@pytest.mark.parametrize("file", NETWORKS)
def test_every_published_name_lands_on_one_parameter_of_its_shape(file):
    header = manifest(file)
    taken = {}
    for network in NETWORKS[file]:
        config = network.Config.from_header(header)
        landed = {network.parameter_name(name): info.shape for name, info in header.tensors.items()}
        landed.pop(None, None)
        assert landed == parameter_shapes(network(config))
        names = [name for name in header.tensors if network.parameter_name(name) is not None]
        assert len(names) == len(landed)
        taken |= dict.fromkeys(names, network)
    assert taken.keys() == header.tensors.keys()


@pytest.mark.parametrize("file", PRESETS)
def test_header_tells_the_preset(file):
    network = NETWORKS[file][0]
    assert network.Config.from_header(manifest(file)) == PRESETS[file]


def test_light_tiny_autoencoder_differs_from_its_twin_only_by_who_asks():
    header = manifest("lighttaehy1_5.pth")
    assert TinyAutoencoder.Config.from_header(header) == tae.PRESETS["taehv1.5"]
    light = LightTinyAutoencoder.Config.from_header(header)
    assert (light.negative_slope, light.signed_output) == (0.2, True)
    assert LightTinyAutoencoder.Config.from_header(manifest("taew2_1.pth")) is None


def test_published_transformer_has_twelve_heads_of_128_without_being_told():
    config = WanTransformer.Config.from_header(manifest("diffusion_pytorch_model_streaming_dmd.safetensors"))
    assert (config.dim, config.num_heads, config.head_dim, config.num_layers) == (1536, 12, 128, 30)


@pytest.mark.parametrize("file", NETWORKS)
def test_no_network_takes_another_ones_file_for_its_own(file):
    networks = {network for many in NETWORKS.values() for network in many} - {LightTinyAutoencoder}
    header = manifest(file)
    found = {network for network in networks if network.Config.from_header(header) is not None}
    assert found == set(NETWORKS[file]) - {LightTinyAutoencoder} or file == "lighttaehy1_5.pth"


def test_wrapped_names_of_the_wan_autoencoder_are_known():
    header = manifest("Wan2.1_VAE.pth")
    wrapped = Header({f"model.{name}": info for name, info in header.tensors.items()})
    assert WanDecoder.Config.from_header(wrapped) == vae.PRESETS["wan2.1"]
    for name in header.tensors:
        assert WanDecoder.parameter_name(f"model.{name}") == WanDecoder.parameter_name(name)
