"""Pictures as a film's first frame: size, place, compression, and files that are none."""

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.first_frame import as_film, first_frame, read_picture


def gradient(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    levels = [rows * 255 // max(height - 1, 1), columns * 255 // max(width - 1, 1), rows * 0 + 90]
    return np.stack(levels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (100, 30), (31, 200)])
def test_first_frame_covers_the_film_and_keeps_the_centre(size):
    picture = np.zeros((*size, 3), np.uint8)
    picture[size[0] // 2 - 3 : size[0] // 2 + 4, size[1] // 2 - 3 : size[1] // 2 + 4] = 255
    frame = first_frame(picture, 64, 96)
    assert frame.shape == (1, 1, 64, 96, 3)
    assert frame[0, 0, 32, 48].tolist() == [1.0, 1.0, 1.0]
    assert mx.min(frame).item() == -1


def test_first_frame_of_the_right_size_is_the_picture_itself():
    picture = gradient(32, 64)
    assert np.allclose(np.array(first_frame(picture, 32, 64))[0, 0], picture / 127.5 - 1, atol=1e-6)


def test_film_keeps_the_picture_roughly_and_more_so_at_a_lower_crf():
    picture = gradient(64, 96)
    picture[::4, ::3] = 255 - picture[::4, ::3]
    errors = [np.abs(as_film(picture, crf).astype(float) - picture).mean() for crf in (18, 33)]
    assert 0 < errors[0] < errors[1] < 60


def test_film_cuts_an_odd_row_and_column():
    assert as_film(gradient(35, 47), 33).shape == (34, 46, 3)


def test_picture_of_one_pixel_is_refused():
    with pytest.raises(MediaError, match="1x1"):
        as_film(gradient(1, 1), 33)


def test_picture_is_read_upright_and_without_transparency(tmp_path):
    image = Image.fromarray(gradient(20, 30))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.convert("RGBA").save(tmp_path / "clear.png")
    assert np.array_equal(read_picture(tmp_path / "turned.png"), np.rot90(gradient(20, 30), -1))
    assert np.array_equal(read_picture(tmp_path / "clear.png"), gradient(20, 30))


def test_sixteen_bit_grey_is_rounded_to_eight(tmp_path):
    Image.fromarray(np.full((4, 6), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    assert (read_picture(tmp_path / "deep.png") == 128).all()


def test_files_that_are_no_pictures_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    for name in ("text.png", "missing.png"):
        with pytest.raises(MediaError, match=name):
            read_picture(tmp_path / name)
