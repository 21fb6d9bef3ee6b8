from fractions import Fraction

import pytest

from LTX_2_MLX.pipelines.interpolate import Timeline

TIMES = (Fraction(0), Fraction(1, 10), Fraction(1, 2), Fraction(3, 5))


@pytest.mark.parametrize(("exp", "num_frames"), [(0, 5), (1, 9), (2, 17), (4, 65)])
def test_doublings_divide_every_gap_evenly(exp, num_frames):
    timeline = Timeline(Fraction(24), Fraction(24) * 2**exp, factor=2**exp)
    assert timeline.num_frames(5) == num_frames
    assert timeline.fractions(3) == [Fraction(step, 2**exp) for step in range(2**exp)]


def test_length_is_unknown_while_the_inputs_is():
    assert Timeline(Fraction(24), Fraction(48), factor=2).num_frames(None) is None
    assert Timeline(Fraction(24), Fraction(60)).num_frames(None) is None


def test_fractions_of_a_target_rate_place_output_frames_at_multiples_of_its_period():
    timeline = Timeline(Fraction(24), Fraction(60))
    assert timeline.fractions(0) == [0, Fraction(2, 5), Fraction(4, 5)]
    assert timeline.fractions(1) == [Fraction(1, 5), Fraction(3, 5)]


def test_a_lower_rate_leaves_gaps_without_frames():
    timeline = Timeline(Fraction(12), Fraction(5))
    assert [len(timeline.fractions(i)) for i in range(5)] == [1, 0, 1, 0, 1]


def test_a_target_rate_follows_variable_times():
    timeline = Timeline(Fraction(5), Fraction(10), times=TIMES)
    assert timeline.fractions(0) == [0]
    assert timeline.fractions(1) == [0, Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)]
    assert timeline.num_frames(3) == 6


@pytest.mark.parametrize("target", [Fraction(24), Fraction(25), Fraction(60000, 1001), Fraction(7)])
@pytest.mark.parametrize("num_inputs", [1, 2, 7, 30])
def test_output_times_are_equidistant_and_the_duration_stays(target, num_inputs):
    rate = Fraction(30000, 1001)
    timeline = Timeline(rate, target)
    times = []
    for index in range(num_inputs - 1):
        times += [(index + fraction) / rate for fraction in timeline.fractions(index)]
    assert times == [Fraction(k) / target for k in range(len(times))]
    total = timeline.num_frames(num_inputs)
    assert total >= len(times)
    # The first frame is always shown, however short the input is.
    duration = max(num_inputs / rate, 1 / target)
    assert abs(total / target - duration) <= 1 / target / 2
