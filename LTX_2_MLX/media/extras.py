"""Contents of a video file beside its tracks and tags: chapters, cover image, fonts and time code."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer

from LTX_2_MLX.media.encoder import Container
from LTX_2_MLX.media.source import COVER
from LTX_2_MLX.media.tracks import Note

_COVER_SUFFIXES = {"mjpeg": ".jpg", "png": ".png", "bmp": ".bmp", "gif": ".gif", "webp": ".webp"}
_COVER_TYPES = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".webp": "image/webp",
}


@dataclass(frozen=True)
class Chapter:
    """A chapter: start and end in seconds from the first frame, and its tags."""

    start: Fraction
    end: Fraction
    tags: dict[str, str]


@dataclass(frozen=True)
class Attachment:
    """A file inside a video file, such as a font."""

    name: str
    mime_type: str
    data: bytes


@dataclass(frozen=True)
class Cover:
    """A cover image: FFmpeg's name of its codec, size in pixels and the file itself."""

    codec: str
    height: int
    width: int
    data: bytes


@dataclass(frozen=True)
class Extras:
    """What a file holds beside its tracks and tags.

    Attributes:
        chapters: In order.
        attachments: Fonts and other files.
        cover: None without one.
        time_code: Of the first frame, ``01:00:00:00``; None without one.
        time_code_rate: Frames per second that it counts by; None: those of the output.
        data_tracks: Kinds of tracks that are never kept, such as telemetry.
    """

    chapters: tuple[Chapter, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    cover: Cover | None = None
    time_code: str | None = None
    time_code_rate: Fraction | None = None
    data_tracks: tuple[str, ...] = ()


def read_extras(source: InputContainer, video: Any, start: Fraction, rate: Fraction) -> Extras:
    """Read what a file holds beside its tracks.

    Args:
        source: The open file; a cover is read from its packets.
        video: Its video stream.
        start: Time of the first frame in the file's clock, in seconds.
        rate: Frames per second.
    """
    cover = None
    for stream in source.streams.video:
        if stream.disposition & COVER and cover is None:
            cover = _cover(source, stream)
    data_tracks = []
    for track in source.streams.data:
        # The track of the time code itself is made again.
        if track.name != "timed_id3" and "timecode" not in track.metadata:
            data_tracks.append(track.name or "unknown")
    time_code = _time_code(source, video)
    return Extras(
        chapters=tuple(_chapters(source, start)),
        attachments=tuple(_attachments(source)),
        cover=cover,
        time_code=time_code,
        time_code_rate=None if time_code is None else rate,
        data_tracks=tuple(data_tracks),
    )


def _chapters(source: InputContainer, start: Fraction) -> list[Chapter]:
    chapters = []
    for chapter in source.chapters():
        tick = chapter["time_base"] or Fraction(0)
        begin = max(Fraction(0), chapter["start"] * tick - start)
        end = max(begin, chapter["end"] * tick - start)
        chapters.append(Chapter(begin, end, dict(chapter["metadata"])))
    return chapters


def _attachments(source: InputContainer) -> list[Attachment]:
    attachments = []
    for stream in source.streams.attachments:
        data = stream.data
        if data:
            name = Path(stream.metadata.get("filename", f"attachment{stream.index}")).name
            attachments.append(Attachment(name, stream.mimetype or "application/octet-stream", data))
    return attachments


def _cover(source: InputContainer, stream: Any) -> Cover | None:
    if stream.codec_context is None:
        return None
    for packet in source.demux(stream):
        if packet.size:
            context = stream.codec_context
            return Cover(context.codec.canonical_name, context.height, context.width, bytes(packet))
    return None


def _time_code(source: InputContainer, video: Any) -> str | None:
    for holder in (source, video, *source.streams.data):
        for name, text in holder.metadata.items():
            if name.lower() == "timecode":
                return str(text)
    return None


def write_extras(
    output: OutputContainer, video: Any, extras: Extras, container: Container, rate: Fraction, lead: Fraction
) -> list[av.Packet]:
    """Add all that the container holds to an output; returns packets to write first.

    Args:
        output: Before anything is written to it.
        video: Its video stream.
        extras: What to add.
        container: The kind of the output.
        rate: Frames per second of the output.
        lead: Seconds before the first frame.
    """
    if container.chapters and extras.chapters:
        chapters: Any = [_chapter_entry(number, each, lead) for number, each in enumerate(extras.chapters)]
        output.set_chapters(chapters)
    time_code = time_code_at(extras, rate)
    if container.time_code and time_code is not None:
        video.metadata["timecode"] = time_code
    if container.attachments:
        for attachment in extras.attachments:
            output.add_attachment(attachment.name, attachment.mime_type, attachment.data)
    if extras.cover is None:
        return []
    suffix = _COVER_SUFFIXES.get(extras.cover.codec)
    if container.cover == "attachment" and suffix is not None:
        output.add_attachment(f"cover{suffix}", _COVER_TYPES[suffix], extras.cover.data)
    elif container.cover == "track" and suffix is not None:
        return [_cover_packet(output, extras.cover)]
    return []


def time_code_at(extras: Extras, rate: Fraction) -> str | None:
    """Time code of the first frame, counted by another frame rate; None without one, or if the rate has none.

    Time codes that drop numbers, ``01:00:00;00``, exist at 30000/1001 and 60000/1001 frames per second only.
    """
    match = re.fullmatch(r"(\d\d:\d\d:\d\d)([:;.])(\d{2,3})", extras.time_code or "")
    if match is None:
        return None
    seconds, separator, frame = match.groups()
    if separator != ":" and rate not in (Fraction(30000, 1001), Fraction(60000, 1001)):
        return None
    number = round(int(frame) * rate / (extras.time_code_rate or rate))
    return f"{seconds}{separator}{number:02}" if number < round(rate) else None


def _chapter_entry(number: int, chapter: Chapter, lead: Fraction) -> dict[str, Any]:
    tick = Fraction(1, 1000)
    return {
        "id": number + 1,
        "start": round((chapter.start + lead) / tick),
        "end": round((chapter.end + lead) / tick),
        "time_base": tick,
        "metadata": chapter.tags,
    }


def _cover_packet(output: OutputContainer, cover: Cover) -> av.Packet:
    stream = output.add_mux_stream(cover.codec, width=cover.width, height=cover.height)
    stream.disposition = av.stream.Disposition.attached_pic
    packet = av.Packet(cover.data)
    packet.stream = stream
    packet.time_base = Fraction(1, 90_000)
    packet.pts = 0
    packet.dts = 0
    return packet


def lost_extras(extras: Extras, tags: dict[str, str], container: Container, rate: Fraction, note: Note) -> None:
    """Report what a container cannot hold."""
    lost = []
    if extras.chapters and not container.chapters:
        lost.append(f"{len(extras.chapters)} chapters")
    if extras.cover is not None and (container.cover is None or extras.cover.codec not in _COVER_SUFFIXES):
        lost.append("the cover image")
    if extras.attachments and not container.attachments:
        lost.append(f"{len(extras.attachments)} attached files")
    if extras.time_code is not None and (not container.time_code or time_code_at(extras, rate) is None):
        lost.append(f"the time code {extras.time_code}")
    for name in extras.data_tracks:
        lost.append(f"the data track {name}")
    lost_tags = [name for name in tags if not container.holds_tag(name)]
    if lost_tags:
        lost.append(f"the tags {', '.join(lost_tags)}")
    if lost:
        note(f"Not kept in {container.suffixes[0]}: {', '.join(lost)}.")
