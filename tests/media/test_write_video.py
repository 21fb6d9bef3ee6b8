"""Writing: the same frames, times and colours in every container, whole or not at all."""

import errno
import random
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from small_streams import clip_of, grey_steps

from LTX_2_MLX import files
from LTX_2_MLX.development.odd_clips import KINDS, Plan, write_odd_clip
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media import encoder, writer
from LTX_2_MLX.media.encoder import Display
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.video import read_video, write_video

SUFFIXES = [".mp4", ".mov", ".mkv", ".avi", ".webm"]
RATES = [Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(50), Fraction(23)]


def flat_patches() -> tuple[np.ndarray, np.ndarray]:
    colours = np.random.default_rng(5).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    return colours, colours.repeat(16, axis=0).repeat(16, axis=1)[None]


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_rate_and_duration_come_back(tmp_path, suffix, rate):
    frames = grey_steps(9)
    path = write_video(clip_of(frames, rate), tmp_path / f"a{suffix}")
    stream = read_video(path)
    assert (stream.num_frames, stream.frame_rate, stream.times) == (9, rate, None)
    assert stream.duration_seconds == 9 / rate
    assert np.abs(stream.array().astype(int) - frames).max() <= 3
    if suffix in (".mp4", ".mov"):
        with av.open(str(path)) as source:
            video = source.streams.video[0]
            assert video.duration * video.time_base == 9 / rate


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_shortest_video_come_back(tmp_path, suffix, count):
    stream = read_video(write_video(clip_of(grey_steps(count), Fraction(30000, 1001)), tmp_path / f"a{suffix}"))
    assert (stream.num_frames, stream.frame_rate) == (count, Fraction(30000, 1001))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shortest_h265_video_have_times_of_their_own_every_time(tmp_path, count):
    for _ in range(12):
        path = write_video(clip_of(grey_steps(count, (64, 64))), tmp_path / "a.mov", codec="h265")
        assert read_video(path).num_frames == count


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_variable_rate_comes_back(tmp_path, suffix):
    times = tuple(Fraction(ms, 1000) for ms in (0, 40, 90, 300, 320, 500, 900))
    frames = grey_steps(6)
    stream = clip_of(frames, 6 / times[-1], times=times)
    got = read_video(write_video(stream, tmp_path / f"a{suffix}"))
    assert got.times == times
    assert np.abs(got.array().astype(int) - frames).max() <= 3


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_last_frame_after_a_gap_keeps_its_length_where_it_is_not_decoded_last(tmp_path, suffix):
    plan = Plan(num_frames=6, rate=Fraction(30_000, 1001), video_gap=(2, Fraction(58, 125)))
    source = read_video(write_odd_clip(KINDS["mkv"], plan, random.Random(1), tmp_path / "source.mkv"))
    path = write_video(source, tmp_path / f"a{suffix}")
    with av.open(str(path)) as container:
        last = [*container.decode(video=0)][-1]
    assert last.duration * last.time_base > Fraction(1, 10), "without reordering there is nothing to test"
    assert read_video(path).times == source.times


def test_same_frames_give_the_same_file_with_libx264(tmp_path, monkeypatch):
    # Large noise is what macroblock trees write differently each time.
    monkeypatch.setattr(encoder.av, "codecs_available", {"libx264"})
    blocks = np.random.default_rng(0).integers(0, 255, (9, 60, 88, 3)).astype(np.uint8)
    frames = blocks.repeat(8, axis=1).repeat(8, axis=2)
    files = {write_video(clip_of(frames), tmp_path / f"{number}.mp4").read_bytes() for number in range(5)}
    assert len(files) == 1


def test_avi_refuses_a_variable_rate_before_a_frame_is_asked_for(tmp_path):
    def never():
        raise AssertionError("a frame was made")
        yield

    times = (Fraction(0), Fraction(1, 10), Fraction(1))
    stream = FrameStream(never(), height=32, width=32, frame_rate=Fraction(2), num_frames=2, times=times)
    with pytest.raises(MediaError, match="variable frame rate"):
        write_video(stream, tmp_path / "a.avi")


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "h264"), ("a.mov", "h265"), ("a.avi", "h264"), ("a.webm", "auto"), ("a.mkv", "vp9")],
)
def test_colours_come_back_within_three_levels(tmp_path, name, codec):
    colours, frame = flat_patches()
    path = write_video(clip_of(frame), tmp_path / name, codec=codec, crf=0)
    got = read_video(path).array()[0, 8::16, 8::16].astype(int)
    assert np.abs(got - colours).max() <= 3


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_video_says_that_it_is_bt709_in_limited_range(tmp_path, suffix):
    path = write_video(clip_of(grey_steps(3)), tmp_path / f"a{suffix}")
    with av.open(str(path)) as source:
        frame = next(source.decode(video=0))
    tags = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    assert tuple(map(int, tags)) == (1, 1, 1, 1)


