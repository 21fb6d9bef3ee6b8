"""Streams and saved files as a notebook shows them."""

import base64
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from LTX_2_MLX import read_video
from LTX_2_MLX.media import display_html
from LTX_2_MLX.media.display_html import SavedVideo
from LTX_2_MLX.media.frames import FrameStream

FRAMES = np.random.default_rng(1).integers(0, 255, (5, 48, 64, 3), dtype=np.uint8)


def stream(frames=FRAMES, **changes) -> FrameStream:
    return FrameStream((chunk for chunk in (frames[:2], frames[2:])), 48, 64, Fraction(10), len(frames), **changes)


def video_in(page: str, path: Path) -> FrameStream:
    found = re.search(r'<video src="data:video/mp4;base64,([^"]*)"', page)
    assert found is not None, page[:200]
    path.write_bytes(base64.b64decode(found[1]))
    return read_video(path)


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_stream_shows_itself_and_can_still_be_read(tmp_path, bit_depth):
    frames = FRAMES if bit_depth == 8 else FRAMES.astype(np.uint16) * 257
    shown = stream(frames, bit_depth=bit_depth)
    page = shown._repr_html_()
    video = video_in(page, tmp_path / "shown.mp4")
    assert (video.num_frames, video.height, video.width) == (5, 48, 64)
    assert "64×48, 5 frames, 10 fps" in page and "controls" in page
    np.testing.assert_array_equal(shown.array(), frames)
    video_in(shown._repr_html_(), tmp_path / "again.mp4")


def test_long_streams_are_described_and_not_read(monkeypatch):
    monkeypatch.setattr(display_html, "_MOST_FRAME_BYTES", FRAMES.nbytes - 1)
    shown = stream()
    assert ".save(path)" in shown._repr_html_() and "<video" not in shown._repr_html_()
    np.testing.assert_array_equal(shown.array(), FRAMES)
    unknown = stream().replace(num_frames=None)
    assert "unknown number" in unknown._repr_html_()


def test_saved_files_show_themselves(tmp_path, monkeypatch):
    saved = stream().save(tmp_path / "a <b>.mp4")
    assert isinstance(saved, Path) and saved == tmp_path / "a <b>.mp4"
    page = saved._repr_html_()
    assert video_in(page, tmp_path / "b.mp4").num_frames == 5 and "<b>" not in page
    assert (saved.parent / "x").name == "x"
    assert '<img src="data:image/gif' in stream().save(tmp_path / "loop.gif")._repr_html_()
    assert "a.mkv, " in stream().save(tmp_path / "a.mkv")._repr_html_()
    monkeypatch.setattr(display_html, "_MOST_FILE_BYTES", 10)
    assert "<video" not in saved._repr_html_()
    assert "is not there any more" in SavedVideo(tmp_path / "gone.mp4")._repr_html_()
