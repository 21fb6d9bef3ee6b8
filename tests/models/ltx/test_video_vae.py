import gzip
import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, VideoDecoder, decoder_layers
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.models.ltx.video_vae_memory import run_bytes
from LTX_2_MLX.models.ltx.video_vae_tiling import TileSize, Tiling, decode_plan, decode_tiled, encode_plan, encode_tiled
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.shapes import Compression, LatentShape, VideoShape
from LTX_2_MLX.verify.case import Case

TESTS = Path(__file__).parents[2]
GOLDENS = TESTS / "goldens/ltx2"
MANIFESTS = sorted(path.name for path in (TESTS / "manifests").glob("*.safetensors.vae.json.gz"))
# A short autoencoder of compression (4, 4, 4) that mirrors its borders, and two with the published block lists.
NETWORKS = ["video_vae_tiled/decode", "video_vae_2_3/decode", "video_vae_2_0/decode_timestep"]


def _manifest(name: str, extra: bool = False) -> Header:
    spec = json.loads(gzip.decompress((TESTS / "manifests" / name).read_bytes()))
    listed = spec["tensors"] | (spec["possible_extra_tensors"] if extra else {})
    tensors = {key: TensorInfo(tuple(shape), dtype, 0) for key, (shape, dtype) in listed.items()}
    return Header(tensors=tensors, config=spec["metadata"]["config"])


def _with(header: Header, **changes) -> Header:
    return replace(header, config={"vae": header.config["vae"] | changes})


def _check_landing(network, header: Header) -> set[str]:
    shapes = {name: tuple(value.shape) for name, value in tree_flatten(network.parameters())}
    landed = {name: network.parameter_name(name) for name in header.tensors}
    landed = {name: parameter for name, parameter in landed.items() if parameter is not None}
    assert sorted(landed.values()) == sorted(shapes)
    for name, parameter in landed.items():
        published = header.tensors[name].shape
        order = (0, 2, 3, 4, 1) if len(published) == 5 else range(len(published))
        assert tuple(published[axis] for axis in order) == shapes[parameter], name
    return set(landed)


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_published_tensor_is_exactly_one_parameter_of_the_right_shape(name):
    header = _manifest(name)
    config = VideoEncoder.Config.from_header(header)
    landed = _check_landing(VideoEncoder(config), header) | _check_landing(VideoDecoder(config), header)
    assert landed == {tensor for tensor in header.tensors if tensor.startswith("vae.")}
    assert (config.encoder_compression, config.decoder_compression) == (Compression(8, 32, 32),) * 2


def test_timestep_conditioned_decoder_takes_the_further_tensors_and_skips_unused_statistics():
    header = _with(_manifest("ltx-2-19b-dev.safetensors.vae.json.gz", extra=True), timestep_conditioning=True)
    landed = _check_landing(VideoDecoder(VideoDecoder.Config.from_header(header)), header)
    left = {name for name in header.tensors if name.startswith("vae.decoder.")} - landed
    assert left == set()


def test_names_without_the_prefix_of_combined_files_mean_the_same():
    assert VideoDecoder.parameter_name("decoder.conv_in.conv.bias") == "conv_in.conv.bias"
    assert VideoEncoder.parameter_name("per_channel_statistics.mean-of-means") == "per_channel_statistics.mean"
    assert VideoEncoder.parameter_name("audio_vae.encoder.conv_in.conv.bias") is None
    assert LatentStatistics.parameter_name("audio_vae.per_channel_statistics.mean-of-means") is None


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("norm_layer", "group_norm", "norm_layer"),
        ("latent_log_var", "constant", "latent_log_var"),
        ("spatial_padding_mode", "replicate", "spatial_padding_mode"),
        ("patch_size", 0, "patch_size"),
        ("encoder_blocks", [["compress_space", {"multiplier": 2}]], "compress_space"),
        ("decoder_blocks", [["res_x", {"num_layers": 2, "inject_noise": True}]], "inject_noise"),
        ("decoder_blocks", [["attn", {}]], "attn"),
        ("decoder_blocks", [["res_x", {"num_layers": 10**9}]], "num_layers"),
        ("spectral_norm", True, "spectral_norm"),
    ],
)
def test_config_that_no_network_here_computes_is_refused(field, value, said):
    header = _with(_manifest("ltx-2-19b-dev.safetensors.vae.json.gz"), **{field: value})
    with pytest.raises(CheckpointError, match=said):
        VideoDecoder.Config.from_header(header)


