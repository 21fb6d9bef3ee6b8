"""Chapters, covers, fonts, time code, tags and pixel aspect: kept where the container can, else said."""

from fractions import Fraction
from pathlib import Path

import av
import pytest

from LTX_2_MLX.media.encoder import CONTAINERS
from LTX_2_MLX.media.extras import Attachment, Extras, time_code_at
from LTX_2_MLX.media.subtitles import _plain
from LTX_2_MLX.media.video import read_video, write_video
from LTX_2_MLX.media.writer import run_record

SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")
FONT = Attachment("Some Font.ttf", "application/x-truetype-font", b"\0\1\0\0" + bytes(200))


def chapters_of(path: Path) -> list[tuple[float, float, str]]:
    with av.open(str(path)) as source:
        return [
            (float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"]), c["metadata"].get("title", ""))
            for c in source.chapters()
        ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_chapters_follow_the_video_or_are_said(case, copied, notes, suffix):
    path = copied(case("11/chap.mkv"), suffix)
    if suffix == ".avi":
        assert any("2 chapters" in note for note in notes.notes)
        return
    # The first frame of the source is shown at 0.021 s.
    assert [title for _, _, title in chapters_of(path)] == ["One", "Two"]
    assert chapters_of(path)[1][0] == pytest.approx(0.2, abs=0.002)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cover_is_kept_or_said(case, copied, notes, suffix):
    path = copied(case("11/cover.mp4"), suffix)
    assert read_video(path).num_frames == 12
    cover = read_video(path).extras.cover
    if suffix in (".mp4", ".mkv"):
        assert cover == read_video(case("11/cover.mp4")).extras.cover
    else:
        assert cover is None and any("cover image" in note for note in notes.notes)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_fonts_are_kept_in_matroska_and_else_said(tmp_path, clip, notes, suffix):
    stream = read_video(clip(tmp_path / "a.mkv")).replace(extras=Extras(attachments=(FONT,)))
    path = write_video(stream, tmp_path / f"b{suffix}", progress=notes)
    if suffix == ".mkv":
        assert read_video(path).extras.attachments == (FONT,)
    else:
        assert notes.notes == [f"Not kept in {suffix}: 1 attached files."]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_time_code_is_kept_or_said(tmp_path, clip, notes, suffix):
    stream = read_video(clip(tmp_path / "a.mkv")).replace(extras=Extras(time_code="01:02:03:04"))
    path = write_video(stream, tmp_path / f"b{suffix}", progress=notes)
    if suffix == ".avi":
        assert notes.notes == ["Not kept in .avi: the time code 01:02:03:04."]
    else:
        assert read_video(path).extras.time_code == "01:02:03:04"
        assert read_video(path).extras.data_tracks == ()


def test_time_code_that_the_rate_forbids_is_left_out_and_said(tmp_path, clip, notes):
    stream = read_video(clip(tmp_path / "a.mkv")).replace(extras=Extras(time_code="01:02:03;04"))
    path = write_video(stream, tmp_path / "b.mov", progress=notes)
    assert read_video(path).extras.time_code is None
    assert any("time code 01:02:03;04" in note for note in notes.notes)


TAGS = {
    "title": "A title",
    "artist": "Some One",
    "comment": "my own comment",
    "creation_time": "2024-05-01T12:00:00.000000Z",
    "make": "Phone",
    "com.apple.quicktime.model": "Phone 15",
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tags_are_kept_or_said(tmp_path, clip, notes, suffix):
    stream = read_video(clip(tmp_path / "a.mkv")).replace(metadata=dict(TAGS))
    path = write_video(stream, tmp_path / f"b{suffix}", progress=notes)
    kept = read_video(path).metadata
    lost = {name for name in TAGS if name not in kept or kept[name][:16] != TAGS[name][:16]}
    if suffix == ".avi":
        assert lost == {"creation_time", "make", "com.apple.quicktime.model"}
        assert all(name in notes.notes[0] for name in lost)
    else:
        assert lost == set() and notes.notes == []


def test_tags_of_the_old_file_itself_are_not_copied(case, copied):
    tags = read_video(copied(case("11/cover.mp4"), ".mkv")).metadata
    assert not {"major_brand", "compatible_brands", "minor_version", "encoder"} & set(tags)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pixel_aspect_is_kept_or_said(case, copied, notes, suffix):
    path = copied(case("10/sar.mkv"), suffix)
    if suffix == ".webm":
        assert len(notes.notes) == 1 and "64/45" in notes.notes[0]
    else:
        assert read_video(path).display.pixel_aspect == Fraction(64, 45) and notes.notes == []


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp4", ".mov"])
def test_text_subtitles_are_converted(case, copied, notes, suffix):
    path = copied(case("12/multi.mp4"), suffix)
    texts = {}
    for file in (case("12/multi.mp4"), path):
        with av.open(str(file)) as source:
            stream = source.streams.subtitles[0]
            lines = []
            for packet in source.demux(stream):
                if packet.size:
                    lines += [(float(packet.pts * packet.time_base), _plain(rect.dialogue)) for rect in packet.decode()]
            texts[file] = [line for line in lines if line[1]]
            assert stream.language in ("fre", "fra")
    source_times = [start for start, _ in texts[case("12/multi.mp4")]]
    # Containers without negative times shift all tracks by the run-up of AAC, 21 ms.
    assert [start for start, _ in texts[path]] == pytest.approx(source_times, abs=0.023)
    assert [text for _, text in texts[path]] == ["Hello you äöü 你好", "Bye"]
    assert ("converted" in str(notes.notes)) is (suffix in (".mkv", ".webm"))


def test_odd_size_plays_on_apple_devices(case, tmp_path, notes):
    source = read_video(case("22/small.mp4"))
    frames = source.array()[:, :59, :]
    stream = source.replace(chunks=[frames], height=59)
    path = write_video(stream, tmp_path / "a.mp4", progress=notes)
    with av.open(str(path)) as output:
        context = output.streams.video[0].codec_context
        assert (context.pix_fmt, context.width, context.height) == ("yuv420p", 106, 60)
    assert any("106×59 is written as 106×60" in note for note in notes.notes)


def test_every_container_is_tried():
    assert {suffix for container in CONTAINERS for suffix in container.suffixes} == {*SUFFIXES, ".m4v"}


@pytest.mark.parametrize(("rate", "expected"), [(25, "01:00:00:12"), (50, "01:00:00:24"), (5, "01:00:00:02")])
def test_time_code_counts_the_frames_of_the_output(rate, expected):
    extras = Extras(time_code="01:00:00:12", time_code_rate=Fraction(25))
    assert time_code_at(extras, Fraction(rate)) == expected


def test_a_record_that_finds_no_free_tag_is_reported():
    notes = []
    free = {"comment": "mine", "description": "mine"}
    assert run_record("upscale", {}, beside=free, note=notes.append).keys() == {"comment", "description", "synopsis"}
    assert not notes
    taken = free | {"synopsis": "mine"}
    assert run_record("upscale", {}, beside=taken, note=notes.append) == taken
    assert len(notes) == 1 and "comment, description, synopsis" in notes[0]
