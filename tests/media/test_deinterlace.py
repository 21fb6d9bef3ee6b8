"""Interlaced video: said, and deinterlaced at the same or twice the rate."""

from fractions import Fraction

import av
import numpy as np
import pytest

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.video import read_video, write_video


@pytest.fixture
def interlaced(tmp_path):
    """Ten interlaced frames of a bright bar that moves by 4 pixels from field to field."""
    path = tmp_path / "fields.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"x264-params": "bff=1:log-level=none", "crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 128, "yuv420p"
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(weave(index), format="rgb24").reformat(
                format="yuv420p", dst_colorspace=5, interpolation="BICUBIC"
            )
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def bar(position: int) -> np.ndarray:
    image = np.full((64, 128, 3), 30, np.uint8)
    image[:, position : position + 12] = 220
    return image


def weave(index: int) -> np.ndarray:
    # The lower field comes first, as the encoder marks frames that do not say otherwise.
    woven = bar(8 * index + 4)
    woven[1::2] = bar(8 * index)[1::2]
    return woven


def combing(frames: np.ndarray) -> float:
    """Mean difference of neighbouring rows: high where two fields are woven."""
    rows = frames[2:-2, 4:-4].astype(int)
    return float(np.abs(np.diff(rows, axis=1)).mean())


def test_interlaced_input_is_said(interlaced):
    stream = read_video(interlaced)
    assert any("interlaced" in note and "--deinterlace" in note for note in stream.notes)
    assert combing(stream.array()) > 5
    assert not any("interlaced" in note for note in read_video(interlaced, deinterlace="same").notes)


@pytest.mark.parametrize(("mode", "factor"), [("same", 1), ("double", 2)])
def test_deinterlaced_frames_show_one_moment(interlaced, tmp_path, mode, factor):
    stream = read_video(interlaced, deinterlace=mode)
    assert (stream.num_frames, stream.frame_rate) == (10 * factor, 25 * factor)
    assert stream.duration_seconds == Fraction(10, 25)
    frames = stream.array()
    assert len(frames) == 10 * factor and combing(frames) < 1.5
    centres = [np.flatnonzero(frame[32, :, 0] > 128).mean() for frame in frames[2:-2]]
    np.testing.assert_allclose(np.diff(centres), 8 / factor, atol=1.5)
    copy = write_video(read_video(interlaced, deinterlace=mode), tmp_path / "copy.mp4")
    assert read_video(copy).num_frames == 10 * factor


def test_double_rate_keeps_variable_times(interlaced, tmp_path):
    times = tuple(Fraction(n, 50) for n in (0, 2, 3, 7, 9, 11, 13, 15, 17, 19, 22))
    woven = read_video(interlaced).replace(times=times)
    path = write_video(woven, tmp_path / "variable.mkv")
    fields = read_video(path, deinterlace="double")
    assert fields.times[::2] == pytest.approx(times, abs=0.002)
    assert fields.times[5] == pytest.approx(0.1, abs=0.002) and len(fields.array()) == 20


def test_other_mode_is_refused(interlaced):
    with pytest.raises(MediaError, match="same or double"):
        read_video(interlaced, deinterlace="triple")
