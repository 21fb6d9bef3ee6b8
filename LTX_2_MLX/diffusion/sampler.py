"""Samplers: loops over a schedule, ``(denoise, state, sigmas, on_step) -> state``.

``denoise`` gives each stream's clean estimate; ``on_step(step, state)`` is called after each step with the state
evaluated. Samplers with new noise in each step get it from a function, so that a run can be repeated.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/components/diffusion_steps.py and
packages/ltx-pipelines/src/ltx_pipelines/utils/{samplers,res2s}.py at 400fd31.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx

from LTX_2_MLX.diffusion.guidance import Denoise
from LTX_2_MLX.diffusion.state import LatentState, State, StreamArrays, hold, to_velocity, with_latents
from LTX_2_MLX.shapes import StreamName

OnStep = Callable[[int, State], None]
# step -> standard normal noise of each stream's token shape.
Noise = Callable[[int], StreamArrays]
# (stream, origin, arrival, sigma of origin, sigma of arrival, noise, eta) -> arrival with a share of its noise new.
RenewNoise = Callable[[LatentState, mx.array, mx.array, float, float, mx.array, float], mx.array]

# res_2s inserts this before a final 0, which its logarithmic steps cannot reach.
_SMALLEST_SIGMA = 0.0011
# Upper limit of the share of new noise.
_LARGEST_SHARE = 0.9999
# res_2s refines its anchor in steps below this length in ln(sigma) and above this sigma.
_ANCHOR_MAX_STEP = 0.5
_ANCHOR_MIN_SIGMA = 0.03
_ANCHOR_ROUNDS = 100


def ignore(step: int, state: State) -> None:
    """An ``on_step`` that does nothing."""


def euler(denoise: Denoise, state: State, sigmas: Sequence[float], on_step: OnStep = ignore) -> State:
    """Straight steps along the velocity."""
    for step, sigma, next_sigma in _steps(sigmas):
        denoised = hold(state, denoise(state, sigma, step))
        latents: StreamArrays = {}
        for name, stream in state.items():
            latents[name] = euler_step(stream.latent, denoised[name], sigma, next_sigma)
        state = with_latents(state, latents)
        on_step(step, state)
    return state


def gradient_estimation(
    denoise: Denoise, state: State, sigmas: Sequence[float], on_step: OnStep = ignore, *, gamma: float = 2.0
) -> State:
    """Euler steps whose velocity is extrapolated from the last one by ``gamma``."""
    last: StreamArrays = {}
    for step, sigma, next_sigma in _steps(sigmas):
        denoised = hold(state, denoise(state, sigma, step))
        latents: StreamArrays = {}
        for name, stream in state.items():
            velocity = to_velocity(stream.latent, denoised[name], sigma)
            direction = velocity
            if step and next_sigma:
                direction = gamma * (velocity - last[name]) + last[name]
            latents[name] = stream.latent + direction * (next_sigma - sigma)
            last[name] = velocity
        state = with_latents(state, latents)
        on_step(step, state)
    return state


def ancestral(
    denoise: Denoise,
    state: State,
    sigmas: Sequence[float],
    on_step: OnStep = ignore,
    *,
    noise: Noise,
    eta: float = 1.0,
) -> State:
    """Euler steps that go below the next noise level by ``eta`` and back up with new noise."""
    for step, sigma, next_sigma in _steps(sigmas):
        latents = hold(state, denoise(state, sigma, step))
        if next_sigma:
            new_noise = noise(step)
            for name, stream in state.items():
                latent = ancestral_step(stream.latent, latents[name], sigma, next_sigma, new_noise[name], eta=eta)
                latents[name] = stream.hold(latent)
        state = with_latents(state, latents)
        on_step(step, state)
    return state


def renew_by_stream(
    stream: LatentState,
    origin: mx.array,
    arrival: mx.array,
    sigma: float,
    next_sigma: float,
    noise: mx.array,
    eta: float,
) -> mx.array:
    """``sde_step`` at the stream's noise level, held tokens put back."""
    return stream.hold(sde_step(origin, arrival, sigma, next_sigma, noise, eta=eta))


class _Middle(NamedTuple):
    """One stream in the middle of a ``res_2s`` step: where the step starts, its first slope, and the middle."""

    anchor: mx.array
    slope: mx.array
    latent: mx.array


def res_2s(
    denoise: Denoise,
    state: State,
    sigmas: Sequence[float],
    on_step: OnStep = ignore,
    *,
    noise: Noise,
    middle_noise: Noise,
    eta: float = 0.5,
    refine_anchor: bool = True,
    renew: RenewNoise = renew_by_stream,
) -> State:
    """Exponential Runge-Kutta of second order with new noise in each half; 2n + 1 calls for n steps to 0.

    Args:
        denoise: Called twice in each step.
        state: All streams at the first noise level.
        sigmas: The schedule.
        on_step: Called after whole steps; the last one includes the call at the smallest noise level.
        noise: New noise at the end of a step, see ``normalised_noise``.
        middle_noise: New noise in the middle of a step.
        eta: Share of new noise at the end of a step; in the middle it is always one half.
        refine_anchor: Move the start of a step until its middle, with the new noise, agrees with it.
        renew: How new noise replaces part of the old.
    """
    for step, sigma, next_sigma in _steps(sigmas):
        target = next_sigma or _SMALLEST_SIGMA
        middle_sigma = math.sqrt(sigma * target)
        length = math.log(sigma / target)
        _, b1, b2 = res_2s_coefficients(length)
        refine = refine_anchor and length < _ANCHOR_MAX_STEP and sigma > _ANCHOR_MIN_SIGMA

        denoised = hold(state, denoise(state, sigma, step))
        middles = _middles(state, denoised, middle_noise(step), sigma, target, refine=refine, renew=renew)
        at_middle = with_latents(state, {name: middle.latent for name, middle in middles.items()})
        denoised = hold(state, denoise(at_middle, middle_sigma, step))
        new_noise = noise(step)
        latents: StreamArrays = {}
        for name, stream in state.items():
            anchor, slope, _ = middles[name]
            arrival = anchor + length * (b1 * slope + b2 * (denoised[name] - anchor))
            latents[name] = renew(stream, anchor, arrival, sigma, target, new_noise[name], eta)
        state = with_latents(state, latents)
        if next_sigma == 0:
            state = with_latents(state, hold(state, denoise(state, target, step + 1)))
        on_step(step, state)
    return state


