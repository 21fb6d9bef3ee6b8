"""Schedules fall as they should; every sampler reaches the right answer where it is known, and holds what is given."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.diffusion import sampler
from LTX_2_MLX.diffusion.sampler import DISTILLED, REFINEMENT, ltx2_schedule
from LTX_2_MLX.diffusion.state import LatentState
from LTX_2_MLX.errors import RequestError

SIGMAS = [1.0, 0.9, 0.6, 0.25, 0.0]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 30])
def test_schedule_falls_from_one_to_zero_in_the_asked_steps(num_steps):
    sigmas = ltx2_schedule(num_steps)
    assert sigmas.dtype == np.float32
    assert len(sigmas) == num_steps + 1
    assert sigmas[0] == pytest.approx(1, abs=1e-6)
    assert sigmas[-1] == 0
    assert (np.diff(sigmas) < 0).all()


def test_schedule_refuses_less_than_one_step():
    with pytest.raises(RequestError, match="0"):
        ltx2_schedule(0)


def test_last_noise_level_before_zero_is_the_terminal_one():
    assert ltx2_schedule(9)[-2] == pytest.approx(0.1, abs=1e-6)
    assert ltx2_schedule(9, terminal=0.25)[-2] == pytest.approx(0.25, abs=1e-6)


def test_more_tokens_mean_more_steps_at_high_noise():
    many, few = ltx2_schedule(9, num_tokens=4096), ltx2_schedule(9, num_tokens=500)
    assert (many[1:-2] > few[1:-2]).all()


def test_refinement_is_the_end_of_the_distilled_schedule():
    assert DISTILLED[-len(REFINEMENT) :] == REFINEMENT


def noise(seed):
    def draw(step):
        keys = mx.random.split(mx.random.key(seed * 100 + step), 2)
        video = mx.random.normal((2, 5, 3), key=keys[0])
        audio = mx.random.normal((2, 4, 6), key=keys[1])
        return {"video": video, "audio": audio}

    return draw


SAMPLERS = {
    "euler": sampler.euler,
    "gradient": sampler.gradient_estimation,
    "ancestral": partial(sampler.ancestral, noise=noise(1)),
    "res_2s": partial(sampler.res_2s, noise=noise(1), middle_noise=noise(2)),
}


def start():
    def stream(tokens, width):
        clean = mx.random.normal((2, tokens, width))
        mask = mx.ones((2, tokens, 1))
        mask[:, 1] = 0
        latent = mx.where(mask == 0, clean, mx.random.normal(clean.shape))
        return LatentState(latent, clean, mask, mx.zeros((1, 1, tokens, 2)))

    return {"video": stream(5, 3), "audio": stream(4, 6)}


def halved(state, sigma, step):
    """A stand-in for the guided network."""
    return {name: stream.latent * 0.5 for name, stream in state.items()}


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_arrives_at_a_constant_estimate_and_holds_given_tokens(name):
    state = start()
    target = {stream: mx.random.normal(of_stream.latent.shape) for stream, of_stream in state.items()}
    end = SAMPLERS[name](lambda *_: target, state, SIGMAS)
    for stream, before in state.items():
        expected = mx.where(before.denoise_mask == 0, before.clean_latent, target[stream])
        assert mx.allclose(end[stream].latent, expected, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_reports_every_step_once_and_in_order(name):
    steps = []
    SAMPLERS[name](halved, start(), SIGMAS, lambda step, _: steps.append(step))
    assert steps == [0, 1, 2, 3]


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_runs_one_stream_alone(name):
    end = SAMPLERS[name](halved, {"video": start()["video"]}, SIGMAS)
    assert list(end) == ["video"] and end["video"].latent.shape == (2, 5, 3)


def test_euler_follows_a_straight_line_exactly_whatever_the_steps():
    state = start()
    target = {stream: of_stream.clean_latent for stream, of_stream in state.items()}
    ends = [sampler.euler(lambda *_: target, state, sigmas) for sigmas in (SIGMAS, [1.0, 0.0])]
    assert mx.allclose(ends[0]["video"].latent, ends[1]["video"].latent, atol=1e-5)


def test_ancestral_sampler_without_new_noise_is_euler():
    state = start()

    def denoise(state, sigma, step):
        return {name: mx.tanh(stream.latent) * (1 - sigma) for name, stream in state.items()}

    expected = sampler.euler(denoise, state, SIGMAS)
    end = sampler.ancestral(denoise, state, SIGMAS, noise=noise(1), eta=0.0)
    assert mx.allclose(end["video"].latent, expected["video"].latent, atol=1e-5)


def test_res_2s_calls_the_network_twice_a_step_and_once_at_the_end():
    calls = []

    def denoise(state, sigma, step):
        calls.append(sigma)
        return halved(state, sigma, step)

    sampler.res_2s(denoise, start(), SIGMAS, noise=noise(1), middle_noise=noise(2))
    assert len(calls) == 2 * 4 + 1 and calls[-1] == 0.0011


def test_closed_form_of_the_anchor_equals_the_rounds():
    middle, slope, denoised = (mx.random.normal((2, 5, 3)) for _ in range(3))
    expected = slope
    for _ in range(100):
        expected = denoised - (middle - 0.3 * expected)
    assert mx.allclose(sampler.refined_slope(middle, slope, denoised, 0.3), expected, atol=1e-5)


def test_normalised_noise_has_mean_zero_and_deviation_one_in_each_sample():
    value = sampler.normalised_noise(mx.random.normal((3, 40, 5)) * 2 + 1)
    assert mx.allclose(mx.mean(value, axis=(1, 2)), mx.zeros(3), atol=1e-5)
    assert mx.allclose(mx.std(value, axis=(1, 2), ddof=1), mx.ones(3), atol=1e-5)
