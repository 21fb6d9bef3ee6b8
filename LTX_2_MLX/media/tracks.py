"""Tracks of a file and their times: a walk through its packets and its video's frames, and the tracks of an output.

Packets of all tracks give the places where a file begins again (joined recordings). Then the video is decoded, since
packets are not frames: edit lists, field-coded video and empty slots hide or join them, and damage shows only there.

A track beside the video is described before the output is opened: writing it is tried out before the work, so that no
container refuses it after the last frame is computed.
"""

import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import av
from av.container import OutputContainer

from LTX_2_MLX.files import reason
from LTX_2_MLX.media.encoder import Container
from LTX_2_MLX.media.source import ffmpeg_messages, open_media, prepare_decoder, video_stream

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
# Demuxers whose files may be joined byte by byte with a gap in time (FFmpeg's AVFMT_TS_DISCONT).
_JOINED_FORMATS = ("mpegts", "mpeg")
# A joint breaks the counters of a transport stream: packets near it look damaged.
_FRAMES_AROUND_JOINT = 3
# Smaller steps back are rounding or a single wrong stamp, not a new beginning.
_SMALLEST_RESTART = Fraction(1, 10)
# Transport streams: FFmpeg closes longer gaps too (its dts_delta_threshold).
_LARGEST_GAP = Fraction(10)
# Restarts of several tracks belong together if they jump by about the same time.
_SAME_JUMP = Fraction(1)
# The smallest number that the arrays hold.
NO_STAMP = -(2**63)
NO_LIMIT = 2**63


@dataclass
class Track:
    """Packets of one track in file order, with their times in ticks; ``NO_STAMP`` for a packet without.

    Attributes:
        kind: ``video``, ``audio`` or ``subtitle``.
        tick: In seconds.
        orders: When each packet is decoded.
        starts: When it is shown; for one that does not say it, when it is decoded.
        durations: How long; 0 where the file does not tell.
        positions: Number of each packet in the file.
        corrupt: Numbers of the damaged packets in the track.
        has_times: Whether any packet has a time.
    """

    kind: str
    tick: Fraction
    orders: "array[int]" = field(default_factory=partial(array, "q"))
    starts: "array[int]" = field(default_factory=partial(array, "q"))
    durations: "array[int]" = field(default_factory=partial(array, "q"))
    positions: "array[int]" = field(default_factory=partial(array, "q"))
    corrupt: list[int] = field(default_factory=list)
    has_times: bool = False

    def first_start(self, begin: int = 0, end: int | None = None) -> Fraction:
        """Earliest start of the packets from ``begin`` to ``end``, in seconds."""
        return min(start for start in self.starts[begin:end] if start != NO_STAMP) * self.tick

    def first_order(self) -> Fraction:
        """When the first packet is decoded, in seconds."""
        return min(order for order in self.orders if order != NO_STAMP) * self.tick

    def last_end(self, begin: int = 0, end: int | None = None) -> Fraction:
        """Latest end of the packets from ``begin`` to ``end``, in seconds.

        A packet without a duration lasts as long as the usual step between packets.
        """
        times = sorted(start for start in self.starts[begin:end] if start != NO_STAMP)
        step = 0 if any(self.durations[begin:end]) else usual_step(times)
        pairs = zip(self.starts[begin:end], self.durations[begin:end], strict=True)
        latest = max(start + (duration or step) for start, duration in pairs if start != NO_STAMP)
        return latest * self.tick


@dataclass(frozen=True)
class Restart:
    """A packet whose time does not follow from the one before it.

    Attributes:
        position: Number of the packet in the file, over all tracks.
        track: Index of the track.
        ordinal: Number of the packet in its track.
        jump: Its time less that of the packet before, in seconds.
    """

    position: int
    track: int
    ordinal: int
    jump: Fraction