def _middles(
    state: State,
    denoised: StreamArrays,
    noise: StreamArrays,
    sigma: float,
    target: float,
    *,
    refine: bool,
    renew: RenewNoise,
) -> dict[StreamName, _Middle]:
    """The first half of a ``res_2s`` step from ``sigma`` to ``target``."""
    length = math.log(sigma / target)
    a21, _, _ = res_2s_coefficients(length)
    middle_sigma = math.sqrt(sigma * target)
    middles: dict[StreamName, _Middle] = {}
    for name, stream in state.items():
        slope = denoised[name] - stream.latent
        arrival = stream.latent + length * a21 * slope
        latent = renew(stream, stream.latent, arrival, sigma, middle_sigma, noise[name], 0.5)
        middles[name] = _Middle(stream.latent, slope, latent)
        if refine:
            slope = refined_slope(latent, slope, denoised[name], length * a21)
            middles[name] = _Middle(denoised[name] - slope, slope, latent)
    return middles


def euler_step(latent: mx.array, denoised: mx.array, sigma: float, next_sigma: float) -> mx.array:
    """One Euler step from noise level ``sigma`` to ``next_sigma``."""
    return latent + to_velocity(latent, denoised, sigma) * (next_sigma - sigma)


def ancestral_step(
    latent: mx.array,
    denoised: mx.array,
    sigma: float,
    next_sigma: float,
    noise: mx.array,
    *,
    eta: float = 1.0,
    noise_scale: float = 1.0,
) -> mx.array:
    """One step below ``next_sigma`` and back up to it with ``noise``; ``denoised`` where ``next_sigma`` is 0."""
    if next_sigma == 0:
        return denoised
    below = next_sigma * (1 + (next_sigma / sigma - 1) * eta)
    ratio = below / sigma
    signal = (1 - next_sigma) / (1 - below)
    spread = math.sqrt(max(next_sigma**2 - (below * signal) ** 2, 0))
    return signal * (ratio * latent + (1 - ratio) * denoised) + (noise_scale * spread) * noise


def res_2s_coefficients(length: float) -> tuple[float, float, float]:
    """Weights of the middle and of both slopes for a step of ``length`` in ln(sigma) with its middle at one half."""
    a21 = 0.5 * _phi(1, -length / 2)
    b2 = _phi(2, -length) / 0.5
    return a21, _phi(1, -length) - b2, b2


def _phi(order: int, z: float) -> float:
    """``e^z`` without the first ``order`` terms of its series, over ``z^order``."""
    if abs(z) < 1e-10:
        return 1 / math.factorial(order)
    return (math.exp(z) - sum(z**k / math.factorial(k) for k in range(order))) / z**order


def sde_step(
    origin: mx.array,
    arrival: mx.array,
    sigma: float | mx.array,
    next_sigma: float | mx.array,
    noise: mx.array,
    *,
    eta: float = 0.5,
) -> mx.array:
    """Replace a share ``eta`` of the noise in ``arrival``, reached at ``next_sigma`` from ``origin`` at ``sigma``.

    Noise levels are numbers, or ``(B, N, 1)`` for each token. At level 0, or with ``eta`` 0, nothing changes.
    """
    share = min(eta, _LARGEST_SHARE)
    kept = next_sigma * math.sqrt(1 - share**2)
    slope = (origin - arrival) / (sigma - next_sigma)
    return (1 - next_sigma + kept) * (origin - sigma * slope) + kept * slope + (share * next_sigma) * noise


def normalised_noise(noise: mx.array) -> mx.array:
    """Noise ``(B, N, D)`` with mean 0 and standard deviation 1, as a whole and then in each sample."""
    noise = (noise - mx.mean(noise)) / mx.std(noise, ddof=1)
    centred = noise - mx.mean(noise, axis=(1, 2), keepdims=True)
    return centred / mx.std(centred, axis=(1, 2), keepdims=True, ddof=1)


def refined_slope(middle: mx.array, slope: mx.array, denoised: mx.array, length: float) -> mx.array:
    """The slope after ``_ANCHOR_ROUNDS`` rounds of ``anchor = middle - length * slope; slope = denoised - anchor``."""
    # The rounds are a geometric series, so its sum replaces a hundred passes over the latent.
    share = length**_ANCHOR_ROUNDS
    return share * slope + (1 - share) / (1 - length) * (denoised - middle)


def _steps(sigmas: Sequence[float]) -> Iterator[tuple[int, float, float]]:
    """Number, noise level and next noise level of each step."""
    for step, (sigma, next_sigma) in enumerate(itertools.pairwise(sigmas)):
        yield step, float(sigma), float(next_sigma)
