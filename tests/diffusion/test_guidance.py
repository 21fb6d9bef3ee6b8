"""Which passes guidance asks for, and how it combines them."""

from typing import ClassVar

import mlx.core as mx
import pytest

from LTX_2_MLX.diffusion.sampler import Guidance, both_streams, guide, guided, passes, steps_within
from LTX_2_MLX.diffusion.state import LatentState

FULL = Guidance(guidance_scale=3, stg_scale=1, stg_blocks=(1,), modality_scale=2, guidance_rescale=0.7)
NONE = Guidance()


def state():
    def stream(tokens, width):
        latent = mx.random.normal((2, tokens, width))
        return LatentState(latent, latent, mx.ones((2, tokens, 1)), mx.zeros((1, 1, tokens, 2)))

    return {"video": stream(5, 3), "audio": stream(4, 6)}


class Network:
    """A stand-in for the transformer that records its calls."""

    FACTORS: ClassVar = {"conditional": 1.0, "negative": 3.0, "perturbed": 9.0, "isolated": 5.0}

    def __init__(self):
        self.calls = []

    def __call__(self, state, sigma, needed, computed):
        self.calls.append((sigma, list(needed), list(computed)))
        return {kind: {name: state[name].latent * self.FACTORS[kind] for name in computed} for kind in needed}


def test_neutral_guidance_calls_the_network_once():
    network = Network()
    x = state()
    out = guided(network, {"video": NONE, "audio": NONE})(x, 0.5, 0)
    assert network.calls == [(0.5, ["conditional"], ["video", "audio"])]
    assert mx.array_equal(out["video"], x["video"].latent)


def test_full_guidance_asks_for_each_pass_once():
    needed = passes({"video": FULL, "audio": Guidance(stg_scale=0.5, stg_blocks=(0, 2))})
    assert needed == ["conditional", "negative", "perturbed", "isolated"]


def test_passes_of_full_guidance_are_combined_by_their_scales():
    x = state()
    rule = Guidance(guidance_scale=3, stg_scale=2, stg_blocks=(1,), modality_scale=4)
    out = guided(Network(), {"video": rule, "audio": NONE})(x, 0.5, 0)
    factor = 1 + 2 * (1 - 3) + 2 * (1 - 9) + 3 * (1 - 5)
    assert mx.allclose(out["video"], factor * x["video"].latent, atol=1e-4)
    assert mx.array_equal(out["audio"], x["audio"].latent)


def test_video_alone_is_guided_without_audio():
    x = {"video": state()["video"]}
    out = guided(Network(), {"video": Guidance(guidance_scale=3)})(x, 0.5, 0)
    # conditional + (3 - 1) * (conditional - negative), with negative = 3 * conditional
    assert mx.allclose(out["video"], -3 * x["video"].latent) and "audio" not in out


def test_skipped_stream_keeps_its_estimate_and_needs_no_pass():
    network = Network()
    rules = {"video": Guidance(guidance_scale=2), "audio": Guidance(skip_step=1, modality_scale=2)}
    denoise = guided(network, rules)
    first = denoise(state(), 0.9, 0)
    second = denoise(state(), 0.8, 1)
    assert network.calls[1] == (0.8, ["conditional", "negative"], ["video"])
    assert second["audio"] is first["audio"] and second["video"] is not first["video"]


def test_when_both_streams_skip_the_network_is_not_called():
    network = Network()
    denoise = guided(network, {"video": Guidance(skip_step=2), "audio": Guidance(skip_step=2)})
    assert [denoise(state(), 0.9, step) for step in range(4)] and len(network.calls) == 2


def test_bypassing_no_block_changes_nothing_and_costs_nothing():
    network = Network()
    x = state()
    out = guided(network, {"video": Guidance(stg_scale=1.0), "audio": NONE})(x, 0.5, 0)
    assert network.calls == [(0.5, ["conditional"], ["video", "audio"])]
    assert mx.array_equal(out["video"], x["video"].latent)


def test_full_rescale_gives_the_standard_deviation_of_the_conditional_estimate():
    conditional = mx.random.normal((2, 5, 3))
    estimates = {"conditional": conditional, "negative": mx.random.normal((2, 5, 3))}
    out = guide(Guidance(guidance_scale=6, guidance_rescale=1.0), estimates)
    assert mx.std(out).item() == pytest.approx(mx.std(conditional).item(), rel=1e-5)


def test_steps_outside_the_share_have_the_conditional_pass_alone():
    asked = []

    def predict(state, sigma, kinds, computed):
        asked.append(list(kinds))
        return {kind: {"video": mx.zeros((1, 2, 3))} for kind in kinds}

    denoise = guided(predict, both_streams(Guidance(guidance_scale=3.0)), steps_within((0.25, 0.5), 8))
    for step in range(9):
        denoise({"video": None}, 0.5, step)
    assert [len(kinds) for kinds in asked] == [1, 1, 2, 2, 1, 1, 1, 1, 1]
    assert 8 in steps_within((0.0, 1.0), 8)
