"""One key for each purpose: repeatable, and independent of what else is drawn."""

import mlx.core as mx

from LTX_2_MLX.diffusion.state import seeded_noise

SHAPE = (2, 50, 7)


def test_same_seed_and_purpose_give_the_same_noise_whatever_was_drawn_between():
    noise = seeded_noise(5)
    first = noise("stage_1.video", SHAPE)
    noise("stage_1.audio", SHAPE)
    mx.random.normal((3,))
    assert mx.array_equal(noise("stage_1.video", SHAPE), first)


def test_other_seed_or_purpose_gives_other_noise():
    first = seeded_noise(5)("stage_1.video", SHAPE)
    for other in (seeded_noise(6)("stage_1.video", SHAPE), seeded_noise(5)("stage_2.video", SHAPE)):
        assert mx.abs(mx.mean(first * other)).item() < 0.2


def test_seeds_that_differ_beyond_32_bits_give_other_noise():
    first = seeded_noise(5)("stage_1.video", SHAPE)
    other = seeded_noise(5 + 2**63)("stage_1.video", SHAPE)
    assert mx.abs(mx.mean(first * other)).item() < 0.2


def test_drawing_leaves_the_global_random_state_alone():
    mx.random.seed(3)
    expected = mx.random.normal((4,))
    mx.random.seed(3)
    seeded_noise(1)("stage_1.video", SHAPE)
    assert mx.array_equal(mx.random.normal((4,)), expected)
