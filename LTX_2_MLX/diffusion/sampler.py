"""Loops over a schedule: ``(denoise, state, sigmas, on_step) -> state``.

``denoise`` gives each stream's clean estimate; ``on_step(step, state)`` hears of every finished step, with the
state evaluated. Random samplers get their noise from a function, so a run can be repeated anywhere.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/components/diffusion_steps.py and
packages/ltx-pipelines/src/ltx_pipelines/utils/{samplers,res2s}.py at 400fd31.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from LTX_2_MLX.diffusion.guidance import Denoise
from LTX_2_MLX.diffusion.state import LatentState, State, Streams, to_velocity

OnStep = Callable[[int, State], None]
# step -> standard normal noise of each stream's token shape.
Noise = Callable[[int], Streams[mx.array]]

# What res_2s puts before a final 0, which its logarithmic steps cannot reach.
_SMALLEST_SIGMA = 0.0011
# New noise is never all of it.
_LARGEST_SHARE = 0.9999
# Bounds within which res_2s refines its anchor: step length in ln(sigma), and sigma.
_ANCHOR_MAX_STEP, _ANCHOR_MIN_SIGMA, _ANCHOR_ROUNDS = 0.5, 0.03, 100


def ignore(step: int, state: State) -> None:
    """An ``on_step`` that does nothing."""


def euler(denoise: Denoise, state: State, sigmas: Sequence[float], on_step: OnStep = ignore) -> State:
    """Straight steps along the velocity."""

    def advance(state: State, sigma: float, following: float, step: int) -> State:
        denoised = _held(state, denoise(state, sigma, step))
        return _moved(state, lambda s, x0: euler_step(s.latent, x0, sigma, following), denoised)

    return _walk(advance, state, sigmas, on_step)


def gradient_estimation(
    denoise: Denoise, state: State, sigmas: Sequence[float], on_step: OnStep = ignore, *, gamma: float = 2.0
) -> State:
    """Euler steps whose velocity is extrapolated from the last one by ``gamma``."""
    last: Streams[mx.array] = Streams(None, None)

    def advance(state: State, sigma: float, following: float, step: int) -> State:
        nonlocal last
        denoised = _held(state, denoise(state, sigma, step))
        velocity = state.map(lambda s, x0: to_velocity(s.latent, x0, sigma), denoised)
        if step and following:
            denoised = state.map(
                lambda s, v, before: s.latent - sigma * (gamma * (v - before) + before), velocity, last
            )
        last = velocity
        return _moved(state, lambda s, x0: euler_step(s.latent, x0, sigma, following), denoised)

    return _walk(advance, state, sigmas, on_step)


def ancestral(
    denoise: Denoise,
    state: State,
    sigmas: Sequence[float],
    on_step: OnStep = ignore,
    *,
    noise: Noise,
    eta: float = 1.0,
) -> State:
    """Euler steps that go below the next noise level and come back up with new noise; ``eta`` says how far."""

    def advance(state: State, sigma: float, following: float, step: int) -> State:
        denoised = _held(state, denoise(state, sigma, step))
        if following == 0:
            return _moved(state, lambda _, x0: x0, denoised)

        def move(s: LatentState, x0: mx.array, fresh: mx.array) -> mx.array:
            return s.hold(ancestral_step(s.latent, x0, sigma, following, fresh, eta=eta))

        return _moved(state, move, denoised, noise(step))

    return _walk(advance, state, sigmas, on_step)


def cfg_plus_plus(
    denoise: Callable[[State, float, int], tuple[Streams[mx.array], Streams[mx.array]]],
    state: State,
    sigmas: Sequence[float],
    on_step: OnStep = ignore,
    *,
    noise: Noise,
    eta: float = 1.0,
) -> State:
    """Steps towards the guided estimate along the noise seen by the unconditional one.

    ``denoise`` gives both, guided first (``guidance.guided_and_unconditional``).
    """

    def advance(state: State, sigma: float, following: float, step: int) -> State:
        guided, unconditional = denoise(state, sigma, step)
        denoised = _held(state, guided)
        if following == 0:
            return _moved(state, lambda _, x0: x0, denoised)

        def move(s: LatentState, x0: mx.array, other: mx.array, fresh: mx.array) -> mx.array:
            return s.hold(cfg_plus_plus_step(s.latent, x0, other, sigma, following, fresh, eta=eta))

        return _moved(state, move, denoised, unconditional, noise(step))

    return _walk(advance, state, sigmas, on_step)


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
    per_token: bool = False,
) -> State:
    """Exponential Runge-Kutta of second order with new noise in each half; 2n + 1 calls for n steps to 0.

    Args:
        denoise: As everywhere; called twice a step.
        state: Both streams at the first noise level.
        sigmas: The schedule.
        on_step: Hears of whole steps; the last one includes the call at the smallest noise level.
        noise: For the end of a step, see ``normalised_noise``.
        middle_noise: For its middle.
        eta: Share of new noise at the end of a step; the middle always has one half.
        refine_anchor: Move the step's origin until its middle, with the new noise, agrees with it.
        per_token: New noise by every token's own level instead of the stream's. As in the reference, a stream
            that holds any token entirely then gets none.
    """
    inject = _token_noise if per_token else _stream_noise

    def advance(state: State, sigma: float, following: float, step: int) -> State:
        to_zero, following = following == 0, following or _SMALLEST_SIGMA
        length, between = math.log(sigma / following), math.sqrt(sigma * following)
        a21, b1, b2 = res_2s_coefficients(length)
        reach = length * a21
        anchor = state.map(lambda s: s.latent)
        first = _held(state, denoise(state, sigma, step))
        slope = anchor.map(lambda x, x0: x0 - x, first)
        middle = anchor.map(lambda x, d: x + reach * d, slope)
        middle = state.map(inject(sigma, between, 0.5), anchor, middle, middle_noise(step))
        if refine_anchor and length < _ANCHOR_MAX_STEP and sigma > _ANCHOR_MIN_SIGMA:
            slope = middle.map(lambda m, d, x0: _refined_slope(m, d, x0, reach), slope, first)
            anchor = first.map(lambda x0, d: x0 - d, slope)
        second = _held(state, denoise(_moved(state, lambda _, m: m, middle), between, step))
        ends = anchor.map(lambda x, d, x0: x + length * (b1 * d + b2 * (x0 - x)), slope, second)
        state = _moved(state, inject(sigma, following, eta), anchor, ends, noise(step))
        if not to_zero:
            return state
        return _moved(state, lambda _, x0: x0, _held(state, denoise(state, following, step + 1)))

    return _walk(advance, state, sigmas, on_step)


def euler_step(latent: mx.array, denoised: mx.array, sigma: float, following: float) -> mx.array:
    """``latent`` taken from noise level ``sigma`` to ``following``."""
    return latent + to_velocity(latent, denoised, sigma) * (following - sigma)


def ancestral_step(
    latent: mx.array,
    denoised: mx.array,
    sigma: float,
    following: float,
    noise: mx.array,
    *,
    eta: float = 1.0,
    noise_scale: float = 1.0,
) -> mx.array:
    """``latent`` taken below ``following`` and back up to it with ``noise``; ``denoised`` where that is 0."""
    if following == 0:
        return denoised
    below = following * (1 + (following / sigma - 1) * eta)
    ratio = below / sigma
    signal = (1 - following) / (1 - below)
    spread = math.sqrt(max(following**2 - (below * signal) ** 2, 0))
    return signal * (ratio * latent + (1 - ratio) * denoised) + (noise_scale * spread) * noise


def cfg_plus_plus_step(
    latent: mx.array,
    denoised: mx.array,
    unconditional: mx.array,
    sigma: float,
    following: float,
    noise: mx.array,
    *,
    eta: float = 1.0,
) -> mx.array:
    """The guided estimate with the unconditional one's noise put back, a share of it new."""
    if following == 0:
        return denoised
    old_noise = (latent - (1 - sigma) * unconditional) / sigma
    # Noise over signal at the next level, in units of the same at this one.
    fall = following * (1 - sigma) / (sigma * (1 - following))
    new = following * min(eta * math.sqrt(1 - fall**2), 1)
    kept = math.sqrt(following**2 - new**2)
    return (1 - following) * denoised + kept * old_noise + new * noise


