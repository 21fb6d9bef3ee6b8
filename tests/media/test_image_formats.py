"""What each image format keeps: as its entry says, and as the page does."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.image import StillImage, read_image, write_image
from LTX_2_MLX.media.image_formats import IMAGE_FORMATS, check_image_output, format_table

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
NAMES = [each.name for each in IMAGE_FORMATS]


def exif() -> bytes:
    tags = Image.Exif()
    tags[271] = "Some Maker"
    return tags.tobytes()


@pytest.mark.parametrize("entry", IMAGE_FORMATS, ids=NAMES)
def test_format_keeps_what_its_entry_says(tmp_path, entry):
    levels = np.random.default_rng(3).integers(0, 65536, (24, 33, 3)).astype(np.uint16)
    alpha = levels[..., 0].copy() if entry.alpha else None
    path = write_image(
        StillImage(levels, alpha, PROFILE, exif=exif(), dpi=(300, 300)), tmp_path / f"a{entry.suffixes[0]}"
    )
    got = read_image(path)
    assert (got.alpha is not None) is entry.alpha
    assert (got.pixels.dtype == np.uint16) is entry.sixteen_bit
    assert (got.icc_profile == PROFILE) is entry.profile
    assert (got.exif is not None and b"Some Maker" in got.exif) is entry.exif
    assert (got.dpi is not None and got.dpi == pytest.approx((300, 300), rel=1e-3)) is entry.dpi


@pytest.mark.parametrize("entry", IMAGE_FORMATS, ids=NAMES)
def test_grey_is_written_as_grey_or_as_equal_colours(tmp_path, entry):
    ramp = np.repeat(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], 16, axis=0)
    path = write_image(StillImage(np.repeat(ramp, 3, axis=2), grey=True), tmp_path / f"a{entry.suffixes[0]}")
    got = read_image(path)
    assert got.grey is entry.grey
    assert np.ptp(got.pixels.astype(int), axis=2).max() <= 2


def test_sides_over_the_limit_are_refused():
    for entry in IMAGE_FORMATS:
        name = f"a{entry.suffixes[0]}"
        if entry.max_side is None:
            check_image_output(name, 2, 200_000)
            continue
        check_image_output(name, 2, entry.max_side)
        with pytest.raises(MediaError, match=str(entry.max_side)):
            check_image_output(name, 2, entry.max_side + 1)


def test_page_has_the_table_that_the_code_prints():
    page = Path(__file__).parents[2] / "docs" / "POST-PROCESSING.md"
    assert format_table() in page.read_text()
