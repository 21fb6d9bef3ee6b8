"""Conditioning images: colours of their own profile, and sizes beyond H.264's."""

from pathlib import Path

import numpy as np

from LTX_2_MLX.media.first_frame import read_first_frame

IMAGES = Path(__file__).parent / "images"
# Three fields of Display P3, 200,60,40, 60,180,60 and 40,60,200, in sRGB.
_IN_SRGB = ((217, 42, 23), (0, 183, 30), (34, 61, 208))


def test_colours_are_converted_from_the_profile_of_the_image():
    pixels = read_first_frame(IMAGES / "p3.png", 0)
    for column, expected in zip((16, 48, 80), _IN_SRGB, strict=True):
        assert np.abs(pixels[32, column].astype(int) - expected).max() <= 4


def test_image_wider_than_h264_is_made_smaller():
    pixels = read_first_frame(IMAGES / "wide.png", 20)
    assert pixels.shape == (82, 8192, 3)