def res_2s_coefficients(length: float) -> tuple[float, float, float]:
    """Weights of the middle and of both slopes for a step of ``length`` in ln(sigma), middle at one half."""
    a21 = 0.5 * _phi(1, -length / 2)
    b2 = _phi(2, -length) / 0.5
    return a21, _phi(1, -length) - b2, b2


def _phi(order: int, z: float) -> float:
    """The integrals of an exponential, ``(e^z - its first terms) / z^order``."""
    if abs(z) < 1e-10:
        return 1 / math.factorial(order)
    return (math.exp(z) - sum(z**k / math.factorial(k) for k in range(order))) / z**order


def sde_step(
    origin: mx.array,
    arrival: mx.array,
    sigma: float | mx.array,
    following: float | mx.array,
    noise: mx.array,
    *,
    eta: float = 0.5,
) -> mx.array:
    """``arrival`` at noise level ``following``, reached from ``origin`` at ``sigma``, with a share of its noise new.

    Levels are numbers, or ``(B, N, 1)`` for each token its own. At level 0, or with ``eta`` 0, nothing changes.
    """
    share = min(eta, _LARGEST_SHARE)
    kept = following * math.sqrt(1 - share**2)
    slope = (origin - arrival) / (sigma - following)
    return (1 - following + kept) * (origin - sigma * slope) + kept * slope + (share * following) * noise


