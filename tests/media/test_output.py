"""Names of files to write: refused before any work, and never misread."""

import os
from fractions import Fraction

import numpy as np
import pytest

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.image import read_image
from LTX_2_MLX.media.output import check_writable, made_folder, replaced_when_complete
from LTX_2_MLX.media.video import read_video, write_video


def video() -> FrameStream:
    frames = np.random.default_rng(0).integers(0, 255, (3, 32, 48, 3), dtype=np.uint8)
    return FrameStream([frames], 32, 48, Fraction(24), 3)


def test_name_that_the_disk_cannot_hold_is_refused_with_its_length(tmp_path):
    most = os.pathconf(tmp_path, "PC_NAME_MAX")
    assert check_writable(tmp_path / ("a" * (most - 4) + ".mp4"))
    with pytest.raises(MediaError, match=f"has {most + 1} bytes, the disk allows {most}"):
        check_writable(tmp_path / ("a" * (most - 3) + ".mp4"))


def test_folder_that_was_made_goes_again_only_where_nothing_came_into_it(tmp_path):
    with pytest.raises(ZeroDivisionError), made_folder(tmp_path / "new"):
        1 / 0  # noqa: B018
    with made_folder(tmp_path / "kept") as folder:
        (folder / "video.mp4").touch()
    (tmp_path / "old").mkdir()
    with made_folder(tmp_path / "old"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "old"]


def test_longest_name_of_wide_letters_can_be_written(tmp_path):
    most = os.pathconf(tmp_path, "PC_NAME_MAX")
    path = tmp_path / ("🎈" * ((most - 4) // 4) + ".bin")
    with replaced_when_complete(path) as temporary:
        temporary.write_bytes(b"whole")
    assert [path] == list(tmp_path.iterdir()) and path.read_bytes() == b"whole"


def test_video_whose_name_reads_like_a_protocol_is_written_and_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(video(), "file:first.mp4")
    assert os.listdir() == ["file:first.mp4"]
    assert read_video("file:first.mp4").array().shape == (3, 32, 48, 3)


def test_folder_in_the_place_of_a_image_is_called_a_folder(tmp_path):
    with pytest.raises(MediaError, match="is a folder"):
        read_image(tmp_path)
