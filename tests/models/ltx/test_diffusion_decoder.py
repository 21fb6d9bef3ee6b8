"""LTX-2.5's diffusion video decoder: published names, streaming, tiles, refusals."""

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.contents import inspect
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.errors import CheckpointError, MemoryBudgetError, RequestError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.ltx.diffusion_decoder import PIECE_TOKENS, DiffusionVideoDecoder
from LTX_2_MLX.models.ltx.diffusion_decoder_blocks import rotary_split
from LTX_2_MLX.models.ltx.diffusion_decoder_config import DiffusionDecoderConfig
from LTX_2_MLX.models.ltx.diffusion_decoder_tiling import (
    AxisTiling,
    DiffusionTiling,
    decode,
    decode_plan,
    fitting_tiling,
)
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.shapes import Compression, LatentShape, VideoShape
from LTX_2_MLX.verify.case import Case

TESTS = Path(__file__).parents[2]
GOLDENS = TESTS / "goldens/ltx25/diffusion_decoder"


@pytest.fixture(scope="module")
def header() -> Header:
    """Header of the published file, without its values."""
    spec = json.loads(gzip.decompress((TESTS / "manifests/ltx-2.5-video-vae-bf16.safetensors.json.gz").read_bytes()))
    tensors = {name: TensorInfo(tuple(shape), dtype, 0) for name, (shape, dtype) in spec["tensors"].items()}
    return Header(tensors=tensors, config=spec["metadata"]["config"])


@pytest.fixture
def decoder(tmp_path) -> DiffusionVideoDecoder:
    case = Case.open(GOLDENS / "tiled", tmp_path)
    return load(DiffusionVideoDecoder, case.checkpoint(), dtype=mx.float32)


def test_every_published_name_lands_on_one_parameter(header):
    decoder = DiffusionVideoDecoder(DiffusionDecoderConfig.from_header(header))
    shapes = {name: tuple(value.shape) for name, value in tree_flatten(decoder.parameters())}
    landed = {}
    unused = []
    for name, info in header.tensors.items():
        parameter = DiffusionVideoDecoder.parameter_name(name)
        if parameter is None:
            unused.append(name)
        else:
            assert parameter not in landed
            landed[parameter] = info.shape
    assert landed == shapes
    others = [name for name in unused if not name.startswith(("encoder.", "per_channel_statistics."))]
    assert others == ["decoder.type_emb"]


def test_the_file_holds_the_encoder_as_well_and_no_convolutional_decoder(header):
    assert VideoDecoder.Config.from_header(header) is None
    config = VideoEncoder.Config.from_header(header)
    assert config.encoder_compression == Compression(8, 32, 32)
    shapes = {name: value.size for name, value in tree_flatten(VideoEncoder(config).parameters())}
    landed = {VideoEncoder.parameter_name(name): math.prod(info.shape) for name, info in header.tensors.items()}
    landed.pop(None)
    assert landed == shapes


def test_inspection_names_the_networks_of_the_file(tmp_path):
    case = Case.open(TESTS / "goldens/ltx25/video_vae_file/roundtrip", tmp_path)
    networks = {network.name: network.problem for network in inspect(case.write_checkpoint()).networks}
    assert networks == {"VideoEncoder": None, "DiffusionVideoDecoder": None}


def test_published_config_has_the_published_sizes(header):
    config = DiffusionDecoderConfig.from_header(header)
    assert config.compression == Compression(8, 32, 32)
    assert config.smallest_latent == (3, 7, 7)
    assert config.ghost_frames == 2
    # Four blocks and six that see a frame on each side, and four at twice the rate.
    assert config.features_halo == 12
    assert config.features_shape(13, 30, 44) == (49, 120, 176)
    assert rotary_split(config.head_dim) == (16, 24, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage_channels": [64, 32, 32, 32]}, "stage_channels"),
        ({"stage_channels": [64, 32, 32, 16, 16]}, "upsamples"),
        ({"stage5_kernel": [3, 3]}, "stage5_kernel"),
        ({"upsamples": [[[1, 2, 2], 2]]}, "upsamples"),
        ({"head_dim": 24}, "head_dim"),
        ({"resampler_kind": "conv"}, "resampler_kind"),
        ({"number_of_things": 3}, "number_of_things"),
    ],
)
def test_config_that_the_network_does_not_have_is_refused(tmp_path, change, message):
    case = Case.open(GOLDENS / "tiled", tmp_path)
    header = case.checkpoint().header
    vae = header.config["vae"]
    changed = replace(header, config={"vae": vae | {"decoder": vae["decoder"] | change}})
    with pytest.raises(CheckpointError, match=message):
        DiffusionDecoderConfig.from_header(changed)


