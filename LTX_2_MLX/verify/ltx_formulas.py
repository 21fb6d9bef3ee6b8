"""Formulas of the reference that no pipeline uses: schedules, guidance rules, sampler steps, conditioning by masks.

Golden cases hold them, so that a pipeline that needs one can take it from here.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/{components,conditioning}/ at 400fd31.
"""

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np

from LTX_2_MLX.diffusion.sampler import sde_step
from LTX_2_MLX.diffusion.state import LatentState, patchify_video
from LTX_2_MLX.shapes import LatentShape

# For stage 2 in tiles that share no information while it runs.
TILED_REFINEMENT = (0.625, 0.4, 0.0)


def linear_quadratic_schedule(num_steps: int, *, threshold: float = 0.025) -> np.ndarray:
    """Half of the steps even down to ``1 - threshold``, the other half along a parabola to 0."""
    if num_steps == 1:
        return np.array([1, 0], dtype=np.float32)
    even = num_steps // 2
    curved = num_steps - even
    slope = threshold / even
    # The parabola leaves the line with the line's own slope and reaches 1 at the end.
    bend = (1 - threshold - slope * curved) / curved**2
    steps = np.arange(num_steps + 1)
    beyond = np.maximum(steps - even, 0)
    return (1 - (slope * steps + bend * beyond**2)).astype(np.float32)


def beta_schedule(num_steps: int, *, alpha: float = 0.6, beta: float = 0.6, shift: float = 2.37) -> np.ndarray:
    """Noise levels at the quantiles of a beta distribution, denser at both ends; equal ones are merged."""
    grid = np.arange(1, 10001) / 10000
    shifted = math.exp(shift) / (math.exp(shift) + (1 / grid - 1))
    quantiles = [beta_quantile(1 - i / num_steps, alpha, beta) for i in range(num_steps)]
    indices = dict.fromkeys(round(q * (len(grid) - 1)) for q in quantiles)
    return np.array([*shifted[list(indices)], 0], dtype=np.float32)


def beta_quantile(probability: float, alpha: float, beta: float) -> float:
    """The point in [0, 1] below which a beta distribution has ``probability`` of its mass."""
    low = 0.0
    high = 1.0
    # Each halving gives one bit of a double.
    for _ in range(60):
        middle = (low + high) / 2
        if _beta_mass(middle, alpha, beta) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_mass(x: float, alpha: float, beta: float) -> float:
    """Mass of the beta distribution below ``x``, from the power series of its density."""
    if x > 0.5:
        return 1 - _beta_mass(1 - x, beta, alpha)
    term = 1.0
    total = 0.0
    for n in range(80):
        total += term / (alpha + n)
        term *= x * (n + 1 - beta) / (n + 1)
    log_norm = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)
    return x**alpha * total / math.exp(log_norm)


def cfg_star_delta(conditional: mx.array, negative: mx.array, scale: float) -> mx.array:
    """Classifier-free guidance against the part of ``negative`` that lies along ``conditional``."""
    return (scale - 1) * (conditional - _projection(conditional, negative) * negative)


def apg_delta(
    conditional: mx.array, negative: mx.array, scale: float, *, eta: float = 1.0, norm_threshold: float = 0.0
) -> mx.array:
    """Adaptive projected guidance: the component along ``conditional`` times ``eta``, the norm limited.

    Norms and projections are taken for each sample; the reference's code works for a batch of one only.
    """
    return (scale - 1) * _project_guidance(conditional - negative, conditional, eta, norm_threshold)


def momentum_delta(
    conditional: mx.array,
    running: mx.array,
    guidance_scale: float,
    *,
    eta: float,
    norm_threshold: float,
) -> mx.array:
    """Adaptive projected guidance of ``running``, a decaying sum of the steps away from the negative prompt."""
    return guidance_scale * _project_guidance(running, conditional, eta, norm_threshold)


def _project_guidance(step: mx.array, conditional: mx.array, eta: float, norm_threshold: float) -> mx.array:
    if norm_threshold > 0:
        norm = mx.sqrt(mx.sum(step * step, axis=(1, 2), keepdims=True))
        step = step * mx.minimum(1.0, norm_threshold / norm)
    parallel = _projection(step, conditional) * conditional
    return eta * parallel + (step - parallel)


def _projection(value: mx.array, onto: mx.array) -> mx.array:
    """Coefficient of the projection of ``value`` on ``onto``, for each sample: ``(B, 1, 1)``."""
    dot = mx.sum(value * onto, axis=(1, 2), keepdims=True)
    return dot / (mx.sum(onto * onto, axis=(1, 2), keepdims=True) + 1e-8)


def cfg_plus_plus_step(
    latent: mx.array,
    denoised: mx.array,
    unconditional: mx.array,
    sigma: float,
    next_sigma: float,
    noise: mx.array,
    *,
    eta: float = 1.0,
) -> mx.array:
    """The guided estimate with the unconditional one's noise put back, a share of it new."""
    if next_sigma == 0:
        return denoised
    old_noise = (latent - (1 - sigma) * unconditional) / sigma
    # Noise over signal at the next level, in units of the same at this one.
    fall = next_sigma * (1 - sigma) / (sigma * (1 - next_sigma))
    new = next_sigma * min(eta * math.sqrt(1 - fall**2), 1)
    old = math.sqrt(next_sigma**2 - new**2)
    return (1 - next_sigma) * denoised + old * old_noise + new * noise


def renew_by_token(
    stream: LatentState,
    origin: mx.array,
    arrival: mx.array,
    sigma: float,
    next_sigma: float,
    noise: mx.array,
    eta: float,
) -> mx.array:
    """``sde_step`` at each token's own noise level; as in the reference, not for streams that hold any token fully."""
    if mx.any(stream.denoise_mask == 0).item():
        return arrival
    return sde_step(origin, arrival, stream.denoise_mask * sigma, stream.denoise_mask * next_sigma, noise, eta=eta)


def fix_masked(state: LatentState, latent: mx.array, mask: mx.array, *, strength: float = 1.0) -> LatentState:
    """Hold the cells where ``mask`` ``(B, T, H, W)`` is 1 at ``latent`` ``(B, T, H, W, C)``."""
    held = patchify_video(mask[..., None]).astype(mx.float32)
    return replace(
        state,
        clean_latent=state.clean_latent * (1 - held) + patchify_video(latent) * held,
        denoise_mask=state.denoise_mask * (1 - held) + (1 - strength) * held,
    )


def token_weights(mask: np.ndarray, shape: LatentShape) -> np.ndarray:
    """A mask over pixels ``(B, T, H, W)`` averaged over the cells of a latent, ``(B, N)``.

    The first frame is the first latent frame; equal groups of the others are the other latent frames.
    """
    batch = mask.shape[0]
    cells = _area_mean(_area_mean(mask, 2, shape.height), 3, shape.width)
    groups = cells[:, 1:].reshape(batch, shape.num_frames - 1, -1, shape.height, shape.width)
    return np.concatenate([cells[:, :1], groups.mean(axis=2)], axis=1).reshape(batch, -1)


def _area_mean(values: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Means over ``size`` even spans of one axis, each widened to whole elements."""
    length = values.shape[axis]
    means = []
    for i in range(size):
        span = range(i * length // size, -(-(i + 1) * length // size))
        means.append(values.take(span, axis=axis).mean(axis=axis))
    return np.stack(means, axis=axis)
