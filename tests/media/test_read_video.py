"""Reading: every frame once, upright, in the right colours, with its time."""

import os
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media import video
from LTX_2_MLX.media.source import begins_as_video, ffmpeg_messages
from LTX_2_MLX.media.video import read_video

RATES = [Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(50), Fraction(12)]
CODECS = {
    ".mp4": "libx264",
    ".mov": "libx264",
    ".mkv": "libx264",
    ".avi": "mpeg4",
    ".webm": "libvpx-vp9",
    ".ts": "libx264",
}


def greys(stream) -> list[int]:
    """The grey of each frame's middle: its number, as ``frame_of`` writes it."""
    return [int(frame[stream.height // 2, stream.width // 2].mean()) for frame in stream.frames()]


def test_level_of_messages_is_restored_after_all_threads():
    before = av.logging.get_level()
    first, second = ffmpeg_messages(), ffmpeg_messages()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert av.logging.get_level() == av.logging.ERROR
    second.__exit__(None, None, None)
    assert av.logging.get_level() == before


def test_sample_clip_is_read_whole(pebbles):
    stream = read_video(pebbles)
    assert (stream.height, stream.width, stream.frame_rate, stream.num_frames) == (112, 160, 12, 12)
    assert stream.times is None and stream.audio is not None and stream.duration_seconds == 1
    frames = stream.array()
    assert frames.shape == (12, 112, 160, 3) and frames.dtype == np.uint8


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("suffix", CODECS)
def test_count_order_and_rate_are_exact(tmp_path, clip, suffix, rate):
    path = clip(tmp_path / f"a{suffix}", codec=CODECS[suffix], rate=rate, num_frames=9)
    stream = read_video(path)
    if suffix != ".avi":
        assert stream.num_frames == 9
    assert stream.frame_rate == rate and stream.times is None
    assert np.allclose(greys(stream), [20 + 9 * index for index in range(9)], atol=3)


def test_a_rate_can_be_given_for_a_video_that_has_none(tmp_path, clip):
    bare, told = (clip(tmp_path / name, rate=12, num_frames=3) for name in ("a.h264", "a.mkv"))
    assert read_video(bare, unknown_rate=Fraction(30000, 1001)).frame_rate == Fraction(30000, 1001)
    assert read_video(told, unknown_rate=Fraction(30000, 1001)).frame_rate == 12
    assert read_video(bare).num_frames == 3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
def test_one_frame_keeps_its_rate(tmp_path, clip, suffix):
    codec = {".webm": "libvpx-vp9", ".avi": "ffv1"}.get(suffix, "libx264")
    stream = read_video(
        clip(
            tmp_path / f"a{suffix}",
            rate=Fraction(30000, 1001),
            num_frames=1,
            codec=codec,
            options={"crf": "1"} if codec != "ffv1" else {},
        )
    )
    assert stream.num_frames == 1 and stream.array().shape[0] == 1
    assert stream.frame_rate == Fraction(30000, 1001)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate_keeps_every_frame_and_its_time(tmp_path, clip, suffix):
    times = [Fraction(ms, 1000) for ms in (0, 40, 90, 300, 320, 500, 900)]
    stream = read_video(clip(tmp_path / f"a{suffix}", times=times))
    assert stream.num_frames == 7 and list(stream.times[:-1]) == times and stream.times[-1] > times[-1]
    assert stream.frame_rate == pytest.approx(7 / stream.duration_seconds, rel=1e-4)
    assert len(greys(stream)) == 7


def test_one_frame_missing_from_a_steady_rate_makes_it_variable(tmp_path, clip):
    times = [Fraction(index, 30) for index in (0, 1, 2, 4, 5, 6, 7)]
    assert read_video(clip(tmp_path / "a.mkv", times=times, rate=30)).times is not None


# Nine numbers as mp4 stores them, and what a player does with the image.
ONE, NONE = 65536, 0
TURNED = {
    "quarter": ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, -1)),
    "half": ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, 2)),
    "three quarters": ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, 1)),
    "mirror": ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), np.fliplr),
    "upside down": ((ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), np.flipud),
    "transposed": ((0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), lambda p: p.swapaxes(0, 1)),
}


