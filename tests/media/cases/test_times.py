"""Times and counts: what is shown counts, and nothing plays faster or slower than its source without a word."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.frames import FrameStream, subdivide_times
from LTX_2_MLX.media.video import read_video, write_video


def doubled(stream: FrameStream) -> FrameStream:
    """Twice as many frames less one, as interpolation times them."""
    frames = np.repeat(stream.array(), 2, axis=0)[:-1]
    return stream.replace(
        chunks=[frames],
        frame_rate=stream.frame_rate * 2,
        num_frames=len(frames),
        times=None if stream.times is None else subdivide_times(stream.times, 2),
    )


def test_clip_cut_by_an_edit_list_has_the_frames_that_are_shown(case, copied):
    stream = read_video(case("03/opengop_cut.mp4"))
    assert (stream.num_frames, stream.frame_rate) == (25, 25)
    assert read_video(copied(case("03/opengop_cut.mp4"), ".mp4")).duration_seconds == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_joined_recordings_follow_each_other(case, copied, notes, suffix):
    stream = read_video(copied(case("05/ns2.ts"), suffix))
    assert (stream.num_frames, stream.frame_rate, stream.duration_seconds) == (60, 25, Fraction(12, 5))
    assert any("2 joined pieces" in note for note in notes.notes)


def test_joined_recordings_can_be_doubled(case, tmp_path):
    stream = read_video(write_video(doubled(read_video(case("05/ns2.ts"))), tmp_path / "a.mp4"))
    assert (stream.num_frames, stream.frame_rate) == (119, 50)


def test_frames_a_tick_apart_can_be_doubled(case, tmp_path):
    source = read_video(case("06/vfrts.ts"))
    stream = read_video(write_video(doubled(source), tmp_path / "a.mp4"))
    assert stream.num_frames == 23
    ends = (float(source.times[-2]), float(stream.times[-2]))
    assert ends[0] == pytest.approx(ends[1], abs=0.001)


def test_field_coded_video_has_a_frame_for_two_packets(case, tmp_path):
    source = read_video(case("17/paff.ts"))
    assert (source.num_frames, source.frame_rate) == (6, 25)
    assert read_video(write_video(doubled(source), tmp_path / "a.mp4")).num_frames == 11


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_empty_slots_of_an_avi_take_their_time(case, copied, suffix):
    stream = read_video(copied(case("18/a120.avi"), suffix))
    assert float(stream.duration_seconds) == pytest.approx(1.0, abs=0.05)


def test_rate_of_a_matroska_file_is_not_the_mean_of_its_rounded_times(case):
    stream = read_video(case("27/a.mkv"))
    assert stream.frame_rate == Fraction(60000, 1001) and stream.times is None


@pytest.fixture
def steady(tmp_path, clip) -> Path:
    """Twelve frames at 25 a second none of them reordered."""
    return clip(tmp_path / "steady.ts", num_frames=12, rate=25, options={"crf": "1", "bf": "0"})


@pytest.mark.parametrize(
    ("times", "moved"),
    [
        ({5: 4}, 1),
        ({5: 4, 6: 4, 7: 4}, 3),
        ({5: 3.1}, 1),
    ],
)
def test_repeated_and_backward_times_are_spaced_evenly(steady, tmp_path, monkeypatch, times, moved):
    from LTX_2_MLX.media import video

    real = video.scan_frames

    def damaged(*arguments):
        frames = real(*arguments)
        for index, stamp in times.items():
            frames.stamps[index] = frames.stamps[0] + int(stamp * 3600)
        return frames

    monkeypatch.setattr(video, "scan_frames", damaged)
    stream = read_video(steady)
    assert (stream.num_frames, stream.frame_rate, stream.times) == (12, 25, None)
    assert any(f"{moved} of 12 frames" in note for note in stream.notes)


def test_times_that_all_stand_still_are_replaced_by_the_declared_rate(steady, monkeypatch):
    from LTX_2_MLX.media import video

    real = video.scan_frames

    def standing(*arguments):
        frames = real(*arguments)
        frames.stamps[:] = [0] * len(frames.stamps)
        return frames

    monkeypatch.setattr(video, "scan_frames", standing)
    stream = read_video(steady)
    assert (stream.num_frames, stream.frame_rate, stream.times) == (12, 25, None)
    assert any("unusable" in note for note in stream.notes)


def joined(tmp_path, clip, count: int, sounds: int = 1, gap: int = 0) -> Path:
    """Transport streams with the same times, or later ones, joined byte by byte."""
    path = tmp_path / "joined.ts"
    data = b""
    for number in range(count):
        piece = clip(
            tmp_path / f"{number}.ts", num_frames=25, rate=25, sounds=sounds, video_start=Fraction(number * gap)
        )
        data += piece.read_bytes()
    path.write_bytes(data)
    return path


def test_gap_between_joined_pieces_is_closed(tmp_path, clip):
    stream = read_video(joined(tmp_path, clip, 2, sounds=0, gap=3600))
    assert stream.num_frames == 50 and float(stream.duration_seconds) == pytest.approx(2, abs=0.05)


def test_clip_without_its_end_is_refused(tmp_path, clip):
    path = clip(tmp_path / "a.mp4", num_frames=20, muxer_options={"movflags": "+faststart"})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MediaError, match="damaged"):
        read_video(path)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_joined_pieces_keep_their_sound_in_step(tmp_path, count, suffix, copied, clip):
    stream = read_video(joined(tmp_path, clip, count))
    assert stream.num_frames == 25 * count and stream.duration_seconds == count
    path = copied(tmp_path / "joined.ts", suffix)
    with av.open(str(path)) as output:
        stamps = [float(p.pts * p.time_base) for p in output.demux(audio=0) if p.pts is not None]
    assert max(stamps) == pytest.approx(count, abs=0.1)
    assert max(after - before for before, after in pairwise(stamps)) < 0.1


def test_last_frame_behind_a_gap_lasts_as_long_as_the_others(tmp_path, clip):
    times = [Fraction(index, 25) for index in range(9)] + [Fraction(9, 10)]
    stream = read_video(clip(tmp_path / "a.ts", num_frames=10, rate=25, times=times, options={"bf": "0"}))
    assert float(stream.times[-1] - stream.times[-2]) == pytest.approx(0.04, abs=0.001)
