"""Schedules: lists of noise levels. Each has steps + 1 entries, falls from 1 or less, and ends in 0.

The network sees a thousand times sigma inside a sine, so sigmas are formed in float32 in the reference's order.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/components/schedulers.py and
packages/ltx-pipelines/src/ltx_pipelines/utils/constants.py at 400fd31.
"""

import math

import numpy as np

from LTX_2_MLX.errors import RequestError

DISTILLED = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
REFINEMENT = (0.909375, 0.725, 0.421875, 0.0)

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
    """The schedule of dev checkpoints: more steps at high noise.

    Args:
        num_steps: Number of steps; the result has one entry more.
        num_tokens: Video tokens. Published pipelines leave it at 4096 for every size, except the high-quality one.
        max_shift: Exponent of the shift at 4096 tokens.
        base_shift: Exponent of the shift at 1024 tokens.
        terminal: The last noise level above 0, to which the schedule is stretched; None leaves it as it is.
    """
    _check_steps(num_steps)
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
    _check_steps(num_steps)
    positions = np.linspace(0, len(sigmas) - 1, num_steps + 1)
    return tuple(np.interp(positions, np.arange(len(sigmas)), sigmas).astype(np.float32).tolist())


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise RequestError(f"The number of steps is {num_steps}, expected at least 1.")
