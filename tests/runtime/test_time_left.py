"""Time left, on a clock that the tests move."""

import random

import pytest

from LTX_2_MLX.runtime.time_left import TimeLeft


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("load", "step", "slowdown", "chunk"),
    [
        # Minutes of loading, and kernels that are compiled in the first step.
        (120.0, 45.0, 0.0, 1),
        # Steps of a small model.
        (0.5, 0.02, 0.0, 1),
        # A machine that grows warm.
        (30.0, 20.0, 0.01, 1),
        # Frames that come in chunks.
        (5.0, 1.5, 0.0, 8),
    ],
)
def test_time_left_is_within_a_quarter_from_the_second_step_on(load, step, slowdown, chunk, seed):
    draw, clock, total = random.Random(seed), Clock(), 30
    durations = [step * (1 + slowdown * number) * draw.uniform(0.9, 1.1) for number in range(total)]
    durations[0] *= 3
    left = TimeLeft(clock)
    left.begin("denoise")
    assert left.seconds("denoise") is None
    clock.now += load
    left.advance("denoise", 0, total * chunk)
    for number, duration in enumerate(durations):
        # What is left is told between steps, too.
        clock.now += duration / 2
        if 2 <= number < total - 1:
            wanted = sum(durations[number:]) - duration / 2
            assert left.seconds("denoise") == pytest.approx(wanted, rel=0.25)
        clock.now += duration / 2
        left.advance("denoise", (number + 1) * chunk, total * chunk)
        if 1 <= number < total - 1:
            assert left.seconds("denoise") == pytest.approx(sum(durations[number + 1 :]), rel=0.25)
    assert left.seconds("denoise") == 0
    left.end("denoise")
    assert left.seconds("denoise") is None


def test_a_stage_of_unknown_length_has_no_time_left():
    clock = Clock()
    left = TimeLeft(clock)
    left.begin("write")
    for done in (1, 2, 3):
        clock.now += 1
        left.advance("write", done, None)
    assert left.seconds("write") is None


def test_stages_without_a_mark_at_zero_count_from_their_begin():
    clock = Clock()
    left = TimeLeft(clock)
    left.begin("decode")
    clock.now += 4
    left.advance("decode", 2, 10)
    assert left.seconds("decode") == pytest.approx(16)
    clock.now += 1
    left.advance("decode", 4, 10)
    assert left.seconds("decode") == pytest.approx(3)
