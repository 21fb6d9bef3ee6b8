"""Which passes guidance asks for, and what it makes of them."""

import mlx.core as mx
import pytest

from LTX_2_MLX.diffusion.guidance import (
    Guidance,
    MomentumGuidance,
    Pass,
    apg_delta,
    cfg_delta,
    cfg_star_delta,
    guide,
    guided,
    guided_and_unconditional,
    passes,
)
from LTX_2_MLX.diffusion.state import LatentState, Streams

FULL = Guidance(guidance_scale=3, stg_scale=1, stg_blocks=(1,), modality_scale=2, guidance_rescale=0.7)


def state():
    def stream(tokens, width):
        latent = mx.random.normal((2, tokens, width))
        return LatentState(latent, latent, mx.ones((2, tokens, 1)), mx.zeros((1, 1, tokens, 2)))

    return Streams(stream(5, 3), stream(4, 6))


class Network:
    """A stand-in for the transformer that writes down how it is called."""

    def __init__(self):
        self.calls = []

    def __call__(self, streams, sigma, needed, computed):
        self.calls.append((sigma, list(needed), computed))
        shift = [1.0 + 2 * p.negative + 4 * p.isolated + 8 * any(p.skip_self_attention) for p in needed]
        return [streams.map(lambda s, on, k=k: s.latent * k if on else None, computed) for k in shift]


def test_neutral_guidance_calls_the_network_once():
    network = Network()
    x = state()
    out = guided(network, Streams(Guidance(), Guidance()))(x, 0.5, 0)
    assert network.calls == [(0.5, [Pass()], Streams(True, True))]
    assert mx.array_equal(out.video, x.video.latent)


def test_full_guidance_asks_for_each_pass_once():
    needed = passes(Streams(FULL, Guidance(stg_scale=0.5, stg_blocks=(0, 2))))
    assert needed == [
        Pass(),
        Pass(negative=True),
        Pass(skip_self_attention=Streams((1,), (0, 2))),
        Pass(isolated=True),
    ]


def test_video_alone_is_guided_without_audio():
    network = Network()
    x = Streams(state().video, None)
    out = guided(network, Streams(Guidance(guidance_scale=3), None))(x, 0.5, 0)
    # conditional + (3 - 1) * (conditional - negative), with negative = 3 * conditional
    assert mx.allclose(out.video, -3 * x.video.latent) and out.audio is None


def test_skipped_stream_keeps_its_estimate_and_needs_no_pass():
    network = Network()
    denoise = guided(network, Streams(Guidance(guidance_scale=2), Guidance(skip_step=1, modality_scale=2)))
    first = denoise(state(), 0.9, 0)
    second = denoise(state(), 0.8, 1)
    assert network.calls[1] == (0.8, [Pass(), Pass(negative=True)], Streams(True, False))
    assert second.audio is first.audio and second.video is not first.video


def test_when_both_streams_skip_the_network_is_not_called():
    network = Network()
    denoise = guided(network, Streams(Guidance(skip_step=2), Guidance(skip_step=2)))
    assert [denoise(state(), 0.9, step) for step in range(4)] and len(network.calls) == 2


def test_bypassing_no_block_changes_nothing_and_costs_nothing():
    network, x = Network(), state()
    out = guided(network, Streams(Guidance(stg_scale=1.0), Guidance()))(x, 0.5, 0)
    assert network.calls == [(0.5, [Pass()], Streams(True, True))]
    assert mx.array_equal(out.video, x.video.latent)


def test_unconditional_estimate_comes_along_whatever_the_guidance():
    x = state()
    for guidance in (Guidance(), FULL):
        network = Network()
        pair = guided_and_unconditional(network, Streams(guidance, guidance))(x, 0.5, 0)
        assert mx.allclose(pair[1].video, 3 * x.video.latent)
        assert len(network.calls) == 1


def test_full_rescale_gives_the_spread_of_the_unguided_estimate():
    cond, negative = mx.random.normal((2, 5, 3)), mx.random.normal((2, 5, 3))
    out = guide(Guidance(guidance_scale=6, guidance_rescale=1.0), cond, negative=negative)
    assert mx.std(out).item() == pytest.approx(mx.std(cond).item(), rel=1e-5)


def test_projected_guidance_treats_each_sample_by_itself():
    cond, negative = mx.random.normal((3, 5, 2)), mx.random.normal((3, 5, 2))
    for delta in (
        lambda c, n: cfg_star_delta(c, n, 4.0),
        lambda c, n: apg_delta(c, n, 4.0, eta=0.3, norm_threshold=1.5),
        lambda c, n: MomentumGuidance(4.0, eta=0.3, norm_threshold=1.5, momentum=-0.5)(c, n),
    ):
        each = mx.concatenate([delta(cond[i : i + 1], negative[i : i + 1]) for i in range(3)])
        assert mx.allclose(delta(cond, negative), each, atol=1e-5)


def test_projected_guidance_without_limits_is_plain_guidance():
    cond, negative = mx.random.normal((2, 5, 3)), mx.random.normal((2, 5, 3))
    assert mx.allclose(apg_delta(cond, negative, 4.0), cfg_delta(cond, negative, 4.0), atol=1e-5)


def test_projected_guidance_without_its_parallel_part_is_orthogonal():
    cond, negative = mx.random.normal((2, 5, 3)), mx.random.normal((2, 5, 3))
    delta = apg_delta(cond, negative, 2.0, eta=0.0)
    assert mx.max(mx.abs(mx.sum(delta * cond, axis=(1, 2)))).item() < 1e-4


def test_another_rule_can_take_the_place_of_plain_guidance():
    x, network = state(), Network()
    rule = Guidance(text_delta=lambda c, n: n)
    assert mx.allclose(guided(network, Streams(rule, Guidance()))(x, 0.5, 0).video, 4 * x.video.latent)
