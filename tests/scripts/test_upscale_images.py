"""upscale on images of the kinds that users have, with a small network: formats, folders, limits, metadata."""

import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image, ImageCms
from typer.testing import CliRunner

from LTX_2_MLX import cli
from LTX_2_MLX.cli.upscale import main
from LTX_2_MLX.media.image import read_image
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig

CASES = Path(__file__).parents[1] / "media" / "cases"


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    mx.random.seed(0)
    weights = {
        name: mx.contiguous(value.transpose(0, 3, 1, 2)) / 4 if value.ndim == 4 else mx.zeros_like(value)
        for name, value in tree_flatten(SRVGG(SRVGGConfig(4, 1, 4)).parameters())
    }
    path = tmp_path_factory.mktemp("model") / "compact.safetensors"
    mx.save_safetensors(str(path), weights)
    return path


@pytest.fixture
def upscale(network, tmp_path):
    def run(source: Path, output: str, *words: object) -> tuple[int, str, Path]:
        target = tmp_path / output
        given = [source, "-o", target, "--model-path", network, *words]
        done = CliRunner().invoke(cli.as_program(main), [str(word) for word in given])
        return done.exit_code, done.output, target

    return run


def case(number: int) -> Path:
    (folder,) = CASES.glob(f"{number}-*")
    return folder


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_grey_image_stays_grey_with_its_profile(upscale, suffix):
    code, said, made = upscale(case(13) / "greyicc.png", f"o{suffix}", "--scale", "2")
    assert code == 0, said
    with Image.open(made) as image:
        assert image.mode == "L" and image.size == (128, 96)
        assert image.info["icc_profile"][16:20] == b"GRAY"


def test_grey_image_becomes_srgb_where_the_format_has_no_grey(upscale):
    code, said, made = upscale(case(13) / "greyicc.png", "o.webp", "--scale", "1")
    assert code == 0, said
    with Image.open(made) as image:
        assert image.mode == "RGB" and "icc_profile" not in image.info


def test_grey_scan_has_no_colour(upscale):
    code, said, made = upscale(case(20) / "grey.png", "o.png", "--scale", "1")
    assert code == 0, said
    with Image.open(made) as image:
        assert image.mode == "L"
    pixels = read_image(made).pixels
    assert (pixels[..., :1] == pixels).all()