@dataclass
class Shifts:
    """Seconds to add to the time stamps of each track, from packet to packet.

    Attributes:
        starts: For each track, ordinals of the packets at which a shift begins, ascending.
        seconds: For each track, the shift that begins there.
    """

    starts: dict[int, list[int]] = field(default_factory=dict)
    seconds: dict[int, list[Fraction]] = field(default_factory=dict)

    def of(self, track: int, ordinal: int) -> Fraction:
        """Seconds to add to the stamps of packet ``ordinal`` of ``track``."""
        index = bisect_right(self.starts.get(track, []), ordinal) - 1
        return self.seconds[track][index] if index >= 0 else Fraction(0)


def find_restarts(index: int, track: Track, *, close_gaps: bool) -> list[Restart]:
    """Find where the times of one track begin again, or leave a gap that joined files have; one wrong stamp is none.

    Args:
        index: Of the track.
        track: Its packets.
        close_gaps: Also report steps forward of more than ten seconds.
    """
    least = int(_SMALLEST_RESTART / track.tick)
    most = int(_LARGEST_GAP / track.tick) if close_gaps else NO_LIMIT
    # Reordered frames start out of order: their starts tell nothing unless there is nothing else.
    orders = track.orders if max(track.orders, default=NO_STAMP) != NO_STAMP else track.starts
    known = []
    for ordinal, order in enumerate(orders):
        if order != NO_STAMP:
            known.append(ordinal)
    restarts = []
    before: int | None = None
    for number, ordinal in enumerate(known):
        order = orders[ordinal]
        if before is not None and not -least < order - before <= most:
            following = orders[known[number + 1]] if number + 1 < len(known) else order
            if -least < following - before <= most:
                continue
            jump = (order - before) * track.tick
            restarts.append(Restart(position=track.positions[ordinal], track=index, ordinal=ordinal, jump=jump))
        before = order
    return restarts


def group_restarts(restarts: list[Restart]) -> list[list[Restart]]:
    """Group the restarts of several tracks that belong to one place where files were joined."""
    groups: list[list[Restart]] = []
    for restart in sorted(restarts, key=lambda each: each.position):
        group = groups[-1] if groups else []
        is_new = all(each.track != restart.track for each in group)
        if group and is_new and abs(group[0].jump - restart.jump) < _SAME_JUMP:
            group.append(restart)
        else:
            groups.append([restart])
    return groups


def shifts_for(restarts: list[Restart], tracks: dict[int, Track], leading: int) -> Shifts:
    """Shift every piece of a joined file behind the one before it.

    Args:
        restarts: Those of all tracks.
        tracks: By index.
        leading: Index of the track that must continue without a gap: the video.
    """
    shifts = Shifts()
    groups = group_restarts(restarts)
    ends_of_pieces = _piece_ends(groups, tracks)
    for group in groups:
        ordinals = {each.track: each.ordinal for each in group}
        track = leading if leading in ordinals else group[0].track
        ordinal = ordinals[track]
        begin = shifts.starts[track][-1] if track in shifts.starts else 0
        before = tracks[track].last_end(begin, ordinal) + shifts.of(track, begin)
        first = tracks[track].first_start(ordinal, ends_of_pieces[track, ordinal])
        for each in group:
            shifts.starts.setdefault(each.track, []).append(each.ordinal)
            shifts.seconds.setdefault(each.track, []).append(before - first)
    return shifts


def _piece_ends(groups: list[list[Restart]], tracks: dict[int, Track]) -> dict[tuple[int, int], int]:
    """End ordinal of the piece that begins at each (track, ordinal)."""
    starts: dict[int, list[int]] = {}
    for group in groups:
        for restart in group:
            starts.setdefault(restart.track, []).append(restart.ordinal)
    ends = {}
    for track, ordinals in starts.items():
        for start, end in zip(ordinals, [*ordinals[1:], len(tracks[track].starts)], strict=True):
            ends[track, start] = end
    return ends


