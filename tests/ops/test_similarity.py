import numpy as np

from LTX_2_MLX.ops.sampling import structural_similarity

RANDOM = np.random.default_rng(0)


def picture() -> np.ndarray:
    return RANDOM.random((13, 17, 3), dtype=np.float32)


def test_a_picture_is_like_itself():
    first = picture()
    np.testing.assert_allclose(structural_similarity(first, first), 1, atol=1e-6)


def test_similarity_does_not_depend_on_the_order():
    first, second = picture(), picture()
    assert abs(structural_similarity(first, second) - structural_similarity(second, first)) < 1e-6


def test_noise_makes_it_fall_and_unrelated_pictures_have_little():
    first = picture()
    values = [structural_similarity(first, first * (1 - share) + picture() * share) for share in (0.1, 0.4, 1)]
    assert 1 > values[0] > values[1] > values[2] and values[2] < 0.2


def test_plain_pictures_differ_by_their_brightness_alone():
    dark, light = np.full((12, 12, 3), 0.2, np.float32), np.full((12, 12, 3), 0.8, np.float32)
    expected = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    np.testing.assert_allclose(structural_similarity(dark, light), expected, atol=1e-4)


def test_bright_and_nearly_equal_images_are_alike():
    """With products rounded to TF32's 10 bits these would come out as unrelated."""
    bright = np.full((32, 32, 3), 0.98, np.float32)
    noisy = bright + 0.002 * RANDOM.standard_normal(bright.shape, dtype=np.float32)
    assert 0.98 < structural_similarity(bright, noisy) <= 1


def test_similarity_does_not_depend_on_the_precision_of_a_gpu():
    assert "mx" not in structural_similarity.__code__.co_names