def test_cmyk_image_is_converted_and_loses_its_profile(upscale, tmp_path):
    image = Image.new("CMYK", (20, 14), (0, 255, 255, 0))
    # A profile of another space than the pixels; as many as there are, none may stay on the RGB result.
    profile = bytes(16) + b"CMYK" + bytes(108)
    image.save(tmp_path / "print.tif", icc_profile=profile)
    code, said, _ = upscale(tmp_path / "print.tif", "bad.png", "--scale", "1")
    assert code == 2 and "print.tif" in said
    image.save(tmp_path / "plain.jpg", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    code, said, made = upscale(tmp_path / "plain.jpg", "o.png", "--scale", "1")
    assert code == 0, said
    with Image.open(made) as written:
        assert written.mode == "RGB" and "icc_profile" not in written.info


def test_folder_reads_heic_and_avif_and_names_what_is_animated(upscale):
    code, said, made = upscale(case(16), "made", "--scale", "1")
    assert sorted(path.name for path in made.iterdir()) == ["1.png", "2.png", "3.avif"]
    assert code == 2 and "4.gif contains 5 images" in said and "1.png" not in said


def test_folder_names_other_files_without_failing(upscale, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(case(16) / "1.png", folder)
    shutil.copy(case(16) / "1.png", folder / "1.gif.txt")
    (folder / "notes.txt").write_text("no image")
    code, said, made = upscale(folder, "made", "--scale", "1")
    assert code == 0 and "notes.txt" in said
    assert sorted(path.name for path in made.iterdir()) == ["1.gif.png", "1.png"]


@pytest.mark.parametrize("name", ["photo", "photo.avif", "still.gif"])
def test_image_is_known_by_its_content(upscale, name):
    code, said, made = upscale(case(21) / name, "o.png", "--scale", "1")
    assert code == 0, said
    assert read_image(made).pixels.shape[:2] == read_image(case(21) / name).pixels.shape[:2]


def test_animated_image_is_named_as_such(upscale):
    code, said, _ = upscale(case(16) / "4.gif", "o.png")
    assert code == 2 and "animated image (GIF)" in said


def test_bad_image_does_not_stop_the_others_and_a_second_run_goes_on(upscale, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(case(24) / "folder", folder)
    code, said, made = upscale(folder, "made", "--scale", "1")
    done = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    assert code == 2 and len(done) == 3
    (bad,) = {path.name for path in folder.iterdir()} - set(done)
    assert f"{bad} cannot be read" in said
    good = next(path for path in folder.iterdir() if path.name in done)
    shutil.copy(good, folder / bad)
    code, said, _ = upscale(folder, "made", "--scale", "1")
    assert code == 0 and "3 images" in said
    assert {
        name: time for name, time in ((p.name, p.stat().st_mtime_ns) for p in made.iterdir()) if name != bad
    } == done
    assert (made / bad).is_file()
    code, said, _ = upscale(folder, "made", "--scale", "1", "--yes")
    assert code == 0 and all((made / name).stat().st_mtime_ns > time for name, time in done.items())


def test_exif_and_resolution_are_kept_unless_refused(upscale):
    source = case(25) / "photo.jpg"
    with Image.open(source) as image:
        wanted = dict(image.getexif())
        dpi = image.info["dpi"]
    code, said, made = upscale(source, "o.jpg", "--scale", "2")
    assert code == 0, said
    with Image.open(made) as image:
        got = dict(image.getexif())
        assert image.info["dpi"] == pytest.approx(dpi)
    hidden = {274}
    assert wanted.keys() - hidden <= got.keys() and 274 not in got
    assert all(got[tag] == wanted[tag] for tag in (271, 272, 306) if tag in wanted)
    for suffix in (".png", ".webp", ".tif"):
        code, said, made = upscale(source, f"o{suffix}", "--scale", "1")
        with Image.open(made) as image:
            assert code == 0 and image.getexif()[271] == wanted[271]
    code, said, made = upscale(source, "bare.jpg", "--scale", "1", "--no-metadata")
    with Image.open(made) as image:
        assert code == 0 and not image.getexif() and "dpi" not in image.info


def test_tiff_keeps_no_structure_as_exif(upscale, tmp_path):
    exif = Image.Exif()
    exif[271] = "Maker"
    Image.new("RGB", (9, 7), (9, 99, 200)).save(tmp_path / "a.tif", exif=exif, dpi=(300, 300))
    code, _, made = upscale(tmp_path / "a.tif", "o.png", "--scale", "1")
    with Image.open(made) as image:
        assert code == 0 and image.getexif()[271] == "Maker" and 273 not in image.getexif()
        assert image.info["dpi"] == pytest.approx((300, 300), rel=1e-4)


def test_limit_of_the_format_is_said_before_the_work(upscale, monkeypatch):
    monkeypatch.setattr("LTX_2_MLX.pipelines.upscale.upscale_images", None)
    code, said, made = upscale(case(26) / "wide.png", "o.webp", "--scale", "4")
    assert code == 2 and "16383" in said and "16384×8" in said and not made.exists()


def test_transparency_that_a_format_lacks_is_said_before_the_work(upscale, tmp_path, monkeypatch):
    monkeypatch.setattr("LTX_2_MLX.pipelines.upscale.upscale_images", None)
    Image.fromarray(np.full((5, 6, 4), 90, np.uint8)).save(tmp_path / "a.png")
    code, said, _ = upscale(tmp_path / "a.png", "o.jpg")
    assert code == 2 and "cannot hold transparency" in said