def test_display_comes_back(tmp_path):
    show = Display(pixel_aspect=Fraction(4, 3), primaries=9, transfer=16)
    path = write_video(clip_of(grey_steps(3), display=show), tmp_path / "a.mp4")
    assert read_video(path).display == show


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "auto"), ("a.mkv", "ffv1"), ("a.mkv", "vp9")])
def test_pixel_aspect_that_is_lost_is_said(tmp_path, notes, name, codec):
    show = Display(pixel_aspect=Fraction(4, 3))
    write_video(clip_of(grey_steps(3), display=show), tmp_path / name, codec=codec, progress=notes)
    assert len(notes.notes) == 1 and "the pixel aspect 4/3" in notes.notes[0]


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_lossless_video_is_bit_identical(tmp_path, suffix, size):
    frames = np.random.default_rng(1).integers(0, 256, (5, *size, 3)).astype(np.uint8)
    path = write_video(clip_of(frames), tmp_path / f"a{suffix}", codec="ffv1")
    np.testing.assert_array_equal(read_video(path).array(), frames)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "h264"), ("a.mp4", "h265"), ("a.webm", "vp9"), ("a.mov", "auto")]
)
@pytest.mark.parametrize("size", [(65, 96), (96, 65), (65, 67)])
def test_odd_sizes_keep_every_pixel_on_request(tmp_path, name, codec, size):
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    frame = np.stack([rows * 2, columns * 2, rows * 0 + 128], axis=-1).astype(np.uint8)
    frames = np.stack([frame] * 3)
    path = write_video(clip_of(frames), tmp_path / name, codec=codec, crf=1, exact_size=True)
    got = read_video(path).array()
    assert got.shape == frames.shape
    assert np.abs(got.astype(int) - frames)[:, -2:, -2:].max() <= 12


class Stop(BaseException):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("error", [RuntimeError, MediaError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, suffix, error):
    closed = []

    def chunks():
        try:
            yield grey_steps(60, (64, 64))
            raise error("enough")
        finally:
            closed.append(True)

    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"what was there before")
    stream = FrameStream(chunks(), height=64, width=64, frame_rate=Fraction(24), num_frames=90)
    with pytest.raises(error, match="enough"):
        write_video(stream, path)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path] and closed == [True]