@pytest.mark.parametrize("turn", TURNED)
def test_turned_video_is_read_upright(tmp_path, clip, turn):
    matrix, upright = TURNED[turn]
    plain = read_video(clip(tmp_path / "plain.mp4", num_frames=2, size=(36, 64))).array()
    stream = read_video(clip(tmp_path / "turned.mp4", num_frames=2, size=(36, 64), display_matrix=matrix))
    wanted = np.stack([upright(frame) for frame in plain])
    assert (stream.height, stream.width) == wanted.shape[1:3]
    np.testing.assert_array_equal(stream.array(), wanted)


def test_turn_agrees_with_the_angle_that_ffmpeg_names(tmp_path, clip):
    path = clip(tmp_path / "a.mp4", num_frames=1, display_matrix=TURNED["quarter"][0])
    with av.open(str(path)) as source:
        # FFmpeg counts against the clock.
        assert next(source.decode(video=0)).rotation in (-90, 270)


def test_slanted_video_is_refused(tmp_path, clip):
    path = clip(tmp_path / "a.mp4", num_frames=1, display_matrix=(46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30))
    with pytest.raises(MediaError, match="multiple of 90"):
        read_video(path)


def patches() -> tuple[np.ndarray, np.ndarray]:
    """24 colours, and a image of them in flat squares."""
    colours = np.random.default_rng(3).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    return colours, colours.repeat(16, axis=0).repeat(16, axis=1)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv422p10le", "yuv420p10le"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 9])
def test_colours_follow_the_files_matrix_range_and_depth(tmp_path, clip, matrix, full_range, pixel_format):
    colours, image = patches()
    path = clip(
        tmp_path / "a.mkv",
        num_frames=1,
        size=image.shape[:2],
        images=[image],
        matrix=matrix,
        full_range=full_range,
        pixel_format=pixel_format,
    )
    got = read_video(path).array()[0, 8::16, 8::16].astype(int)
    assert np.abs(got - colours).max() <= 3


