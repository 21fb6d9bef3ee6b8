"""Ten bits in, ten bits out: frames, matrix and HDR data, and what cannot hold them."""

from fractions import Fraction

import av
import numpy as np
import pytest

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.encoder import HDR, Display
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.video import read_video, write_video

_CHROMATICITIES = ((34_000, 16_000), (13_250, 34_500), (7_500, 3_000))
P3 = HDR(
    primaries=tuple((Fraction(x, 50_000), Fraction(y, 50_000)) for x, y in _CHROMATICITIES),
    white=(Fraction(15_635, 50_000), Fraction(16_450, 50_000)),
    luminance=(Fraction(1, 200), Fraction(1000)),
    light=(987, 321),
)


def ramp(num_frames: int = 5, height: int = 70, width: int = 130) -> np.ndarray:
    """Frames ``(T, H, W, 3)`` uint16 that rise by less than a level of 8 bits from column to column."""
    levels = 20_000 + 128 * np.arange(width)[None, None, :, None] + 64 * np.arange(num_frames)[:, None, None, None]
    return np.broadcast_to(levels, (num_frames, height, width, 3)).astype(np.uint16)


def stream_of(frames: np.ndarray, **display) -> FrameStream:
    return FrameStream(
        [frames], *frames.shape[1:3], Fraction(24), len(frames), display=Display(**display), bit_depth=10
    )


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_ten_bits_are_written_and_read(tmp_path, suffix):
    path = write_video(stream_of(ramp()), tmp_path / f"a{suffix}", crf=4)
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
    stream = read_video(path, bit_depth=10)
    frames = stream.array()
    assert frames.dtype == np.uint16 and stream.bit_depth == 10
    # Two levels of ten bits; one of eight would be 257.
    assert np.abs(frames.astype(int) - ramp()).max() < 200
    assert len(np.unique(frames[0, 30, :, 1])) > 100


def test_lossless_ten_bits_keep_every_level(tmp_path):
    exact = (ramp() >> 6 << 6) | (ramp() >> 10)
    path = write_video(stream_of(exact), tmp_path / "a.mkv", codec="ffv1")
    assert np.abs(read_video(path, bit_depth=10).array().astype(int) - exact).max() <= 64


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_hdr_data_and_tags_come_along(tmp_path, suffix):
    first = write_video(stream_of(ramp(), primaries=9, transfer=16, hdr=P3), tmp_path / f"a{suffix}")
    second = write_video(read_video(first, bit_depth=10), tmp_path / f"b{suffix}")
    with av.open(str(second)) as file:
        frame = next(file.decode(video=0))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (9, 9, 16)
    assert read_video(second).display.hdr == P3


def test_what_is_lost_with_eight_bits_is_said(tmp_path, notes):
    source = write_video(stream_of(ramp(), primaries=9, transfer=16, hdr=P3), tmp_path / "a.mp4")
    write_video(read_video(source), tmp_path / "b.mp4", progress=notes)
    assert any("10 bits for each colour" in note and "--bit-depth 10" in note for note in notes.notes)
    assert any("mastering display" in note for note in notes.notes)


@pytest.mark.parametrize(("suffix", "codec"), [(".webm", "vp9"), (".avi", "auto"), (".mp4", "h264")])
def test_what_cannot_hold_ten_bits_says_so_before_the_first_frame(tmp_path, suffix, codec):
    def frames():
        raise AssertionError("a frame was computed")
        yield

    stream = stream_of(ramp()).replace(chunks=frames())
    with pytest.raises(MediaError, match="--bit-depth 10"):
        write_video(stream, tmp_path / f"a{suffix}", codec="auto" if codec == "vp9" else codec)


def test_eight_bit_input_may_be_written_with_ten(tmp_path, clip):
    source = clip(tmp_path / "a.mp4", size=(64, 96))
    stream = read_video(write_video(read_video(source, bit_depth=10), tmp_path / "b.mp4"), bit_depth=10)
    expected = read_video(source).array().astype(int) * 257
    assert np.abs(stream.array() - expected).mean() < 3 * 257


def test_other_depths_are_refused(tmp_path, clip):
    with pytest.raises(MediaError, match="expected 8 or 10"):
        read_video(clip(tmp_path / "a.mp4"), bit_depth=12)
