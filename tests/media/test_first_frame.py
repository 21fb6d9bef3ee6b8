"""Images as a video's first frame: size, place and precision."""

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.first_frame import h264_roundtrip, read_first_frame, resize_and_crop


def gradient(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    levels = [rows * 255 // max(height - 1, 1), columns * 255 // max(width - 1, 1), rows * 0 + 90]
    return np.stack(levels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (100, 30), (31, 200)])
def test_image_covers_the_video_and_keeps_its_centre(size):
    image = np.zeros((*size, 3), np.uint8)
    image[size[0] // 2 - 3 : size[0] // 2 + 4, size[1] // 2 - 3 : size[1] // 2 + 4] = 255
    frame = resize_and_crop(image, 64, 96)
    assert frame.shape == (1, 1, 64, 96, 3)
    assert frame[0, 0, 32, 48].tolist() == [1.0, 1.0, 1.0]
    assert mx.min(frame).item() == -1


def test_image_of_the_right_size_is_taken_as_it_is():
    image = gradient(32, 64)
    assert np.allclose(np.array(resize_and_crop(image, 32, 64))[0, 0], image / 127.5 - 1, atol=1e-6)


def test_image_is_compressed_once_and_more_so_at_a_higher_crf(tmp_path):
    image = gradient(64, 96)
    image[::4, ::3] = 255 - image[::4, ::3]
    Image.fromarray(image).save(tmp_path / "image.png")
    errors = [np.abs(read_first_frame(tmp_path / "image.png", crf) - image.astype(float)).mean() for crf in (18, 33)]
    assert 0 < errors[0] < errors[1] < 60


def test_sixteen_bit_image_is_rounded_to_eight(tmp_path):
    Image.fromarray(np.full((4, 6), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    assert (read_first_frame(tmp_path / "deep.png", crf=0) == 128).all()


def test_image_too_small_for_video_is_refused(tmp_path):
    Image.fromarray(gradient(1, 5)).save(tmp_path / "line.png")
    with pytest.raises(MediaError, match="5x1"):
        read_first_frame(tmp_path / "line.png", crf=33)


def test_h264_roundtrip_loses_a_little_and_more_at_higher_crf():
    rows, columns = np.mgrid[0:65, 0:97]
    image = np.stack([rows * 3, columns * 2, (rows * columns) % 256], axis=-1).astype(np.uint8)
    errors = []
    for crf in (10, 33):
        got = h264_roundtrip(image, crf)
        assert got.shape == (64, 96, 3) and got.dtype == np.uint8
        errors.append(np.abs(got.astype(int) - image[:64, :96]).mean())
    assert 0 < errors[0] < errors[1] < 20
    assert h264_roundtrip(image, 0) is image
    np.testing.assert_array_equal(h264_roundtrip(image, 33), h264_roundtrip(image, 33))