@pytest.mark.parametrize(("size", "matrix"), [((64, 96), 5), ((64, 1280), 1)])
def test_untagged_colours_are_taken_as_players_take_them(tmp_path, clip, size, matrix):
    colours, image = patches()
    image = np.ascontiguousarray(np.tile(image, (1, size[1] // 96 + 1, 1))[:, : size[1]])
    path = clip(tmp_path / "a.mkv", num_frames=1, size=size, images=[image], matrix=matrix, tagged=False)
    assert np.abs(read_video(path).array()[0, 8::16, 8:96:16].astype(int) - colours).max() <= 3


@pytest.mark.parametrize("pixel_format", ["bgr0", "gray", "yuva420p"])
def test_other_pixel_formats_are_read(tmp_path, clip, pixel_format, numbered):
    stream = read_video(clip(tmp_path / "a.mkv", codec="ffv1", options={}, pixel_format=pixel_format, num_frames=2))
    image = stream.array()[1]
    wanted = numbered(1, 48, 64)
    assert np.abs(image[24, 32].astype(int) - wanted[24, 32]).max() <= 2
    if pixel_format == "bgr0":
        np.testing.assert_array_equal(image, wanted)


@pytest.mark.parametrize("size", [(47, 63), (33, 64), (48, 35)])
def test_odd_sizes_keep_every_pixel(tmp_path, clip, size, numbered):
    stream = read_video(clip(tmp_path / "a.mkv", codec="ffv1", options={}, pixel_format="bgr0", size=size))
    np.testing.assert_array_equal(stream.array()[3], numbered(3, *size))


def test_chunks_are_bounded_by_bytes(tmp_path, clip):
    large = read_video(clip(tmp_path / "a.mp4", size=(1080, 1920), num_frames=9, options={"preset": "ultrafast"}))
    lengths = [len(chunk) for chunk in large]
    assert sum(lengths) == 9 and max(lengths) * 1080 * 1920 * 3 <= 32 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_closing_early_closes_the_file(tmp_path, clip):
    path = clip(tmp_path / "a.mp4", num_frames=40, size=(16, 16))
    before = len(os.listdir("/proc/self/fd"))
    stream = read_video(path)
    next(iter(stream))
    assert len(os.listdir("/proc/self/fd")) > before
    stream.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(stream) == []


def test_video_cut_out_of_another_begins_with_its_first_whole_frame(tmp_path, clip):
    whole = clip(tmp_path / "whole.mp4", num_frames=12, options={"crf": "1", "g": "5", "bf": "0", "sc_threshold": "0"})
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.ts"), "w") as output:
        video = output.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            # The key frames are 0, 5 and 10; frames 2 to 4 refer to what is gone.
            if packet.size and index >= 2:
                packet.stream = video
                output.mux(packet)
    stream = read_video(tmp_path / "cut.ts")
    assert stream.num_frames == 7
    assert np.allclose(greys(stream), [20 + 9 * index for index in range(5, 12)], atol=3)


def animated(path, format):
    frames = [Image.fromarray(np.full((8, 9, 3), 60 * index, dtype=np.uint8)) for index in range(3)]
    frames[0].save(path, format=format, save_all=True, append_images=frames[1:])
    return path


@pytest.mark.parametrize(("name", "format"), [("a.gif", "GIF"), ("a.webp", "WEBP"), ("a.png", "PNG"), ("a.mp4", "GIF")])
def test_animated_image_is_refused_by_its_content(tmp_path, name, format):
    with pytest.raises(MediaError, match=rf"animated image \({format}\)"):
        read_video(animated(tmp_path / name, format))


@pytest.mark.parametrize("suffix", CODECS)
def test_only_a_file_that_begins_as_no_container_is_looked_at_as_an_image(tmp_path, clip, monkeypatch, suffix):
    looked_at = []
    monkeypatch.setattr(video, "refuse_images", looked_at.append)
    path = clip(tmp_path / f"a{suffix}", codec=CODECS[suffix])
    assert read_video(path).num_frames == 7
    # Transport streams begin with one byte of their own alone.
    assert looked_at == ([path] if suffix == ".ts" else [])


@pytest.mark.parametrize("format", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP"])
def test_no_image_begins_as_a_container_of_videos(tmp_path, format):
    path = tmp_path / "a.mp4"
    Image.new("RGB", (9, 8)).save(path, format)
    assert not begins_as_video(path)
    with pytest.raises(MediaError, match=rf"still image \({format}\)"):
        read_video(path)


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    (tmp_path / "text.mp4").write_text("no video at all\n" * 40)
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mka"), "w") as output:
        track = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        output.mux([*track.encode(sound), *track.encode(None)])
    cases = {
        "still.png": "still image",
        "text.mp4": "cannot be read as video|holds no video",
        "empty.mp4": "is empty, it has 0 bytes",
        "sound.mka": "holds no video, only audio",
        "missing.mp4": "does not exist",
        ".": "is a folder",
    }
    for name, message in cases.items():
        with pytest.raises(MediaError, match=message) as caught:
            read_video(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_cover_image_of_a_song_is_no_video(tmp_path):
    path = tmp_path / "song.mp3"
    Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / "cover.png")
    with av.open(str(path), "w") as output:
        track = output.add_stream("libmp3lame", rate=48_000)
        cover = output.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_image(Image.open(tmp_path / "cover.png"))
        output.mux(cover.encode(image))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 48_000
        resampler = av.AudioResampler(format="fltp", layout=track.layout, rate=48_000, frame_size=1152)
        for frame in resampler.resample(sound):
            output.mux(track.encode(frame))
        output.mux(track.encode(None))
    with pytest.raises(MediaError, match="holds no video"):
        read_video(path)


@pytest.mark.parametrize("muxer", [{}, {"movflags": "+faststart"}])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_video_cut_short_is_refused(tmp_path, clip, muxer, share):
    noise = list(np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3)).astype(np.uint8))
    path = clip(tmp_path / "a.mp4", num_frames=9, images=noise, muxer_options=muxer)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(MediaError):
        read_video(path).array()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm"])
def test_damaged_bytes_never_do_worse_than_a_clear_error(tmp_path, clip, suffix):
    path = clip(tmp_path / f"a{suffix}", codec=CODECS[suffix], num_frames=5)
    whole = path.read_bytes()
    random = np.random.default_rng(7)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 6):
            damaged[place] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:
            stream = read_video(path)
            frames = sum(len(chunk) for chunk in stream)
        except MediaError as error:
            assert "\n" not in str(error)
        else:
            assert stream.num_frames in (None, frames)
