"""Tracks beside the video: what an output file gets, and the packets of each.

A track is described before the output is opened: writing it is tried out before the work, so that no container
refuses it after the last frame is computed.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
from av.container import OutputContainer

from LTX_2_MLX.media.encoder import Container
from LTX_2_MLX.media.source import ffmpeg_messages, open_media, reason
from LTX_2_MLX.media.timeline import Shifts

# Time in seconds at which the packet is due, and the packet.
TimedPackets = Iterator[tuple[Fraction, av.Packet]]
Note = Callable[[str], None]
_TRACK_TAGS = ("language", "title")
# QuickTime knows these languages by one of their two codes only.
_QUICKTIME_LANGUAGES = {
    "fre": "fra", "deu": "ger", "nld": "dut", "ell": "gre", "isl": "ice", "zho": "chi", "sqi": "alb", "rum": "ron",
    "cze": "ces", "slo": "slk", "swe": "sve",
}  # fmt: skip
# Packets before the first frame that a decoder needs to start; more of them would only delay the video.
_PREROLL_SECONDS = Fraction(1, 10)
# With fewer whole packets than this the track is encoded again, or left out.
_SMALLEST_SHARE_WHOLE = 0.5


class OutputTrack(Protocol):
    """One track of an output file beside the video."""

    @property
    def label(self) -> str:
        """What it is, for messages."""

    def loss(self, container: Container) -> str:
        """What is lost on the way into the container; known once writing has been tried out. Empty for nothing."""

    def attach(self, output: OutputContainer) -> TimedPackets:
        """Add the track to ``output``, before anything is written, and return its packets in order of time."""


@dataclass(frozen=True)
class SourceTrack:
    """One audio or subtitle track of a file.

    Attributes:
        path: The file.
        index: Of the stream in the file.
        codec: FFmpeg's name of it.
        zero: Time in the file's clock, in seconds, that is the output's zero.
        shifts: What to add to the times of the file's packets.
        end: Seconds of the output at which packets that begin there or later are left out; None: all are kept.
    """

    path: Path
    index: int
    codec: str
    zero: Fraction
    shifts: Shifts
    end: Fraction | None = None

    @property
    def label(self) -> str:
        """Index and codec."""
        return f"track {self.index} ({self.codec})"

    def packets(self) -> Iterator[tuple[int, av.Packet]]:
        """Ordinal and packet of each packet, with times that count from the output's zero."""
        with open_media(self.path, "read") as source:
            stream = source.streams[self.index]
            ordinal = 0
            try:
                for packet in source.demux(stream):
                    if not packet.size:
                        continue
                    shift = self.shifts.of(self.index, ordinal) if self.shifts.starts else 0
                    ticks = round((shift - self.zero) / packet.time_base)
                    if packet.pts is not None:
                        packet.pts += ticks
                    if packet.dts is not None:
                        packet.dts += ticks
                    if self.end is not None and _begins_at(packet, self.end):
                        return
                    yield ordinal, packet
                    ordinal += 1
            except av.FFmpegError:
                # The scan of the file has reported that reading ends early.
                return


def _begins_at(packet: av.Packet, end: Fraction) -> bool:
    start = packet.pts if packet.pts is not None else packet.dts
    return start is not None and start * packet.time_base >= end