@pytest.mark.parametrize(
    "value", [None, True, -1, 10**12, 0.5, float("nan"), "", "zeros", [], [1], [[]], [["res_x"]], {}, [["res_x", None]]]
)
def test_no_value_in_a_config_ends_in_another_error(value):
    header = _manifest("ltx-2.3-22b-dev.safetensors.vae.json.gz")
    for field in header.config["vae"]:
        try:
            config = VideoDecoder.Config.from_header(_with(header, **{field: value}))
            if config is not None:
                VideoDecoder(config), VideoEncoder(config)
        except CheckpointError:
            continue


def test_decoder_of_another_kind_is_left_to_its_own_class():
    header = _with(_manifest("ltx-2.3-22b-dev.safetensors.vae.json.gz"), _class_name="CausalDiffusionVAE")
    assert VideoDecoder.Config.from_header(header) is None
    assert VideoDecoder.Config.from_header(Header(tensors={}, config={"transformer": {}})) is None


@pytest.fixture(scope="module", params=NETWORKS)
def networks(request, tmp_path_factory):
    checkpoint = Case.open(GOLDENS / request.param, tmp_path_factory.mktemp("vae")).checkpoint()
    return load(VideoEncoder, checkpoint), load(VideoDecoder, checkpoint)


def _pieces(x, lengths):
    stops = np.cumsum(lengths)
    return [x[:, stop - length : stop] for stop, length in zip(stops, lengths, strict=True)]


def _frames(encoder, length):
    cell = encoder.compression
    return mx.random.uniform(-1, 1, (1, length, cell.height, 2 * cell.width, 3))


def _close(first, second, tolerance=1e-4):
    first, second = np.array(first), np.array(second)
    return first.shape == second.shape and np.abs(first - second).max() <= tolerance * np.abs(second).max()


@pytest.mark.parametrize("lengths", [(5,), (1, 1, 1, 1, 1), (2, 3)])
@pytest.mark.parametrize("piece_bytes", [1, 6_000])
def test_decoding_piece_by_piece_equals_decoding_the_whole(networks, lengths, piece_bytes):
    decoder = networks[1]
    latent = mx.random.normal((1, 5, 2, 3, 8))
    (noisy,) = decoder.add_noise([latent])
    chunks = list(decoder.stream(_pieces(latent, lengths), piece_bytes=piece_bytes))
    assert len(chunks) > 1
    assert _close(mx.concatenate(chunks, axis=1), decoder(noisy))


@pytest.fixture(scope="module", params=NETWORKS[:2])
def encoder(request, tmp_path_factory):
    return load(VideoEncoder, Case.open(GOLDENS / request.param, tmp_path_factory.mktemp("encoder")).checkpoint())


@pytest.mark.parametrize("lengths", [(1,) * 9, (4, 2, 3)])
@pytest.mark.parametrize("piece_bytes", [1, 30_000])
def test_encoding_piece_by_piece_equals_encoding_the_whole(encoder, lengths, piece_bytes):
    frames = _frames(encoder, 9)
    pieces = list(encoder.stream(_pieces(frames, lengths), piece_bytes=piece_bytes))
    assert _close(mx.concatenate(pieces, axis=1), encoder(frames))


def test_encoder_looks_only_back(encoder):
    frames = _frames(encoder, 17)
    whole, half = encoder.encode(frames), encoder.encode(frames[:, :9])
    assert _close(whole[:, : half.shape[1]], half)


def test_normalised_latents_are_what_is_encoded_and_decoded(networks):
    statistics = networks[0].per_channel_statistics
    latent = mx.random.normal((1, 2, 2, 3, 8))
    assert _close(statistics.normalise(statistics.denormalise(latent)), latent, 1e-6)
    wanted = latent * statistics.std + statistics.mean
    assert _close(statistics.denormalise(latent), wanted, 1e-6)


def test_noise_of_a_timestep_conditioned_decoder_follows_its_key(networks):
    decoder, latent = networks[1], mx.random.normal((1, 2, 2, 2, 8))
    same, other = (decoder.decode(latent, key=mx.random.key(seed)) for seed in (0, 1))
    assert mx.array_equal(decoder.decode(latent), same)
    assert mx.array_equal(same, other) == (not decoder.config.timestep_conditioning)


