"""The public calls: a file, a folder or a clip in; a clip out, with its sound; nothing printed."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import LTX_2_MLX
from LTX_2_MLX.errors import MediaError, RequestError
from LTX_2_MLX.media.image import StillImage, write_image
from LTX_2_MLX.verify.case import Case

HERE = Path(__file__).parent
PEBBLES = HERE / "media" / "pebbles_160x112.mp4"


@pytest.fixture
def rife(tmp_path) -> str:
    return str(Case.open(HERE / "goldens" / "rife" / "ifnet_4_22_lite", tmp_path).write_checkpoint())


def test_film_is_interpolated_from_its_path_to_its_file(rife, tmp_path, capfd):
    stream = LTX_2_MLX.interpolate(PEBBLES, model_path=rife, scale=0.5)
    assert isinstance(stream, LTX_2_MLX.FrameStream)
    assert (stream.num_frames, stream.frame_rate) == (23, 24)
    written = LTX_2_MLX.read_video(stream.save(tmp_path / "smooth.mkv", codec="ffv1"))
    assert (written.num_frames, written.frame_rate) == (23, 24) and written.audio is not None
    np.testing.assert_array_equal(written.array()[::2], LTX_2_MLX.read_video(PEBBLES).array())
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_clip_in_memory_and_folder_of_pictures_are_taken(rife, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3)).astype(np.uint8)
    clip = LTX_2_MLX.FrameStream(iter([frames]), 32, 48, Fraction(24), 3)
    assert LTX_2_MLX.interpolate(clip, model_path=rife).array().shape == (5, 32, 48, 3)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, frame in enumerate(frames):
        write_image(StillImage(frame), folder / f"{index}.png")
    assert LTX_2_MLX.interpolate(folder, model_path=rife).array().shape == (5, 32, 48, 3)


def test_progress_hears_of_the_stage(rife):
    heard = []

    class Progress:
        def begin(self, stage):
            heard.append(stage)

        def advance(self, stage, done, total): ...

        def end(self, stage): ...

        def note(self, text): ...

    LTX_2_MLX.interpolate(PEBBLES, model_path=rife, progress=Progress()).close()
    assert heard in ([], ["interpolate"])
    LTX_2_MLX.interpolate(PEBBLES, model_path=rife, scale=0.25, progress=Progress()).array()
    assert heard[-1] == "interpolate"


def test_unknown_option_is_named_with_those_there_are():
    with pytest.raises(RequestError, match=r"interpolate has no option expo\. It has: exp, "):
        LTX_2_MLX.interpolate(PEBBLES, expo=2)


@pytest.mark.parametrize("call", ["interpolate", "upscale", "upscale_temporal", "super_resolve"])
def test_missing_film_is_one_clear_error(call, tmp_path):
    with pytest.raises(MediaError, match="does not exist"):
        getattr(LTX_2_MLX, call)(tmp_path / "missing.mp4")
