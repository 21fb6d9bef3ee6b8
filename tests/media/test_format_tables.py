"""The tables of what each format keeps, held against what is written."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.encoder import CONTAINERS
from LTX_2_MLX.media.extras import Attachment, Chapter, Cover, Extras
from LTX_2_MLX.media.format_tables import (
    AUDIO_CODECS,
    COPIED,
    LEFT_OUT,
    SUBTITLE_CODECS,
    audio_outcome,
    sound_table,
    subtitle_outcome,
    subtitle_table,
    video_table,
)
from LTX_2_MLX.media.video import read_video, write_video

_ENCODERS = {"mp3": "libmp3lame", "opus": "libopus"}
_SUFFIXES = {"wmav2": ".wmv", "adpcm_ima_wav": ".avi", "pcm_alaw": ".avi"}
# PyAV has no encoder of DTS.
_WRITTEN = [codec for codec in AUDIO_CODECS if codec != "dts"]
_IDS = [container.suffixes[0] for container in CONTAINERS]
_BITMAPS = ("dvd_subtitle", "dvb_subtitle", "hdmv_pgs_subtitle")


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def cells(table: str, column: str, row: str) -> str:
    header, _, *others = rows(table)
    return {each[0]: each for each in others}[row][header.index(column)]


def write_sound(path: Path, codec: str) -> Path:
    """A clip of ten frames with a sound track of the codec."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("mpeg4", rate=25)
        video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
        track = output.add_stream(_ENCODERS.get(codec, codec), rate=48_000, options={"strict": "experimental"})
        track.codec_context.layout = "stereo"
        track.codec_context.bit_rate = 96_000
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 * index, np.uint8), format="rgb24")
            frame.pts = index
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        track.codec_context.open(strict=False)
        samples = np.sin(np.arange(2 * 19_200, dtype=np.float32) / 9)[None] / 2
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        context = track.codec_context
        resampler = av.AudioResampler(context.format, context.layout, context.sample_rate, context.frame_size or 1024)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(track.encode(piece))
        output.mux(track.encode(None))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sounds")
    return {codec: write_sound(folder / f"{codec}{_SUFFIXES.get(codec, '.mkv')}", codec) for codec in _WRITTEN}


@pytest.mark.parametrize("container", CONTAINERS, ids=_IDS)
def test_sound_becomes_what_its_table_says(clips, tmp_path, notes, container):
    suffix = container.suffixes[0]
    for codec in _WRITTEN:
        path = write_video(read_video(clips[codec]), tmp_path / f"{codec}{suffix}", progress=notes)
        with av.open(str(path)) as output:
            written = output.streams.audio[0].codec_context.codec.canonical_name
        outcome = audio_outcome(codec, container)
        assert cells(sound_table(), suffix, codec) == outcome
        # AVI begins all tracks together: a run-up is cut by encoding, which is said.
        is_cut = suffix == ".avi" and any(f"({codec}) is re-encoded" in note for note in notes.notes)
        expected = codec if outcome == COPIED else outcome
        assert written == ("pcm_s16le" if is_cut else expected), codec


def write_subtitles(path: Path, codec: str) -> Path:
    with av.open(str(path), "w") as output:
        video = output.add_stream("mpeg4", rate=25)
        video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
        track = output.add_mux_stream(codec, time_base=Fraction(1, 1000))
        output.start_encoding()
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 * index, np.uint8), format="rgb24")
            frame.pts = index
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        packet = av.Packet(b"Hello")
        packet.stream, packet.time_base = track, Fraction(1, 1000)
        packet.pts = packet.dts = 100
        packet.duration = 200
        output.mux(packet)
    return path


@pytest.mark.parametrize("container", CONTAINERS, ids=_IDS)
@pytest.mark.parametrize("codec", ["subrip", "webvtt"])
def test_subtitles_become_what_their_table_says(tmp_path, notes, codec, container):
    suffix = container.suffixes[0]
    source = write_subtitles(tmp_path / "a.mkv", codec)
    path = write_video(read_video(source), tmp_path / f"b{suffix}", progress=notes)
    with av.open(str(path)) as output:
        written = [stream.codec_context.codec.canonical_name for stream in output.streams.subtitles]
    outcome = cells(subtitle_table(), suffix, codec)
    assert written == {COPIED: [codec], LEFT_OUT: []}.get(outcome, [outcome])
    assert bool(notes.notes) == (outcome != COPIED)


def test_images_of_text_are_copied_to_matroska_alone():
    for codec in _BITMAPS:
        outcomes = [subtitle_outcome(codec, container) for container in CONTAINERS]
        assert outcomes == [COPIED if name == ".mkv" else LEFT_OUT for name in _IDS]
    assert set(_BITMAPS) < set(SUBTITLE_CODECS)


def _kept(stream, path: Path) -> dict[str, str]:
    """Columns of the video table by what is found in a written file."""
    info = read_video(path)
    found = {
        "chapters": info.extras.chapters,
        "cover image": info.extras.cover,
        "fonts": info.extras.attachments,
        "time code": info.extras.time_code,
        "pixel aspect": info.display.pixel_aspect != 1,
    }
    return {name: "yes" if held else "no" for name, held in found.items()}


@pytest.mark.parametrize("container", CONTAINERS, ids=_IDS)
def test_video_keeps_what_its_table_says(clip, case_cover, tmp_path, container):
    suffix = container.suffixes[0]
    stream = read_video(clip(tmp_path / "a.mkv", num_frames=12))
    extras = Extras(
        chapters=(Chapter(Fraction(0), Fraction(1, 4), {"title": "One"}),),
        attachments=(Attachment("a.ttf", "application/x-truetype-font", b"\0\1\0\0" + bytes(99)),),
        cover=case_cover,
        time_code="01:02:03:04",
    )
    display = stream.display.__class__(pixel_aspect=Fraction(4, 3))
    path = write_video(stream.replace(extras=extras, display=display), tmp_path / f"b{suffix}")
    row = ", ".join(container.suffixes)
    for column, held in _kept(stream, path).items():
        assert cells(video_table(), column, row) == held, column


@pytest.fixture
def case_cover() -> Cover:
    image = av.VideoFrame.from_ndarray(np.full((16, 24, 3), 99, np.uint8), format="rgb24")
    context = av.CodecContext.create("png", "w")
    context.height, context.width, context.pix_fmt, context.time_base = 16, 24, "rgb24", Fraction(1, 25)
    (packet,) = [*context.encode(image), *context.encode(None)]
    return Cover("png", 16, 24, bytes(packet))


@pytest.mark.parametrize("container", CONTAINERS, ids=_IDS)
def test_variable_rates_and_ten_bits_are_held_or_refused_as_the_table_says(clip, tmp_path, container):
    suffix, row = container.suffixes[0], ", ".join(container.suffixes)
    source = clip(tmp_path / "a.mkv", num_frames=4, size=(64, 96))
    times = tuple(Fraction(each, 10) for each in (0, 1, 3, 4, 5))
    for column, stream in (
        ("variable rate", read_video(source).replace(times=times, frame_rate=Fraction(8))),
        ("10 bits and HDR data", read_video(source, bit_depth=10)),
    ):
        held = cells(video_table(), column, row)
        try:
            write_video(stream, tmp_path / f"b{suffix}")
        except MediaError:
            assert held == "no", column
        else:
            assert held == "yes", column
