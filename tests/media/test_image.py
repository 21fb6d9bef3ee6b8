"""Images: alpha, 16 bits, orientation and profile come back; what is animated is refused."""

from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageCms

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.image import (
    StillImage,
    image_size,
    read_image,
    write_image,
)
from LTX_2_MLX.media.image_folder import image_paths, read_folder

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(2).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("size", [(7, 13), (16, 5)])
def test_png_comes_back_bit_by_bit(tmp_path, dtype, alpha, size):
    image = StillImage(noise(*size, 3, dtype=dtype), noise(*size, dtype=dtype) if alpha else None, PROFILE)
    got = read_image(write_image(image, tmp_path / "a.png"))
    assert got.pixels.dtype == dtype and got.icc_profile == PROFILE
    np.testing.assert_array_equal(got.pixels, image.pixels)
    assert (got.alpha is None) is not alpha
    if alpha:
        np.testing.assert_array_equal(got.alpha, image.alpha)


def test_other_programs_read_our_16_bit_png(tmp_path):
    image = StillImage(noise(9, 11, 3, dtype=np.uint16), None, PROFILE)
    with Image.open(write_image(image, tmp_path / "a.png")) as opened:
        opened.load()
        assert opened.size == (11, 9) and opened.info["icc_profile"] == PROFILE
        np.testing.assert_array_equal(np.asarray(opened), image.pixels >> 8)


@pytest.mark.parametrize("suffix", [".webp", ".tif", ".bmp", ".jpg"])
def test_16_bits_are_rounded_to_8_where_the_format_has_no_more(tmp_path, suffix):
    image = StillImage(np.full((8, 8, 3), 257 * 100 + 120, dtype=np.uint16))
    got = read_image(write_image(image, tmp_path / f"a{suffix}"))
    assert got.pixels.dtype == np.uint8 and abs(int(got.pixels[4, 4, 1]) - 100) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    from PIL import ImageOps

    stored = Image.fromarray(noise(6, 9, 3))
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / f"a{suffix}", exif=exif)
    with Image.open(tmp_path / f"a{suffix}") as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").pixels, wanted)
    assert image_size(tmp_path / f"a{suffix}") == wanted.shape[:2]


def test_grey_palette_and_cmyk_image_become_rgb(tmp_path):
    grey = noise(5, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png").pixels, np.dstack([grey] * 3))
    deep = noise(5, 8, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png").pixels, np.dstack([deep] * 3))
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.tif").pixels, np.dstack([deep] * 3))
    palette = Image.new("P", (4, 3), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.info["transparency"] = 0
    palette.save(tmp_path / "palette.png", transparency=0)
    got = read_image(tmp_path / "palette.png")
    assert got.pixels[1, 1].tolist() == [10, 200, 30] and got.alpha.min() == 255
    Image.new("CMYK", (4, 3), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert read_image(tmp_path / "print.jpg").pixels[1, 1, 0] > 200


@pytest.mark.parametrize(
    ("name", "format"), [("a.gif", "GIF"), ("a.webp", "WEBP"), ("a.png", "PNG"), ("a.tif", "TIFF")]
)
def test_animated_image_is_refused(tmp_path, name, format):
    frames = [Image.fromarray(noise(8, 9, 3) // (index + 1)) for index in range(3)]
    frames[0].save(tmp_path / name, format=format, save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match=rf"contains 3 images \({format}\)"):
        read_image(tmp_path / name)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    whole = write_image(StillImage(noise(40, 40, 3, dtype=np.uint16)), tmp_path / "b.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    small = write_image(StillImage(noise(40, 40, 3)), tmp_path / "c.png").read_bytes()
    (tmp_path / "cut8.png").write_bytes(small[: len(small) // 2])
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    for name in ("a.png", "cut.png", "cut8.png", "float.tif", "missing.png"):
        with pytest.raises(MediaError) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)


def test_damaged_image_never_do_worse_than_a_clear_error(tmp_path):
    random = np.random.default_rng(4)
    for dtype in (np.uint8, np.uint16):
        whole = write_image(StillImage(noise(12, 9, 3, dtype=dtype)), tmp_path / "a.png").read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for place in random.integers(0, len(whole), 3):
                damaged[place] ^= int(random.integers(1, 256))
            (tmp_path / "b.png").write_bytes(damaged)
            with suppress(MediaError):
                read_image(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("name", "alpha", "message"), [("a.xyz", False, "Unsupported image format"), ("a.jpg", True, "transparency")]
)
def test_impossible_image_is_refused(tmp_path, name, alpha, message):
    image = StillImage(noise(4, 4, 3), noise(4, 4) if alpha else None)
    with pytest.raises(MediaError, match=message):
        write_image(image, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_folder_is_a_stream_in_natural_order(tmp_path):
    for number in (10, 9, 1):
        write_image(StillImage(np.full((6, 8, 3), number, np.uint8)), tmp_path / f"Frame_{number}.png")
    write_image(StillImage(np.full((6, 8, 3), 2 * 257, np.uint16)), tmp_path / "frame_2.PNG")
    (tmp_path / "notes.txt").write_text("not a image")
    stream = read_folder(tmp_path, frame_rate=30)
    assert (stream.num_frames, stream.height, stream.width, stream.frame_rate) == (4, 6, 8, 30)
    assert [int(frame[0, 0, 0]) for frame in stream.frames()] == [1, 2, 9, 10]


def test_folder_of_unequal_image_is_refused(tmp_path):
    write_image(StillImage(noise(6, 8, 3)), tmp_path / "1.png")
    write_image(StillImage(noise(6, 9, 3)), tmp_path / "2.png")
    with pytest.raises(MediaError, match=r"2\.png is 9×6"):
        read_folder(tmp_path).array()


def test_folder_without_image_is_refused(tmp_path):
    with pytest.raises(MediaError, match="contains no image"):
        image_paths(tmp_path)
    with pytest.raises(MediaError, match="is not a folder"):
        image_paths(tmp_path / "nowhere")


def test_folder_in_the_place_of_an_image_is_called_a_folder(tmp_path):
    with pytest.raises(MediaError, match="is a folder"):
        read_image(tmp_path)