def test_convolutional_autoencoder_is_not_taken_for_this_one(tmp_path):
    header = Case.open(GOLDENS / "tiled", tmp_path).checkpoint().header
    changed = replace(header, config={"vae": header.config["vae"] | {"_class_name": "CausalVideoAutoencoder"}})
    assert DiffusionDecoderConfig.from_header(changed) is None


def noise_of(seed: int):
    rng = np.random.default_rng(seed)
    return lambda shape, first: mx.array(rng.normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("frames_at_once", [1, 3])
def test_features_made_piece_by_piece_give_the_same_video(decoder, frames_at_once):
    latent = mx.random.normal((1, 9, 1, 3, 8), key=mx.random.key(4))
    tiling = DiffusionTiling(time=AxisTiling(16, 8))
    whole = list(decode(decoder, latent, noise_of(1), tiling=tiling, frames_at_once=99))
    pieces = list(decode(decoder, latent, noise_of(1), tiling=tiling, frames_at_once=frames_at_once))
    assert [chunk.shape for chunk in pieces] == [chunk.shape for chunk in whole]
    assert sum(chunk.shape[1] for chunk in pieces) == 65
    for piece, chunk in zip(pieces, whole, strict=True):
        assert float(mx.abs(piece - chunk).max() / mx.abs(chunk).max()) < 1e-5


@pytest.mark.parametrize("mode", ["combined", "chunked"])
def test_blocks_give_the_same_video_a_few_frames_at_a_time(decoder, mode):
    latent = mx.random.normal((1, 5, 2, 9, 8), key=mx.random.key(4))
    video = []
    for tokens in (PIECE_TOKENS, 1):
        decoder.piece_tokens = tokens
        video.append(mx.concatenate(list(decode(decoder, latent, noise_of(1), mode=mode)), axis=1))
    assert video[0].shape == (1, 33, 64, 288, 1)
    assert float(mx.abs(video[0] - video[1]).max() / mx.abs(video[0]).max()) < 1e-5


def test_memory_does_not_grow_with_the_length_of_the_clip(decoder):
    def peak(frames: int) -> int:
        latent = mx.random.normal((1, frames, 1, 3, 8), key=mx.random.key(4))
        mx.eval(latent)
        mx.clear_cache()
        mx.reset_peak_memory()
        for chunk in decode(
            decoder, latent, noise_of(1), tiling=DiffusionTiling(time=AxisTiling(16, 8)), frames_at_once=4
        ):
            del chunk
        return mx.get_peak_memory()

    peak(5)
    assert peak(40) < 1.05 * peak(20)


def test_tiles_that_see_too_little_are_refused(decoder):
    latent = LatentShape(9, 2, 3)
    for tiling, message in [
        (DiffusionTiling(time=AxisTiling(16, 4)), "at least 8"),
        (DiffusionTiling(width=AxisTiling(64, 12)), "multiples of 8"),
        (DiffusionTiling(width=AxisTiling(32, 32)), "too small"),
    ]:
        with pytest.raises(RequestError, match=message):
            decode_plan(decoder.config, latent, tiling)


def test_last_tile_is_never_smaller_than_the_windows(header):
    config = DiffusionDecoderConfig.from_header(header)
    plan = decode_plan(config, LatentShape(18, 30, 44), DiffusionTiling(time=AxisTiling(88, 40)))
    assert all(len(tile) >= 6 for tile in plan.time.sources)
    assert plan.time.sources[-1].stop == 69
    assert plan.sums_to_one


def test_video_that_no_tile_fits_is_refused(header):
    config = DiffusionDecoderConfig.from_header(header)
    with pytest.raises(MemoryBudgetError, match="--video-decoder conv"):
        fitting_tiling(config, VideoShape(121, 1088, 1920), free_bytes=4 * 2**30, weights_bytes=2**30)
