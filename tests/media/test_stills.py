"""One frame as an image file, and short loops."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from LTX_2_MLX.cli.generate import with_one_frame
from LTX_2_MLX.errors import MediaError, RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.image_formats import IMAGE_SUFFIXES
from LTX_2_MLX.media.stills import durations
from LTX_2_MLX.media.suffixes import IMAGE_OUTPUTS
from LTX_2_MLX.media.writer import read_run_record, run_record

SIZE = (30, 46)


def clip(num_frames: int, **fields) -> FrameStream:
    levels = np.linspace(0, 200, num_frames).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (num_frames, *SIZE, 3))
    return FrameStream([frames], *SIZE, frame_rate=Fraction(24), num_frames=num_frames, **fields)


def test_every_image_format_that_is_written_takes_frames():
    assert set(IMAGE_OUTPUTS) == {*IMAGE_SUFFIXES, ".gif"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".tif"])
def test_one_frame_becomes_an_image_with_the_record_of_its_run(tmp_path, suffix):
    path = clip(1, metadata=run_record("generate", {"prompt": "a ball", "seed": 7})).save(tmp_path / f"still{suffix}")
    with Image.open(path) as image:
        assert image.size == SIZE[::-1]
    assert read_run_record(path, "generate").request == {"prompt": "a ball", "seed": 7}


@pytest.mark.parametrize(("suffix", "tick"), [(".webp", 1), (".gif", 10)])
def test_a_loop_has_every_frame_and_its_length(tmp_path, suffix, tick):
    path = clip(13, metadata=run_record("generate", {"seed": 7})).save(tmp_path / f"loop{suffix}")
    with Image.open(path) as image:
        assert image.n_frames == 13
        milliseconds = []
        for index in range(13):
            image.seek(index)
            image.load()
            milliseconds.append(image.info["duration"])
        assert image.info.get("loop") == 0
    assert abs(sum(milliseconds) - 1000 * 13 / 24) <= tick / 2
    assert read_run_record(path, "generate").request == {"seed": 7}


def test_times_are_rounded_without_drifting():
    starts = tuple(Fraction(index, 24) for index in range(25))
    assert sum(durations(starts, Fraction(1, 100))) == 1000
    assert set(durations(starts, Fraction(1, 100))) == {40, 50}


def test_a_still_of_several_frames_is_refused_before_they_are_made(tmp_path):
    def never():
        raise AssertionError("a frame was computed")
        yield

    stream = FrameStream(never(), *SIZE, frame_rate=Fraction(24), num_frames=9)
    with pytest.raises(MediaError, match="holds one frame, the video has 9"):
        stream.save(tmp_path / "still.png")
    assert list(tmp_path.iterdir()) == []


def test_a_long_loop_is_refused(tmp_path):
    stream = FrameStream([], 960, 1408, frame_rate=Fraction(24), num_frames=481)
    with pytest.raises(MediaError, match="short loops, 1408×960 of 481 frames is too much"):
        stream.save(tmp_path / "loop.webp")


def test_missing_frames_leave_no_file(tmp_path):
    stream = clip(5).replace(num_frames=6)
    with pytest.raises(MediaError, match="5 of 6 frames"):
        stream.save(tmp_path / "loop.gif")
    assert list(tmp_path.iterdir()) == []


def test_a_still_implies_one_frame(tmp_path):
    assert with_one_frame({"seed": 1}, tmp_path / "a.png") == {"seed": 1, "frames": 1}
    assert with_one_frame({"seed": 1}, tmp_path / "a.webp") == {"seed": 1}
    with pytest.raises(RequestError, match="holds one frame"):
        with_one_frame({"frames": 9}, tmp_path / "a.png")