def normalised_noise(noise: mx.array) -> mx.array:
    """Noise ``(B, N, D)`` with mean 0 and deviation 1 as a whole, then for each sample."""
    noise = (noise - mx.mean(noise)) / mx.std(noise, ddof=1)
    centred = noise - mx.mean(noise, axis=(1, 2), keepdims=True)
    return centred / mx.std(centred, axis=(1, 2), keepdims=True, ddof=1)


def _stream_noise(sigma: float, following: float, eta: float) -> Callable[..., mx.array]:
    def inject(s: LatentState, origin: mx.array, arrival: mx.array, noise: mx.array) -> mx.array:
        return s.hold(sde_step(origin, arrival, sigma, following, noise, eta=eta))

    return inject


def _token_noise(sigma: float, following: float, eta: float) -> Callable[..., mx.array]:
    def inject(s: LatentState, origin: mx.array, arrival: mx.array, noise: mx.array) -> mx.array:
        if mx.any(s.denoise_mask == 0).item():
            return arrival
        return sde_step(origin, arrival, s.timesteps(sigma), s.timesteps(following), noise, eta=eta)

    return inject


def _refined_slope(middle: mx.array, slope: mx.array, denoised: mx.array, length: float) -> mx.array:
    """The slope after ``_ANCHOR_ROUNDS`` rounds of ``anchor = middle - length * slope; slope = denoised - anchor``."""
    # The rounds are a geometric series; its sum spares a hundred passes over the latent.
    rest = length**_ANCHOR_ROUNDS
    return rest * slope + (1 - rest) / (1 - length) * (denoised - middle)


def _walk(
    advance: Callable[[State, float, float, int], State], state: State, sigmas: Sequence[float], on_step: OnStep
) -> State:
    """Every pair of neighbouring noise levels in turn."""
    for step, (sigma, following) in enumerate(itertools.pairwise(float(sigma) for sigma in sigmas)):
        state = advance(state, sigma, following, step)
        on_step(step, state)
    return state


def _held(state: State, denoised: Streams[mx.array]) -> Streams[mx.array]:
    return state.map(lambda s, x0: s.hold(x0), denoised)


def _moved(state: State, move: Callable[..., mx.array], *others: Streams) -> State:
    """The state with the latents that ``move`` gives, evaluated: a step's graph goes before the next one grows."""
    moved = state.map(lambda s, *rest: s.replace(latent=move(s, *rest)), *others)
    mx.eval([s.latent for s in moved if s is not None])
    return moved
