from collections import Counter

import mlx.core as mx
import pytest

from LTX_2_MLX.bench.measure import possible_seconds, time_network
from LTX_2_MLX.bench.operations import Attention, Convolution, Matmul, rate
from LTX_2_MLX.bench.workloads import NAMES, PUBLISHED, Widths, transformer_operations, workloads
from LTX_2_MLX.models.ltx.config import StreamConfig, TransformerConfig
from LTX_2_MLX.shapes import VideoShape

NARROW = Widths(
    heads=2, audio_head_dim=6, layers=1, text=32, latent=8, vae=4, spatial=32, temporal=32, registers=16,
    connector_layers=1,
)  # fmt: skip


def published_transformer(layers: int) -> TransformerConfig:
    ends = {"in_channels": 128, "out_channels": 128, "heads": 32, "ff_bias": True}
    return TransformerConfig(
        num_layers=layers,
        video=StreamConfig(head_dim=128, max_positions=(20, 2048, 2048), **ends),
        audio=StreamConfig(head_dim=64, max_positions=(20,), **ends),
        caption_channels=3840,
        norm_eps=1e-6,
        rotary_theta=10000.0,
        rotary_pairing="split",
        rotary_precision="float64",
        timestep_scale=1000,
        cross_modal_gate_scale=1000,
        gated_attention=False,
        text_modulation=False,
        prompt_modulation=False,
        keyframe_embedding=False,
    )


def test_transformer_of_480_704_97_takes_134_tera_operations():
    # Worked out by hand: 8ND² + 4ND² + 4TD² + 16ND² and the audio's share in linear layers, 4N²D + 4NTD in attention.
    operations = transformer_operations(published_transformer(48), tokens=4290, sounds=101, text_tokens=1024)
    linear = sum(o.flops * n for o, n in operations.items() if isinstance(o, Matmul))
    attention = sum(o.flops * n for o, n in operations.items() if isinstance(o, Attention))
    assert linear == pytest.approx(115.4e12, rel=0.01)
    assert attention == pytest.approx(18.3e12, rel=0.01)


def test_decoder_of_480_704_97_takes_42_tera_operations():
    decoder = workloads(VideoShape(97, 480, 704), 1024, PUBLISHED, mx.bfloat16)["video_decoder"]
    assert decoder.flops == pytest.approx(41.6e12, rel=0.02)


def test_operations_say_their_own_number_of_operations():
    assert Matmul(rows=3, inner=5, columns=7).flops == 210
    assert Attention(queries=3, keys=5, heads=2, head_dim=4).flops == 2 * 2 * (3 * 5 * 8)
    assert Convolution(frames=2, height=3, width=5, inputs=7, outputs=4).flops == 2 * 27 * 30 * 28
    assert Convolution(frames=2, height=3, width=5, inputs=7, outputs=4, in_time=False).flops == 2 * 9 * 30 * 28


@pytest.mark.parametrize("operation", [Matmul(3, 5, 7), Attention(3, 5, 2, 4), Convolution(2, 3, 5, 7, 4)])
def test_sample_does_the_operation_once(operation):
    call, flops = operation.sample(mx.float32)
    shapes = {"matmul": (3, 7), "attention": (1, 2, 3, 4), "convolution": (1, 2, 3, 5, 4)}
    assert call().shape == shapes[operation.kind]
    assert flops == operation.flops


def test_long_clips_are_measured_on_as_many_frames_as_are_moderate():
    long = Convolution(frames=97, height=480, width=704, inputs=2, outputs=3)
    _, flops = long.sample(mx.float32)
    assert 0 < flops < long.flops and flops * 97 % long.flops == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_network_runs_with_stand_in_weights(name):
    workload = workloads(VideoShape(9, 64, 96), 16, NARROW, mx.float32)[name]
    timing = time_network(workload, repeats=1)
    assert timing.name == name and timing.flops == workload.flops > 0
    assert timing.peak_bytes > timing.weights_bytes > 0
    assert timing.best_seconds > 0


def test_what_is_possible_adds_up_every_operation_at_its_own_rate():
    workload = workloads(VideoShape(9, 64, 96), 16, NARROW, mx.float32)["transformer"]
    twice = {operation: operation.flops * count / 2 for operation, count in workload.operations.items()}
    assert possible_seconds(workload, twice) == pytest.approx(2 * len(twice))
    assert isinstance(workload.operations, Counter)


def test_rate_is_positive():
    assert rate(Matmul(8, 8, 8), mx.float32, seconds=0.0) > 0
