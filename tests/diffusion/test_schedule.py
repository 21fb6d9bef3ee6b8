"""Properties of noise schedules; their values are held by golden cases."""

import numpy as np
import pytest

from LTX_2_MLX.diffusion.sampler import DISTILLED, REFINEMENT, ltx2_schedule
from LTX_2_MLX.errors import RequestError


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
