"""Every sampler reaches the right answer where it is known, and holds what is given."""

from functools import partial

import mlx.core as mx
import pytest

from LTX_2_MLX.diffusion import sampler
from LTX_2_MLX.diffusion.state import LatentState, Streams

SIGMAS = [1.0, 0.9, 0.6, 0.25, 0.0]


def noise(seed):
    def draw(step):
        keys = mx.random.split(mx.random.key(seed * 100 + step), 2)
        return Streams(mx.random.normal((2, 5, 3), key=keys[0]), mx.random.normal((2, 4, 6), key=keys[1]))

    return draw


def both(state, sigma, step, *, target):
    return target(state, sigma, step), target(state, sigma, step)


SAMPLERS = {
    "euler": sampler.euler,
    "gradient": sampler.gradient_estimation,
    "ancestral": partial(sampler.ancestral, noise=noise(1)),
    "res_2s": partial(sampler.res_2s, noise=noise(1), middle_noise=noise(2)),
    "res_2s_per_token": partial(sampler.res_2s, noise=noise(1), middle_noise=noise(2), per_token=True),
    "cfg_plus_plus": lambda denoise, *args: sampler.cfg_plus_plus(partial(both, target=denoise), *args, noise=noise(1)),
}


def start():
    def stream(tokens, width):
        clean = mx.random.normal((2, tokens, width))
        mask = mx.ones((2, tokens, 1))
        mask[:, 1] = 0
        latent = mx.where(mask == 0, clean, mx.random.normal(clean.shape))
        return LatentState(latent, clean, mask, mx.zeros((1, 1, tokens, 2)))

    return Streams(stream(5, 3), stream(4, 6))


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_arrives_at_a_constant_estimate_and_holds_given_tokens(name):
    state = start()
    target = state.map(lambda s: mx.random.normal(s.latent.shape))
    end = SAMPLERS[name](lambda *_: target, state, SIGMAS)
    for before, after, wanted in zip(state, end, target, strict=True):
        expected = mx.where(before.denoise_mask == 0, before.clean_latent, wanted)
        assert mx.allclose(after.latent, expected, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_reports_every_step_once_and_in_order(name):
    seen = []
    state = start()
    SAMPLERS[name](lambda s, *_: s.map(lambda x: x.latent * 0.5), state, SIGMAS, lambda step, _: seen.append(step))
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_runs_one_stream_alone(name):
    state = Streams(start().video, None)
    end = SAMPLERS[name](lambda s, *_: s.map(lambda x: x.latent * 0.5), state, SIGMAS)
    assert end.audio is None and end.video.latent.shape == (2, 5, 3)


def test_euler_follows_a_straight_line_exactly_whatever_the_steps():
    state = start()
    target = state.map(lambda s: s.clean_latent)
    ends = [sampler.euler(lambda *_: target, state, sigmas) for sigmas in (SIGMAS, [1.0, 0.0])]
    assert mx.allclose(ends[0].video.latent, ends[1].video.latent, atol=1e-5)


def test_random_samplers_without_new_noise_are_euler():
    state = start()

    def denoise(s, sigma, step):
        return s.map(lambda x: mx.tanh(x.latent) * (1 - sigma))

    wanted = sampler.euler(denoise, state, SIGMAS)
    got = sampler.ancestral(denoise, state, SIGMAS, noise=noise(1), eta=0.0)
    assert mx.allclose(got.video.latent, wanted.video.latent, atol=1e-5)


def test_res_2s_calls_the_network_twice_a_step_and_once_at_the_end():
    calls = []

    def denoise(s, sigma, step):
        calls.append(sigma)
        return s.map(lambda x: x.latent * 0.5)

    sampler.res_2s(denoise, start(), SIGMAS, noise=noise(1), middle_noise=noise(2))
    assert len(calls) == 2 * 4 + 1 and calls[-1] == 0.0011


def test_closed_form_of_the_anchor_equals_the_rounds():
    middle, slope, denoised = (mx.random.normal((2, 5, 3)) for _ in range(3))
    wanted = slope
    for _ in range(100):
        wanted = denoised - (middle - 0.3 * wanted)
    assert mx.allclose(sampler._refined_slope(middle, slope, denoised, 0.3), wanted, atol=1e-5)


def test_normalised_noise_has_mean_zero_and_deviation_one_in_each_sample():
    value = sampler.normalised_noise(mx.random.normal((3, 40, 5)) * 2 + 1)
    assert mx.allclose(mx.mean(value, axis=(1, 2)), mx.zeros(3), atol=1e-5)
    assert mx.allclose(mx.std(value, axis=(1, 2), ddof=1), mx.ones(3), atol=1e-5)
