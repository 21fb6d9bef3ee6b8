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
# PyAV has no encoder of DTS: three frames of video with a tenth of a second of it.
_DTS = Path(__file__).parent / "dts.mkv"
_IDS = [container.suffixes[0] for container in CONTAINERS]
# What a packet of each kind of subtitles holds; of images, as little as a decoder or a muxer asks for.
_SUBTITLES = {
    "subrip": b"Hello",
    "ass": b"0,0,Default,,0,0,0,,{\\b1}Hello{\\b0}",
    "webvtt": b"Hello",
    "mov_text": b"\0\5Hello",
    "dvd_subtitle": b"\0\x10" + bytes(14),
    "dvb_subtitle": b"\x20\0" + bytes(14),
    "hdmv_pgs_subtitle": bytes.fromhex("16000b003000201000008000000017000100800000"),
}
_SUBTITLE_SUFFIXES = {"mov_text": ".mp4", "dvb_subtitle": ".ts"}


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
    own = [codec for codec in AUDIO_CODECS if codec != "dts"]
    return {"dts": _DTS} | {
        codec: write_sound(folder / f"{codec}{_SUFFIXES.get(codec, '.mkv')}", codec) for codec in own
    }


@pytest.mark.parametrize("container", CONTAINERS, ids=_IDS)
def test_sound_becomes_what_its_table_says(clips, tmp_path, notes, container):
    suffix = container.suffixes[0]
    for codec in AUDIO_CODECS:
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
        packet = av.Packet(_SUBTITLES[codec])
        packet.stream, packet.time_base = track, Fraction(1, 1000)
        packet.pts = packet.dts = 100
        packet.duration = 200
        output.mux(packet)
    return path


@pytest.mark.parametrize("container", CONTAINERS, ids=_IDS)
@pytest.mark.parametrize("codec", SUBTITLE_CODECS)
def test_subtitles_become_what_their_table_says(tmp_path, notes, codec, container):
    suffix = container.suffixes[0]
    source = write_subtitles(tmp_path / f"a{_SUBTITLE_SUFFIXES.get(codec, '.mkv')}", codec)
    path = write_video(read_video(source), tmp_path / f"b{suffix}", progress=notes)
    with av.open(str(path)) as output:
        written = [stream.codec_context.codec.canonical_name for stream in output.streams.subtitles]
        packets = [bytes(packet) for packet in output.demux(output.streams.subtitles) if packet.size > 2]
    outcome = cells(subtitle_table(), suffix, codec)
    assert outcome == subtitle_outcome(codec, container)
    assert written == {COPIED: [codec], LEFT_OUT: []}.get(outcome, [outcome])
    assert bool(notes.notes) == (outcome != COPIED)
    if written:
        # Text keeps its words, without its styles where it is converted; images keep every byte.
        text = b"Hello" if b"Hello" in _SUBTITLES[codec] else _SUBTITLES[codec]
        assert len(packets) == 1 and text in packets[0]
        assert outcome == COPIED or b"{" not in packets[0]


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


@pytest.mark.parametrize("container", CONTAINERS, ids=_IDS)
def test_codecs_and_tags_are_those_of_the_table(clip, tmp_path, container):
    suffix, row = container.suffixes[0], ", ".join(container.suffixes)
    source = clip(tmp_path / "a.mkv", num_frames=3, size=(64, 96))
    held = cells(video_table(), "codecs", row).split(", ")
    for codec in ("h264", "h265", "vp9", "ffv1"):
        try:
            path = write_video(read_video(source), tmp_path / f"b{suffix}", codec=codec)
        except MediaError:
            assert codec not in held
        else:
            assert codec in held and read_video(path).num_frames == 3
    tags = {"title": "One", "artist": "Two", "comment": "Three", "com.apple.quicktime.make": "Four", "mood": "Five"}
    path = write_video(read_video(source).replace(metadata=tags), tmp_path / f"c{suffix}")
    kept = cells(video_table(), "tags", row)
    got = read_video(path).metadata
    for name, text in tags.items():
        assert (got.get(name) == text) == (kept == "all" or name in kept.split(", ")), name


@pytest.mark.parametrize("container", CONTAINERS, ids=_IDS)
def test_tracks_begin_late_where_the_table_says(clip, tmp_path, container):
    suffix, row = container.suffixes[0], ", ".join(container.suffixes)
    source = clip(tmp_path / "a.mkv", num_frames=12, sounds=1, sound_start=Fraction(1, 4))
    path = write_video(read_video(source), tmp_path / f"b{suffix}")
    with av.open(str(path)) as output:
        track = output.streams.audio[0]
        first = next(packet for packet in output.demux(track) if packet.size)
        late = float(first.pts * first.time_base) > 0.1
    assert late == (cells(video_table(), "tracks that begin late", row) == "yes")
