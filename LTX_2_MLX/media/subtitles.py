"""Subtitle tracks: copied, or converted to the text subtitles that a container knows."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.subtitles.subtitle import AssSubtitle

from LTX_2_MLX.media.encoder import Container
from LTX_2_MLX.media.source import open_media
from LTX_2_MLX.media.tracks import CopiedTrack, Note, OutputTrack, Shifts, SourceTrack, TimedPackets, describe

_MILLISECOND = Fraction(1, 1000)
# The header that FFmpeg's text encoders take styles from; one default style is enough.
_ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def subtitle_tracks(
    source: InputContainer, path: Path, zero: Fraction, shifts: Shifts, container: Container, note: Note
) -> list[list[OutputTrack]]:
    """Ways to write each subtitle track of a file; tracks that are lost are reported to ``note``."""
    tracks: list[list[OutputTrack]] = []
    for stream in source.streams.subtitles:
        context = stream.codec_context
        codec = context.codec.canonical_name if context is not None else "unknown"
        track = SourceTrack(path, stream.index, codec, zero, shifts)
        if context is not None and codec in container.subtitle_codecs:
            tracks.append([CopiedTrack(track)])
        elif context is not None and context.codec.text_sub and container.text_codec is not None:
            tracks.append([TextTrack(track, container.text_codec)])
            note(f"Subtitle {track.label} is converted to {container.text_codec}, without styles.")
        else:
            note(f"Subtitle {track.label} is left out: {container.name} cannot hold it. Write .mkv to keep it.")
    return tracks


@dataclass(frozen=True)
class TextTrack:
    """A text subtitle track that is converted to another text codec, without its styles.

    Attributes:
        source: Where it comes from.
        codec: ``subrip``, ``mov_text`` or ``webvtt``.
    """

    source: SourceTrack
    codec: str

    @property
    def label(self) -> str:
        """Index and codec."""
        return self.source.label

    def loss(self, container: Container) -> str:
        """Nothing more: the conversion has been reported."""
        return ""

    def attach(self, output: OutputContainer) -> TimedPackets:
        """Add the track to ``output`` and return its packets."""
        with open_media(self.source.path, "read") as source:
            if self.codec == "mov_text":
                stream: Any = output.add_stream("mov_text")
                stream.codec_context.subtitle_header = _ASS_HEADER
                stream.codec_context.time_base = _MILLISECOND
                stream.time_base = _MILLISECOND
            else:
                stream = output.add_mux_stream(self.codec, time_base=_MILLISECOND)
            describe(stream, source.streams[self.source.index])
        return self._packets(stream)

    def _packets(self, stream: Any) -> TimedPackets:
        latest_end = 0
        for start, duration, text in _texts(self.source):
            # mov_text stores how long each line lasts, one after another: the time between two is an empty line.
            if self.codec == "mov_text" and start > latest_end:
                yield _packet(stream, b"\0\0", latest_end, start - latest_end)
            data = text.encode()
            if self.codec == "mov_text":
                data = len(data).to_bytes(2, "big") + data
            yield _packet(stream, data, max(start, latest_end), duration)
            latest_end = max(start, latest_end) + duration


def _texts(source: SourceTrack) -> Iterator[tuple[int, int, str]]:
    """Start and duration in milliseconds, and text, of each line."""
    for _, packet in source.packets():
        if packet.pts is None:
            continue
        start = round(packet.pts * packet.time_base / _MILLISECOND)
        duration = round((packet.duration or 0) * packet.time_base / _MILLISECOND)
        try:
            rects = packet.decode()
        except av.FFmpegError:
            continue
        lines = [_plain(rect.dialogue) for rect in rects if isinstance(rect, AssSubtitle)]
        text = "\n".join(line for line in lines if line)
        if text and start >= 0:
            yield start, max(1, duration), text


def _plain(dialogue: bytes) -> str:
    """Text of an ASS line without style overrides."""
    text = re.sub(r"\{[^}]*\}", "", dialogue.decode("utf-8", "replace"))
    return text.replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ").strip()


def _packet(stream: Any, data: bytes, start: int, duration: int) -> tuple[Fraction, av.Packet]:
    packet = av.Packet(data)
    packet.stream = stream
    packet.time_base = _MILLISECOND
    packet.pts = start
    packet.dts = start
    packet.duration = duration
    return start * _MILLISECOND, packet
