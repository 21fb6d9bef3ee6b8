"""No network asks a Mac's GPU for more than two seconds of work between two evaluations."""

from pathlib import Path

import mlx.core as mx
import pytest

from LTX_2_MLX.bench.workloads import PUBLISHED, vae_config
from LTX_2_MLX.checkpoints.load import build, config_of
from LTX_2_MLX.development.network_calls import FULL_HD, VIDEO, calls, hollow, record_call
from LTX_2_MLX.development.work_record import M1_MAX_RATES, seconds_on_m1_max
from LTX_2_MLX.models.ltx.diffusion_decoder_memory import array_bytes as diffusion_array_bytes
from LTX_2_MLX.models.ltx.diffusion_decoder_memory import decoding_plan
from LTX_2_MLX.models.ltx.duration_head import DurationHead
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.tae import ConditionalConfig
from LTX_2_MLX.models.wan.vae import PRESETS
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines.generation import duration, sound
from LTX_2_MLX.pipelines.generation.decode import decode_memory
from LTX_2_MLX.pipelines.generation.prompt import connector_bytes
from LTX_2_MLX.pipelines.interpolate import work_bytes
from LTX_2_MLX.pipelines.requests import InterpolateRequest
from LTX_2_MLX.pipelines.super_resolve.stages import _tile_pixels, _tiny_array_bytes, _wan_array_bytes
from LTX_2_MLX.planning.plan import largest_tensor_bytes
from LTX_2_MLX.shapes import Compression, VideoShape

MANIFESTS = Path(__file__).parents[1] / "manifests"
CALLS = {call.name: call for call in calls(by_diffusion=VideoShape(25, 256, 384))}
# macOS ends a command buffer after about five seconds; a base M1 has a quarter of an M1 Max.
LONGEST_SECONDS = 2.0


@pytest.mark.parametrize("name", CALLS)
def test_the_longest_piece_of_work_is_short(name, tmp_path):
    record = record_call(CALLS[name], MANIFESTS, tmp_path)
    assert 0 < seconds_on_m1_max(record.longest) < LONGEST_SECONDS


def test_no_attention_of_the_transformer_is_one_long_launch(tmp_path):
    record = record_call(CALLS["transformer 2.0"], MANIFESTS, tmp_path)
    assert record.largest_launches["attention"] <= 1e12


def test_the_operations_of_the_decoder_are_those_that_are_published(tmp_path):
    record = record_call(CALLS["video decoder 2.0"], MANIFESTS, tmp_path)
    assert record.total == pytest.approx(166.4e12, rel=1e-3)
    assert set(M1_MAX_RATES) >= set(record.longest)


@pytest.mark.parametrize("name", ["TCDecoder", "Wan 2.1 decoder", "Wan 2.1 decoder in tiles"])
def test_plans_know_the_largest_array_of_decoders(name, tmp_path):
    record = record_call(CALLS[name], MANIFESTS, tmp_path)
    if name == "TCDecoder":
        planned = _tiny_array_bytes(ConditionalConfig(16, (512, 256, 128, 128)), *FULL_HD, mx.bfloat16)
    else:
        size = _tile_pixels(*FULL_HD) if "tiles" in name else FULL_HD
        planned = _wan_array_bytes(PRESETS["wan2.1"], *size, mx.bfloat16)
    assert record.largest_array <= planned <= 1.5 * record.largest_array


def test_plans_know_the_largest_array_of_the_transformer_the_upscaler_and_the_frames_between(tmp_path):
    transformer = record_call(CALLS["transformer 2.3"], MANIFESTS, tmp_path)
    tokens = 13 * 30 * 44
    assert transformer.largest_array == pytest.approx(4 * 4096 * tokens * 2, rel=0.1)
    upscaler = record_call(CALLS["latent upscaler, spatial ×2"], MANIFESTS, tmp_path)
    assert upscaler.largest_array == pytest.approx(1024 * tokens * 4, rel=0.25)
    frames = record_call(CALLS["RIFE"], MANIFESTS, tmp_path)
    _, planned = work_bytes(1080, 1920, InterpolateRequest(precision="fp16"))
    assert frames.largest_array == pytest.approx(planned, rel=0.1)


@pytest.mark.parametrize("name", ["sound 2.0", "sound 2.3", "diffusion decoder 2.5"])
def test_plans_know_the_largest_array_of_sound_and_of_the_diffusion_decoder(name, tmp_path):
    call = CALLS[name]
    record = record_call(call, MANIFESTS, tmp_path)
    network, *others = (build(network, hollow(call, MANIFESTS, tmp_path)) for network in call.networks)
    with as_backend("gpu"):
        if others:
            latents = round(VIDEO.num_frames / 24 * 25)
            _, planned = sound.piece_bytes(network.config, others[0], latents, sound.PIECE_FRAMES)
        else:
            latent = VideoShape(25, 256, 384).latent(network.config.compression)
            plan = decoding_plan(network.config, latent, budget=8 * 2**30, dtype=mx.bfloat16)
            planned = diffusion_array_bytes(network.config, latent, plan, mx.bfloat16, "chunked")
    assert record.largest_array <= planned <= 1.6 * record.largest_array


@pytest.mark.parametrize("name", ["text features 2.0", "text features 2.3", "Gemma 3", "duration head"])
def test_plans_know_that_the_largest_array_of_text_networks_is_one_of_their_weights(name, tmp_path):
    call = CALLS[name]
    (network,) = call.networks
    checkpoint = hollow(call, MANIFESTS, tmp_path)
    planned = largest_tensor_bytes(network, checkpoint, mx.bfloat16)
    if network is DurationHead:
        planned = duration.array_bytes(config_of(network, checkpoint), 1024) // 2  # float32; recorded in 16 bit
    elif network is TextFeatures:
        _, array = connector_bytes(config_of(network, checkpoint), (1, 1024), mx.bfloat16)
        assert array < planned
    assert record_call(call, MANIFESTS, tmp_path).largest_array <= planned


def test_the_decoders_pieces_are_as_large_as_planned(tmp_path):
    record = record_call(CALLS["video decoder 2.0"], MANIFESTS, tmp_path)
    with as_backend("gpu"):
        latent = VIDEO.latent(Compression(8, 32, 32))
        planned = decode_memory(vae_config(PUBLISHED), latent, mx.bfloat16, None, 2**36).array_bytes
    assert record.largest_array <= planned <= 1.6 * record.largest_array
