"""Properties of noise schedules; their values are held by golden cases."""

import numpy as np
import pytest

from LTX_2_MLX.diffusion import schedule
from LTX_2_MLX.errors import RequestError

SCHEDULES = [schedule.ltx2_schedule, schedule.linear_quadratic_schedule, schedule.beta_schedule]


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 30])
def test_schedule_falls_from_one_to_zero_in_the_asked_steps(make, num_steps):
    sigmas = make(num_steps)
    assert sigmas.dtype == np.float32
    assert len(sigmas) == num_steps + 1
    assert sigmas[0] == pytest.approx(1, abs=1e-6)
    assert sigmas[-1] == 0
    assert (np.diff(sigmas) < 0).all()


@pytest.mark.parametrize("make", SCHEDULES)
def test_schedule_refuses_less_than_one_step(make):
    with pytest.raises(RequestError, match="0"):
        make(0)


def test_last_noise_level_before_zero_is_the_terminal_one():
    assert schedule.ltx2_schedule(9)[-2] == pytest.approx(0.1, abs=1e-6)
    assert schedule.ltx2_schedule(9, terminal=0.25)[-2] == pytest.approx(0.25, abs=1e-6)


def test_more_tokens_mean_more_steps_at_high_noise():
    many, few = schedule.ltx2_schedule(9, num_tokens=4096), schedule.ltx2_schedule(9, num_tokens=500)
    assert (many[1:-2] > few[1:-2]).all()


def test_refinement_is_the_end_of_the_distilled_schedule():
    assert schedule.DISTILLED[-len(schedule.REFINEMENT) :] == schedule.REFINEMENT


def test_beta_quantile_inverts_known_distributions():
    # Beta(1, 1) is uniform, Beta(1, b) has 1 - (1 - x)^b of its mass below x.
    assert schedule.beta_quantile(0.3, 1, 1) == pytest.approx(0.3, abs=1e-12)
    assert schedule.beta_quantile(0.9, 1, 3) == pytest.approx(1 - 0.1 ** (1 / 3), abs=1e-12)
