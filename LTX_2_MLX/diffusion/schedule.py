"""Lists of noise levels. Each has steps + 1 entries, falls from 1 or less, and ends in 0.

The network sees a thousand times sigma inside a sine, so sigmas are formed in float32 in the reference's order.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/components/schedulers.py and
packages/ltx-pipelines/src/ltx_pipelines/utils/constants.py at 400fd31.
"""

import math
from collections.abc import Sequence

import numpy as np

from LTX_2_MLX.errors import RequestError

DISTILLED = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
REFINEMENT = (0.909375, 0.725, 0.421875, 0.0)
# For stage 2 in tiles, which shares no information between them while it runs.
TILED_REFINEMENT = (0.625, 0.4, 0.0)

# Token counts at which the shift is its base and its maximum.
_BASE_TOKENS, _MAX_TOKENS = 1024, 4096


def ltx2_schedule(
    num_steps: int,
    *,
    num_tokens: int = _MAX_TOKENS,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    terminal: float | None = 0.1,
) -> np.ndarray:
    """The schedule of undistilled checkpoints: more steps at high noise.

    Args:
        num_steps: Steps; the result has one entry more.
        num_tokens: Video tokens. Published pipelines leave it at 4096 whatever the size, the high-quality one excepted.
        max_shift: Exponent of the shift at 4096 tokens.
        base_shift: Exponent of the shift at 1024 tokens.
        terminal: What the last noise level above 0 is stretched to; None leaves it.
    """
    _check_steps(num_steps)
    slope = (max_shift - base_shift) / (_MAX_TOKENS - _BASE_TOKENS)
    factor = np.float32(math.exp(num_tokens * slope + base_shift - slope * _BASE_TOKENS))
    one = np.float32(1)
    linear = _falling(num_steps)
    # A reciprocal times the factor, not a quotient: rounded as the reference's.
    shifted = one / (factor + (one / linear - one)) * factor
    if terminal is not None and num_steps > 1:
        rest = one - shifted
        shifted = one - rest / (rest[-1] / np.float32(1 - terminal))
    return np.append(shifted, np.float32(0))


def _falling(num_steps: int) -> np.ndarray:
    """Evenly from 1 down to the last value above 0, float32; counted from the nearer end, as torch.linspace does it."""
    step, index = np.float64(np.float32(1) / np.float32(num_steps)), np.arange(num_steps)
    return np.where(index < (num_steps + 1) // 2, 1 - index * step, (num_steps - index) * step).astype(np.float32)


def linear_quadratic_schedule(num_steps: int, *, threshold: float = 0.025) -> np.ndarray:
    """Half of the steps even down to ``1 - threshold``, the other half along a parabola to 0."""
    _check_steps(num_steps)
    if num_steps == 1:
        return np.array([1, 0], dtype=np.float32)
    even = num_steps // 2
    rest = num_steps - even
    slope = threshold / even
    # The parabola leaves the line with the line's own slope and reaches 1 at the end.
    bend = (1 - threshold - slope * rest) / rest**2
    steps = np.arange(num_steps + 1)
    beyond = np.maximum(steps - even, 0)
    return (1 - (slope * steps + bend * beyond**2)).astype(np.float32)


def beta_schedule(num_steps: int, *, alpha: float = 0.6, beta: float = 0.6, shift: float = 2.37) -> np.ndarray:
    """Noise levels at the quantiles of a beta distribution, denser at both ends; equal ones are merged."""
    _check_steps(num_steps)
    grid = np.arange(1, 10001) / 10000
    shifted = math.exp(shift) / (math.exp(shift) + (1 / grid - 1))
    quantiles = [beta_quantile(1 - i / num_steps, alpha, beta) for i in range(num_steps)]
    indices = dict.fromkeys(round(q * (len(grid) - 1)) for q in quantiles)
    return np.array([*shifted[list(indices)], 0], dtype=np.float32)


def resampled(sigmas: Sequence[float], num_steps: int) -> np.ndarray:
    """A list of noise levels drawn as a line and read at ``num_steps`` even steps; the ends stay."""
    _check_steps(num_steps)
    places = np.linspace(0, len(sigmas) - 1, num_steps + 1)
    return np.interp(places, np.arange(len(sigmas)), sigmas).astype(np.float32)


def beta_quantile(probability: float, alpha: float, beta: float) -> float:
    """The point in [0, 1] below which a beta distribution has ``probability`` of its mass."""
    low, high = 0.0, 1.0
    # Each halving gives one bit, and a double holds no more than these.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beta_mass(middle, alpha, beta) < probability else (low, middle)
    return (low + high) / 2


def _beta_mass(x: float, alpha: float, beta: float) -> float:
    """Mass of the beta distribution below ``x``, from the power series of its density."""
    if x > 0.5:
        return 1 - _beta_mass(1 - x, beta, alpha)
    term, total = 1.0, 0.0
    for n in range(80):
        total += term / (alpha + n)
        term *= x * (n + 1 - beta) / (n + 1)
    log_norm = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)
    return x**alpha * total / math.exp(log_norm)


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise RequestError(f"The number of steps is {num_steps}, but it takes at least 1.")