def usual_step(stamps: Sequence[int | None]) -> Fraction:
    """Median step between neighbouring stamps that ascend; 0 without any."""
    steps = []
    before: int | None = None
    for stamp in stamps:
        if stamp is None:
            continue
        if before is not None and stamp > before:
            steps.append(stamp - before)
        before = stamp
    return Fraction(median(steps)) if steps else Fraction(0)


@dataclass
class Packets:
    """All packets of a file.

    Attributes:
        video_index: Index of the video among all streams.
        tracks: By index of the stream.
        shifts: What to add to the packets' times, so that joined pieces follow each other.
        error: What ended reading before the end of the file; None if nothing did.
    """

    video_index: int
    tracks: dict[int, Track]
    shifts: Shifts
    error: str | None = None


def scan_packets(path: Path) -> Packets:
    """Read the times of all packets of a file that holds video."""
    tracks: dict[int, Track] = {}
    error = None
    with open_media(path) as container:
        is_joined_format = container.format.name in _JOINED_FORMATS
        video = video_stream(container, path)
        video_index = video.index
        timed = []
        for stream in (video, *container.streams.audio, *container.streams.subtitles):
            if stream.codec_context is not None:
                timed.append(stream)
        try:
            for position, packet in enumerate(container.demux(*timed)):
                if not packet.size:
                    continue
                index = packet.stream.index
                if index not in tracks:
                    tracks[index] = Track(packet.stream.type, packet.time_base)
                track = tracks[index]
                start = packet.dts if packet.pts is None else packet.pts
                track.has_times = track.has_times or start is not None
                track.orders.append(NO_STAMP if packet.dts is None else packet.dts)
                track.starts.append(NO_STAMP if start is None else start)
                track.durations.append(packet.duration or 0)
                if packet.is_corrupt:
                    track.corrupt.append(len(track.positions))
                track.positions.append(position)
        except av.FFmpegError as failure:
            error = failure.strerror

    restarts = []
    for index, track in tracks.items():
        # Subtitles are sparse: their gaps mean nothing.
        if track.kind != "subtitle":
            restarts += find_restarts(index, track, close_gaps=is_joined_format)
    shifts = Shifts()
    if restarts:
        shifts = shifts_for(restarts, tracks, video_index)
    for index, joints in shifts.starts.items():
        tracks[index].corrupt = _away_from(joints, tracks[index].corrupt)
    return Packets(video_index=video_index, tracks=tracks, shifts=shifts, error=error)


def _away_from(joints: list[int], corrupt: list[int]) -> list[int]:
    """Damaged packets of a track in a joined file, without those at its joints, which only look so."""
    return [ordinal for ordinal in corrupt if all(abs(ordinal - joint) > _FRAMES_AROUND_JOINT for joint in joints)]


@dataclass
class Frames:
    """All frames that a video's decoder returns, in the order in which they are shown.

    Attributes:
        first: The first good one.
        stamps: Time stamps in the stream's ticks, with the shifts of joined pieces.
        durations: In ticks; 0 where the file does not tell.
        good: 1 for a frame to show; 0 for one that is damaged, or comes before the first that can be decoded.
        num_leading: Damaged frames before the first good one.
        num_corrupt: Damaged frames after it.
        num_interlaced: How many are marked as interlaced.
        num_errors: Packets that could not be decoded.
        changed_size: Number of the first frame of another size; None if all are equal.
        decoding_bytes: Memory that decoding takes at most.
    """

    first: av.VideoFrame | None = None
    stamps: list[int | None] = field(default_factory=list)
    durations: "array[int]" = field(default_factory=partial(array, "q"))
    good: bytearray = field(default_factory=bytearray)
    num_leading: int = 0
    num_corrupt: int = 0
    num_interlaced: int = 0
    num_errors: int = 0
    changed_size: int | None = None
    decoding_bytes: int = 0