def test_whole_clip_is_one_graph_as_compiling_needs_it(networks, monkeypatch):
    encoder, decoder = networks
    time, height, width = encoder.compression.time, encoder.compression.height, encoder.compression.width
    frames = mx.random.uniform(-1, 1, (1, time + 1, 2 * height, 3 * width, 3))
    with monkeypatch.context() as patch:
        patch.setattr(mx, "eval", lambda *arrays: pytest.fail("evaluated on the way"))
        # What is compiled takes the plain forms (``ops.device.traced``).
        with as_backend("gpu"):
            latent = encoder(frames)
            timestep = mx.array([0.05]) if decoder.config.timestep_conditioning else None
            decoded = decoder(latent, timestep=timestep)
    assert decoded.shape == frames.shape and mx.isfinite(decoded).all()


def test_sizes_that_do_not_fit_are_refused(networks):
    encoder, decoder = networks
    side = encoder.compression.height
    with pytest.raises(RequestError, match=rf"height is {2 * side + 1}, .* Use {2 * side} \(or {3 * side}\)"):
        encoder.encode(mx.zeros((1, 1, 2 * side + 1, 2 * side, 3)))
    if decoder.config.spatial_padding_mode == "reflect":
        with pytest.raises(RequestError, match=f"at least {2 * side}×{2 * side} pixels"):
            decoder.decode(mx.zeros((1, 1, 1, 4, 8)))


def test_encoder_that_mirrors_its_borders_refuses_a_single_cell(encoder):
    network = VideoEncoder(replace(encoder.config, encoder_spatial_padding_mode="reflect"))
    frames = _frames(encoder, 1)
    with pytest.raises(RequestError, match="1×2 cells"):
        network.encode(frames)
    assert network.encode(mx.concatenate([frames, frames], axis=2)).shape == (1, 1, 2, 2, 8)


ONE_TILE = Tiling(TileSize(8, 2), TileSize(4, 1), None)


def test_decoding_in_one_tile_equals_decoding_the_whole(networks):
    decoder, latent = networks[1], mx.random.normal((1, 3, 2, 4, 8))
    plan = decode_plan(LatentShape(3, 2, 4), ONE_TILE, decoder.compression)
    assert _close(mx.concatenate(list(decode_tiled(decoder, latent, plan)), axis=1), decoder.decode(latent))


def test_encoding_in_one_tile_equals_encoding_the_whole(encoder):
    frames = _frames(encoder, 9)
    plan = encode_plan(VideoShape(*frames.shape[1:4]).latent(encoder.compression), ONE_TILE, encoder.compression)
    pieces = list(encode_tiled(encoder, _pieces(frames, (3, 2, 4)), plan))
    assert _close(mx.concatenate(pieces, axis=1), encoder.encode(frames))


def test_network_computes_in_the_precision_of_its_weights(tmp_path):
    checkpoint = Case.open(GOLDENS / "video_vae_2_3/decode", tmp_path).checkpoint()
    half, whole = (load(VideoDecoder, checkpoint, dtype=dtype) for dtype in (mx.float16, mx.float32))
    latent = mx.random.normal((1, 1, 2, 2, 8))
    frames = half.decode(latent)
    assert frames.dtype == mx.float16
    assert _close(frames.astype(mx.float32), whole.decode(latent), 0.05)


def test_what_a_run_holds_does_not_grow_with_the_clip(networks):
    decoder = networks[1]
    # What other threads have yet to free only adds to it.
    short, long = (min(_most_held(decoder, length) for _ in range(3)) for length in (8, 16))
    assert long <= 1.2 * short
    assert long < run_bytes(decoder_layers(decoder.config), (1, 1, 2, 2, 8), 4, 1)


def _most_held(decoder: VideoDecoder, length: int) -> int:
    latents = [mx.random.normal((1, 1, 2, 2, 8)) for _ in range(length)]
    mx.eval(latents)
    before, held, frames = mx.get_active_memory(), [], 0
    for chunk in decoder.stream(iter(latents), piece_bytes=1):
        frames += chunk.shape[1]
        del chunk
        # Work is freed when its thread is through with it.
        mx.synchronize()
        held.append(mx.get_active_memory() - before)
    assert frames == decoder.compression.time * (length - 1) + 1
    return max(held)