@dataclass(frozen=True)
class CopiedTrack:
    """A track whose packets are copied without decoding.

    Attributes:
        source: Where they come from.
        keeps_early: Whether packets before the output's zero are kept.
        left_out: Ordinals of packets that the container refuses; filled when writing is tried out.
    """

    source: SourceTrack
    keeps_early: bool = True
    left_out: set[int] = field(default_factory=set)

    @property
    def label(self) -> str:
        """Index and codec."""
        return self.source.label

    def loss(self, container: Container) -> str:
        """Packets that the container refuses."""
        if not self.left_out:
            return ""
        return f"{len(self.left_out)} damaged packets of {self.label} in {self.source.path.name} are left out."

    def attach(self, output: OutputContainer) -> TimedPackets:
        """Add the track to ``output`` and return its packets."""
        with open_media(self.source.path, "read") as source:
            template: Any = source.streams[self.source.index]
            stream: Any = output.add_stream_from_template(template)
            if template.type == "audio":
                layout = default_layout(template.layout.name, template.channels)
                if layout != template.layout.name:
                    stream.codec_context.layout = layout
            describe(stream, template)
        return self._packets(stream)

    def _packets(self, stream: Any) -> TimedPackets:
        latest: int | None = None
        for ordinal, packet in self.source.packets():
            start = packet.pts if packet.pts is not None else packet.dts
            is_early = False
            if start is not None:
                end = (start + (packet.duration or 0)) * packet.time_base
                is_early = packet.is_discard and end < -_PREROLL_SECONDS if self.keeps_early else end <= 0 and start < 0
            if is_early or ordinal in self.left_out:
                continue
            latest = _place(packet, stream, latest)
            if latest is None:
                continue
            packet.opaque = ordinal
            yield latest * stream.time_base, packet


def _place(packet: av.Packet, stream: Any, latest: int | None) -> int | None:
    """Give a packet to a stream; times that do not ascend are moved by a tick. None for one without any time."""
    order = packet.dts if packet.dts is not None else packet.pts
    if order is None:
        if latest is None:
            return None
        order = 0
    tick = packet.time_base
    delay = 0
    if packet.pts is not None and packet.dts is not None:
        delay = round((packet.pts - packet.dts) * tick / stream.time_base)
    placed: int = round(order * tick / stream.time_base)
    if latest is not None:
        placed = max(placed, latest + 1)
    packet.duration = round((packet.duration or 0) * tick / stream.time_base)
    packet.time_base = stream.time_base
    packet.dts = placed
    packet.pts = placed + delay
    packet.stream = stream
    return placed


def default_layout(name: str, channels: int) -> str:
    """Name the layout of that many channels where a file leaves it open ("2 channels")."""
    if not name.endswith(" channels") and name:
        return name
    usual = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
    return usual.get(channels, name)


def describe(stream: Any, template: Any) -> None:
    """Copy language, title and disposition of a track."""
    for name, text in template.metadata.items():
        if name.lower() in _TRACK_TAGS:
            stream.metadata[name.lower()] = text
    language = stream.metadata.get("language")
    if stream.container.format.name == "mov" and language in _QUICKTIME_LANGUAGES:
        stream.metadata["language"] = _QUICKTIME_LANGUAGES[language]
    stream.disposition = template.disposition


def choose_tracks(ways_of_tracks: list[list[OutputTrack]], container: Container, note: Note) -> list[OutputTrack]:
    """Choose the first way of each track that can be written from its first packet to its last.

    What is encoded again or left out, and why, is reported to ``note``.
    """
    chosen = []
    for ways in ways_of_tracks:
        problem = ""
        for way in ways:
            problem = _try_out(way, container)
            if not problem:
                chosen.append(way)
                loss = way.loss(container)
                if loss:
                    note(loss)
                break
        else:
            note(f"{ways[-1].label} is left out: {problem}.")
    return chosen


def _try_out(way: OutputTrack, container: Container) -> str:
    """Write a track alone to nowhere; returns what the container has against it, or an empty text."""
    num_packets = 0
    try:
        with ffmpeg_messages() as messages, av.open(os.devnull, "w", format=container.name) as output:
            packets = way.attach(output)
            output.start_encoding()
            for _, packet in packets:
                num_packets += 1
                ordinal: Any = packet.opaque
                try:
                    output.mux(packet)
                except av.FFmpegError:
                    if not isinstance(way, CopiedTrack):
                        raise
                    way.left_out.add(ordinal)
                    if len(way.left_out) > _SMALLEST_SHARE_WHOLE * max(num_packets, 20):
                        raise
    except (av.FFmpegError, ValueError) as error:
        return reason(error, messages)
    return ""