def scan_frames(path: Path, video_index: int, shifts: Shifts) -> Frames:
    """Decode a video and note the time and faults of each frame; the pixels are not kept."""
    frames = Frames()
    with open_media(path) as container:
        # Of all frames at once, which is the larger number.
        frames.decoding_bytes = prepare_decoder(container.streams[video_index], path)
        for frame in decode(container, video_index, shifts, exact=True, counts=frames):
            # Damaged frames before the first good one are no damage: a cut clip may begin so.
            if frame.is_corrupt and frames.first is None:
                frames.num_leading += 1
            elif frame.is_corrupt:
                frames.num_corrupt += 1
            elif frames.first is None:
                frames.first = frame
            first, size = frames.first, (frame.width, frame.height)
            if first is not None and frames.changed_size is None and size != (first.width, first.height):
                frames.changed_size = len(frames.stamps)
            frames.stamps.append(frame.pts)
            frames.durations.append(frame.duration or 0)
            frames.good.append(not frame.is_corrupt)
            frames.num_interlaced += frame.interlaced_frame
    return frames


def decode(
    container: av.container.InputContainer,
    video_index: int,
    shifts: Shifts,
    *,
    exact: bool,
    counts: Frames | None = None,
) -> Generator[av.VideoFrame]:
    """Decode the video of an open file; packets that cannot be decoded are passed over.

    Args:
        container: The file.
        video_index: Index of the video among all streams.
        shifts: Added to the packets' times.
        exact: As for ``prepare_decoder``: whether marks of damage count.
        counts: Its ``num_errors`` counts the packets that were passed over after the first frame.
    """
    stream: Any = container.streams[video_index]
    prepare_decoder(stream, Path(container.name), exact=exact)
    ordinal = 0
    try:
        for packet in container.demux(stream):
            if packet.size and shifts.starts:
                _shift(packet, shifts.of(video_index, ordinal))
                ordinal += 1
            try:
                yield from packet.decode()
            except av.FFmpegError:
                # A clip cut out of another may begin with packets whose reference is missing.
                if counts is not None and counts.first is not None:
                    counts.num_errors += 1
    except av.FFmpegError:
        # Reading ended in the middle of the file; the scan of the packets has said so.
        with suppress(av.FFmpegError):
            yield from stream.decode(None)
    finally:
        # Threads that still decode may have a message for Python; closing the decoder waits for them and lets no
        # other thread run meanwhile, while this does.
        stream.codec_context.flush_buffers()


def _shift(packet: av.Packet, seconds: Fraction) -> None:
    ticks = round(seconds / packet.time_base)
    if packet.pts is not None:
        packet.pts += ticks
    if packet.dts is not None:
        packet.dts += ticks


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
        """The packets in the stream's ticks; those without any time before the first time are left out."""
        latest: int | None = None
        for ordinal, packet in self.source.packets():
            start = packet.pts if packet.pts is not None else packet.dts
            is_early = False
            if start is not None:
                end = (start + (packet.duration or 0)) * packet.time_base
                is_early = packet.is_discard and end < -_PREROLL_SECONDS if self.keeps_early else end <= 0 and start < 0
            if is_early or ordinal in self.left_out:
                continue
            order = packet.dts if packet.dts is not None else packet.pts
            if order is None and latest is None:
                continue
            # From the file's ticks to the stream's; times that do not ascend are moved by a tick.
            ticks = packet.time_base / stream.time_base
            delay = 0
            if packet.pts is not None and packet.dts is not None:
                delay = round((packet.pts - packet.dts) * ticks)
            placed = round((order or 0) * ticks)
            latest = placed if latest is None else max(placed, latest + 1)
            packet.duration = round((packet.duration or 0) * ticks)
            packet.time_base = stream.time_base
            packet.dts = latest
            packet.pts = latest + delay
            packet.stream = stream
            packet.opaque = ordinal
            yield latest * stream.time_base, packet


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
