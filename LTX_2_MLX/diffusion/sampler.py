"""Schedules of noise levels, guidance, and samplers: loops over a schedule that step along guided estimates.

A schedule has steps + 1 entries, falls from 1 or less, and ends in 0. The network sees a thousand times sigma inside a
sine, so sigmas are formed in float32 in the reference's order.

Guidance combines several passes through the transformer, which comes in as ``predict``, into one clean estimate of each
stream, ``(B, N, D)`` in float32.

A sampler is ``(denoise, state, sigmas, on_step) -> state``: ``denoise`` gives each stream's clean estimate, and
``on_step(step, state)`` is called after each step with the state evaluated. Samplers with new noise in each step get it
from a function, so that a run can be repeated.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/components/{schedulers,guiders,diffusion_steps}.py and
packages/ltx-pipelines/src/ltx_pipelines/utils/{constants,denoisers,samplers,res2s}.py at 400fd31.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import mlx.core as mx
import numpy as np

from LTX_2_MLX.diffusion.state import LatentState, State, StreamArrays, hold, to_velocity, with_latents
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.shapes import StreamName

DISTILLED = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
REFINEMENT = (0.909375, 0.725, 0.421875, 0.0)

# Token counts at which the shift is its base and its maximum.
_BASE_TOKENS, _MAX_TOKENS = 1024, 4096

# Ways to call the transformer: with the prompt; with the negative prompt; with self-attention bypassed in the
# guidance's ``stg_blocks``; without cross-modal attention.
Pass = Literal["conditional", "negative", "perturbed", "isolated"]


# (state, sigma, passes, streams to compute) -> clean estimates of these streams for each pass.
Predict = Callable[[State, float, Sequence[Pass], Collection[StreamName]], Mapping[Pass, StreamArrays]]
# (state, sigma, step) -> one guided clean estimate of each stream.
Denoise = Callable[[State, float, int], StreamArrays]
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


def ltx2_schedule(
    num_steps: int,
    *,
    num_tokens: int = _MAX_TOKENS,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    terminal: float | None = 0.1,
) -> np.ndarray:
    """The schedule of dev checkpoints: more steps at high noise.

    Args:
        num_steps: Number of steps; the result has one entry more.
        num_tokens: Video tokens. Published pipelines leave it at 4096 for every size, except the high-quality one.
        max_shift: Exponent of the shift at 4096 tokens.
        base_shift: Exponent of the shift at 1024 tokens.
        terminal: The last noise level above 0, to which the schedule is stretched; None leaves it as it is.
    """
    if num_steps < 1:
        raise _too_few(num_steps)
    slope = (max_shift - base_shift) / (_MAX_TOKENS - _BASE_TOKENS)
    factor = np.float32(math.exp(num_tokens * slope + base_shift - slope * _BASE_TOKENS))
    one = np.float32(1)
    # Even steps from 1 to the last value above 0; counted from the nearer end, as torch.linspace does.
    step = np.float64(one / np.float32(num_steps))
    index = np.arange(num_steps)
    linear = np.where(index < (num_steps + 1) // 2, 1 - index * step, (num_steps - index) * step).astype(np.float32)
    # A reciprocal times the factor, not a quotient: rounded as the reference's.
    shifted = one / (factor + (one / linear - one)) * factor
    if terminal is not None and num_steps > 1:
        signal = one - shifted
        shifted = one - signal / (signal[-1] / np.float32(1 - terminal))
    return np.append(shifted, np.float32(0))


def stretched(sigmas: tuple[float, ...], num_steps: int) -> tuple[float, ...]:
    """A schedule interpolated linearly to ``num_steps`` steps, its ends kept; unchanged where it has as many."""
    if num_steps == len(sigmas) - 1:
        return sigmas
    if num_steps < 1:
        raise _too_few(num_steps)
    positions = np.linspace(0, len(sigmas) - 1, num_steps + 1)
    return tuple(np.interp(positions, np.arange(len(sigmas)), sigmas).astype(np.float32).tolist())


def _too_few(num_steps: int) -> RequestError:
    return RequestError(f"The number of steps is {num_steps}, expected at least 1.")


@dataclass(frozen=True)
class Guidance:
    """Guidance of one stream. The defaults guide nothing and cost one pass.

    Attributes:
        guidance_scale: Classifier-free guidance away from the negative prompt; 1 is off.
        stg_scale: Spatio-temporal guidance away from the perturbed pass; 0 is off.
        stg_blocks: Blocks whose self-attention the perturbed pass bypasses.
        modality_scale: Cross-modal guidance away from the isolated pass; 1 is off.
        guidance_rescale: Share by which the result's standard deviation is scaled back to the conditional one's.
        skip_step: After each computed step, reuse the stream's estimate for this many steps.
    """

    guidance_scale: float = 1.0
    stg_scale: float = 0.0
    stg_blocks: tuple[int, ...] = ()
    modality_scale: float = 1.0
    guidance_rescale: float = 0.0
    skip_step: int = 0

    def skips(self, step: int) -> bool:
        """Whether the stream reuses its last estimate at ``step``."""
        return step % (self.skip_step + 1) != 0


def both_streams(guidance: Guidance) -> dict[StreamName, Guidance]:
    """The same guidance of video and audio."""
    return {"video": guidance, "audio": guidance}


UNGUIDED = both_streams(Guidance())


def passes(guidance: Mapping[StreamName, Guidance]) -> list[Pass]:
    """The passes that any of the streams needs, the conditional one first."""
    negative = perturbed = isolated = False
    for stream in guidance.values():
        negative = negative or stream.guidance_scale != 1
        perturbed = perturbed or bool(stream.stg_scale and stream.stg_blocks)
        isolated = isolated or stream.modality_scale != 1
    needed: list[Pass] = ["conditional"]
    if negative:
        needed.append("negative")
    if perturbed:
        needed.append("perturbed")
    if isolated:
        needed.append("isolated")
    return needed


def steps_within(share: tuple[float, float], num_steps: int) -> range:
    """Numbers of the steps that lie in a share of a schedule, its bounds rounded to whole steps.

    A share up to 1 has no last step: some samplers evaluate once more after it.
    """
    start, end = share
    return range(round(start * num_steps), num_steps + 1 if end == 1 else round(end * num_steps))


def guided(predict: Predict, guidance: Mapping[StreamName, Guidance], steps: Collection[int] | None = None) -> Denoise:
    """``denoise`` for a sampler: the passes that ``guidance`` needs, combined for each stream.

    It remembers the last estimates, for streams that skip steps: make a new one for each run.

    Args:
        predict: The transformer.
        guidance: Of each stream.
        steps: Numbers of the steps that are guided, others have the conditional pass alone; None: all.
    """
    last: StreamArrays = {}
    unguided = Guidance()

    def denoise(state: State, sigma: float, step: int) -> StreamArrays:
        computed: dict[StreamName, Guidance] = {}
        for name in state:
            if steps is not None and step not in steps:
                computed[name] = unguided
            elif not guidance[name].skips(step):
                computed[name] = guidance[name]
        if computed:
            estimates = predict(state, sigma, passes(computed), computed.keys())
            for name in computed:
                of_stream: dict[Pass, mx.array] = {}
                for kind, streams in estimates.items():
                    of_stream[kind] = streams[name]
                last[name] = guide(computed[name], of_stream)
        return dict(last)

    return denoise


def guide(guidance: Guidance, estimates: Mapping[Pass, mx.array]) -> mx.array:
    """Combine one stream's estimates. A pass that is missing counts as equal to the conditional one.

    The standard deviations of ``guidance_rescale`` are taken over the whole array, batch included.
    """
    conditional = estimates["conditional"]
    result = conditional
    if guidance.guidance_scale != 1 and "negative" in estimates:
        result = result + (guidance.guidance_scale - 1) * (conditional - estimates["negative"])
    if guidance.stg_scale and "perturbed" in estimates:
        result = result + guidance.stg_scale * (conditional - estimates["perturbed"])
    if guidance.modality_scale != 1 and "isolated" in estimates:
        result = result + (guidance.modality_scale - 1) * (conditional - estimates["isolated"])
    if guidance.guidance_rescale:
        factor = _standard_deviation(conditional) / _standard_deviation(result)
        result = result * (guidance.guidance_rescale * factor + (1 - guidance.guidance_rescale))
    return result


def _standard_deviation(value: mx.array) -> mx.array:
    # In two passes: the variance of millions of float32 values in one pass loses digits.
    centred = value - mx.mean(value)
    return mx.sqrt(mx.sum(centred * centred) / (value.size - 1))


def ignore(step: int, state: State) -> None:
    """An ``on_step`` that does nothing."""


def euler(denoise: Denoise, state: State, sigmas: Sequence[float], on_step: OnStep = ignore) -> State:
    """Straight steps along the velocity."""
    for step, (sigma, next_sigma) in enumerate(pairwise(map(float, sigmas))):
        estimates = denoise(state, sigma, step)
        latents: StreamArrays = {}
        for name, stream in state.items():
            velocity = to_velocity(stream.latent, stream.hold(estimates[name]), sigma)
            latents[name] = stream.latent + velocity * (next_sigma - sigma)
        state = with_latents(state, latents)
        on_step(step, state)
    return state


def gradient_estimation(
    denoise: Denoise, state: State, sigmas: Sequence[float], on_step: OnStep = ignore, *, gamma: float = 2.0
) -> State:
    """Euler steps whose velocity is extrapolated from the last one by ``gamma``."""
    last: StreamArrays = {}
    for step, (sigma, next_sigma) in enumerate(pairwise(map(float, sigmas))):
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
    for step, (sigma, next_sigma) in enumerate(pairwise(map(float, sigmas))):
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
    for step, (sigma, next_sigma) in enumerate(pairwise(map(float, sigmas))):
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
