from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.wan.tiled_decoder import TiledDecoder, tile_places
from LTX_2_MLX.models.wan.vae import PRESETS, WanDecoder, WanEncoder, WanVAEConfig


def small(preset: str) -> WanVAEConfig:
    return replace(PRESETS[preset], encoder_width=4, decoder_width=5 if preset != "wan2.2" else 6)


def decoder(preset: str) -> WanDecoder:
    mx.random.seed(7)
    network = WanDecoder(small(preset))
    mx.eval(network.parameters())
    return network


def latent(preset: str, frames: int, height: int = 3, width: int = 4) -> mx.array:
    return mx.random.normal((2, frames, height, width, PRESETS[preset].latent_channels), key=mx.random.key(1))


@pytest.mark.parametrize("preset", ["wan2.1", "wan2.2"])
def test_streamed_pieces_equal_the_whole(preset):
    network, whole = decoder(preset), latent(preset, 4)
    pieces = mx.concatenate(list(network.stream([whole[:, :1], whole[:, 1:3], whole[:, 3:]])), axis=1)
    np.testing.assert_array_equal(np.array(pieces), np.array(network.decode(whole)))


@pytest.mark.parametrize("preset", PRESETS)
def test_first_latent_frame_gives_one_frame_and_every_later_one_four(preset):
    network = decoder(preset)
    chunks = [chunk.shape[1] for chunk in network.stream([latent(preset, 3)])]
    space = network.compression.height
    assert chunks == [1, 4, 4]
    assert next(network.stream([latent(preset, 1)])).shape == (2, 1, 3 * space, 4 * space, 3)


def test_frames_that_do_not_fit_the_compression_are_refused():
    encoder = WanEncoder(small("wan2.1"))
    for shape in ((1, 6, 16, 24, 3), (1, 5, 20, 24, 3)):
        with pytest.raises(RequestError, match="Use"):
            encoder.encode(mx.zeros(shape))


def test_one_tile_is_the_whole_clipped():
    network, whole = decoder("wan2.1"), latent("wan2.1", 2)
    tiled = TiledDecoder(network, (3, 4), (2, 2)).decode(whole)
    np.testing.assert_array_equal(np.array(tiled), np.array(mx.clip(network.decode(whole), -1, 1)))


def test_tiled_pieces_equal_the_tiled_whole():
    tiled, whole = TiledDecoder(decoder("wan2.1"), (2, 3), (1, 2)), latent("wan2.1", 3)
    pieces = mx.concatenate(list(tiled.stream([whole[:, :2], whole[:, 2:]])), axis=1)
    np.testing.assert_array_equal(np.array(pieces), np.array(tiled.decode(whole)))


def test_tiles_cover_every_cell_and_none_is_needless():
    for rows, columns in ((1, 1), (7, 9), (60, 104), (61, 105)):
        covered = np.zeros((rows, columns), int)
        for top, bottom, left, right in tile_places(rows, columns, (6, 5), (4, 3)):
            covered[top:bottom, left:right] += 1
        assert covered.min() >= 1
    assert tile_places(60, 104, (60, 104), (30, 52)) == [(0, 60, 0, 104)]


def test_unknown_config_field_is_named():
    shapes = {"decoder.conv1.weight": (20, 16, 3, 3, 3), "decoder.head.2.weight": (3, 5, 3, 3, 3)}
    tensors = {name: TensorInfo(shape, "F32", 0) for name, shape in shapes.items()}
    assert WanVAEConfig.from_header(Header(tensors)).decoder_width == 5
    with pytest.raises(CheckpointError, match="'attention_scales'"):
        WanVAEConfig.from_header(Header(tensors, config={"attention_scales": [2]}))