def test_existing_video_is_replaced(tmp_path):
    path = write_video(clip_of(grey_steps(9)), tmp_path / "a.mp4")
    write_video(clip_of(grey_steps(4)), path)
    assert read_video(path).num_frames == 4 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"num_frames": 11}, "expected 11 frames, got 9"),
        ({"num_frames": 7}, "expected 7 frames, got 9"),
        ({"height": 48}, "expected"),
        ({"times": tuple(Fraction(index, 3) ** 2 for index in range(6))}, "more frames than the 5"),
    ],
)
def test_stream_that_does_not_hold_its_word_is_refused(tmp_path, facts, message):
    with pytest.raises(MediaError, match=message):
        write_video(clip_of(grey_steps(9)).replace(**facts), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_stream_without_a_frame_is_refused(tmp_path):
    stream = FrameStream(iter(()), height=32, width=32, frame_rate=Fraction(24))
    with pytest.raises(MediaError, match="no frames"):
        write_video(stream, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_video_that_lost_frames_on_the_disk_is_not_named(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "count_packets", lambda path: 8)
    with pytest.raises(MediaError, match="the file holds 8 of 9 frames"):
        write_video(clip_of(grey_steps(9)), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.txt", {}, "Unsupported video format"),
        ("a", {}, "Unsupported video format"),
        ("nowhere/a.mp4", {}, "mkdir -p"),
        ("a.webm", {"codec": "h264"}, "supports vp9, not h264"),
        ("a.avi", {"codec": "h265"}, "supports h264 or ffv1"),
        ("a.mp4", {"crf": 60}, "expected 0"),
        (".mp4", {}, "Unsupported video format"),
    ],
)
def test_impossible_output_is_refused_before_a_frame_is_asked_for(tmp_path, name, options, message):
    asked = []
    stream = clip_of(grey_steps(3)).replace(chunks=(asked.append(1) for _ in range(3)))
    with pytest.raises(MediaError, match=message):
        write_video(stream, tmp_path / name, **options)
    assert asked == [] and list(tmp_path.iterdir()) == []


def test_h265_refuses_sizes_that_its_encoder_cannot_take(tmp_path):
    with pytest.raises(MediaError, match="at least 64"):
        write_video(clip_of(grey_steps(3)), tmp_path / "a.mp4", codec="h265")


def test_folder_as_output_is_refused(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(MediaError, match="is a folder"):
        write_video(clip_of(grey_steps(3)), tmp_path / "a.mp4")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_folder_that_refuses_files_is_one_clear_error():
    with pytest.raises(MediaError, match=r"cannot be written|read-only"):
        write_video(clip_of(grey_steps(3)), "/proc/self/a.mp4")


def test_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_write", full)
    with pytest.raises(MediaError, match="the disk is full"):
        write_video(clip_of(grey_steps(3)), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_too_little_disk_is_refused_before_a_frame_is_asked_for(tmp_path, monkeypatch):
    asked = []
    stream = clip_of(grey_steps(3)).replace(chunks=(asked.append(1) for _ in range(3)), num_frames=400_000)
    monkeypatch.setattr(files, "free_bytes", lambda path: 2 * 2**20)
    with pytest.raises(MediaError, match="needs about 3 MiB of disk, 2 MiB are free"):
        write_video(stream, tmp_path / "a.mp4")
    assert asked == [] and list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys, numpy as np
from fractions import Fraction
from LTX_2_MLX import FrameStream, write_video
from LTX_2_MLX.errors import MediaError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
noise = (np.random.default_rng(i).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8) for i in range(30))
try:
    write_video(FrameStream(noise, height=64, width=64, frame_rate=Fraction(24), num_frames=30), sys.argv[1])
except MediaError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_that_cannot_grow_is_one_clear_error(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout or "was not written" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_progress_hears_every_frame(tmp_path, notes):
    write_video(clip_of(grey_steps(5)), tmp_path / "a.mp4", progress=notes)
    assert notes.steps == [("write", done, 5) for done in range(1, 6)]


def test_stream_saves_itself(tmp_path):
    assert clip_of(grey_steps(3)).save(tmp_path / "a.mkv", codec="ffv1") == tmp_path / "a.mkv"
    assert read_video(tmp_path / "a.mkv").num_frames == 3


def test_frames_are_computed_while_others_are_encoded_and_few_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_MOST_WAITING", 2)
    threads, ahead = set(), []
    encoded = writer._VideoPackets._frame

    def frame(self, image):
        threads.add(threading.get_ident())
        ahead.append(computed[0] - self.num_encoded)
        time.sleep(0.005)
        return encoded(self, image)

    computed = [0]

    def frames():
        for image in grey_steps(30):
            computed[0] += 1
            yield image[None]

    monkeypatch.setattr(writer._VideoPackets, "_frame", frame)
    stream = clip_of(grey_steps(30)).replace(chunks=frames())
    assert read_video(write_video(stream, tmp_path / "a.mp4")).num_frames == 30
    assert threading.get_ident() not in threads and len(threads) == 1
    # One is encoded, three places of the queue, one that is put.
    assert 1 < max(ahead) <= 5
    assert writer.waiting_bytes(32, 48) == 2 * 32 * 48 * 3


def test_the_same_frames_make_the_same_file_every_time(tmp_path):
    frames = np.random.default_rng(3).integers(0, 255, (17, 4, 6, 3), dtype=np.uint8).repeat(32, 1).repeat(32, 2)
    files = {write_video(clip_of(frames), tmp_path / "a.mp4").read_bytes() for _ in range(12)}
    assert len(files) == 1


@pytest.mark.parametrize("error", [MediaError("no more frames"), KeyboardInterrupt()])
def test_an_error_while_frames_are_computed_ends_the_encoders_thread(tmp_path, error):
    def frames():
        yield grey_steps(3)
        raise error

    before = threading.active_count()
    with pytest.raises(type(error)) as raised:
        write_video(clip_of(grey_steps(9)).replace(chunks=frames()), tmp_path / "a.mp4")
    assert raised.value is error
    assert not list(tmp_path.iterdir()) and threading.active_count() == before


@pytest.mark.parametrize("most", [1, 16])
def test_an_error_of_the_encoder_is_raised_here_and_stops_the_frames(tmp_path, monkeypatch, most):
    monkeypatch.setattr(writer, "_MOST_WAITING", most)
    computed = []

    def frames():
        for number in range(1000):
            computed.append(number)
            yield grey_steps(1) if number < 4 else grey_steps(1, size=(16, 16))

    with pytest.raises(MediaError, match="Frame 4 is"):
        write_video(clip_of(grey_steps(1)).replace(chunks=frames(), num_frames=1000), tmp_path / "a.mp4")
    assert len(computed) < 60 and not list(tmp_path.iterdir())


def test_video_whose_name_reads_like_a_protocol_is_written_and_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(clip_of(grey_steps(3)), "file:first.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["file:first.mp4"]
    assert read_video("file:first.mp4").num_frames == 3
