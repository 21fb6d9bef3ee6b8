"""Opening video and audio files, and walking through one before the work: every packet's times, every frame's faults.

What FFmpeg reports becomes one MediaError. Packets of all tracks give the places where a file begins again (joined
recordings). Then the video is decoded, since packets are not frames: edit lists, field-coded video and empty slots
hide or join them, and damage shows only there. The memory that decoding takes is known from the header alone: it is
planned with fewer threads, or refused.
"""

import errno
import logging
import os
import threading
from array import array
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av

from LTX_2_MLX.errors import MediaError, MemoryBudgetError
from LTX_2_MLX.files import failure
from LTX_2_MLX.media.timeline import Restart, Shifts, Track, find_restarts, shifts_for
from LTX_2_MLX.runtime.memory import GIB, budget_bytes

# First bytes of Matroska, and major brands of mp4 and mov that no image has.
_EBML = b"\x1a\x45\xdf\xa3"
_VIDEO_BRANDS = (
    b"3gp4", b"3gp5", b"M4V ", b"MSNV", b"avc1", b"dash", b"iso2", b"iso4", b"iso5", b"iso6", b"isom", b"mp41", b"mp42",
    b"qt  ",
)  # fmt: skip
# What PyAV raises for files beside FFmpeg's own errors.
_FAILURES = (MemoryError, RecursionError, UnicodeError)
# Demuxers of containers that hold their own frames. Playlists (concat, hls, dash, ...) would open other files.
_FORMATS = frozenset(
    (
        "3gp", "aac", "ac3", "aiff", "amr", "asf", "av1", "avi", "caf", "dts", "dv", "eac3", "flac", "flv", "gxf",
        "h264", "hevc", "ivf", "m4v", "matroska", "mjpeg", "mov", "mp3", "mp4", "mpeg", "mpegts", "mpegvideo", "mxf",
        "nut", "obu", "ogg", "rm", "tta", "vc1", "vvc", "w64", "wav", "webm", "wtv", "wv", "yuv4mpegpipe",
    )
)  # fmt: skip
# A disc has some dozens. FFmpeg opens a decoder for each, and each is looked through by itself.
_MOST_TRACKS = 100
# Demuxers whose files may be joined byte by byte with a gap in time (FFmpeg's AVFMT_TS_DISCONT).
_JOINED_FORMATS = ("mpegts", "mpeg")
# A joint breaks the counters of a transport stream: packets near it look damaged.
_FRAMES_AROUND_JOINT = 3
# Dispositions of video streams that are cover images or thumbnails.
COVER = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
# Frames that a decoder may hold for reference and order, with the one that it decodes (FFmpeg 8.1: h264dec.h,
# hevcdec.h, vp9.h; av1 as its specification says); other codecs hold the last two.
_HELD_FRAMES = {"h264": 18, "hevc": 18, "vvc": 18, "vp9": 10, "libvpx-vp9": 10, "av1": 10, "libdav1d": 10}
_FEW_HELD_FRAMES = 4
# Frames for threads beyond the first, of which each holds about one.
_THREADS_BYTES = 64 * 2**20
# Where the header does not tell the layout: four channels of 16 bits.
_LARGEST_PIXEL_BITS = 64
_LARGEST_OPENED = 2**27
# An image as Pillow decodes it, its levels in 16 bits, and a copy of them.
_IMAGE_PIXEL_BYTES = 16
_BUDGET: ContextVar[int | None] = ContextVar("decoding_budget", default=None)

# While one thread collects FFmpeg's messages, those of others reach Python's logging: they are not for the terminal.
logging.getLogger("libav").addHandler(logging.NullHandler())
# The level is one for all threads: for each that collects messages, the level before the first did.
_LOG_LOCK = threading.Lock()
_LEVELS: list[int | None] = []


@contextmanager
def open_media(path: Path, action: str = "read as video") -> Iterator[av.container.InputContainer]:
    """Open a file for reading; FFmpeg's errors become one ``MediaError``.

    Raises:
        MediaError: If FFmpeg cannot open or read it, or if it is a playlist, which would open other files.
    """
    limits = {"format_whitelist": ",".join(sorted(_FORMATS)), "max_streams": str(_MOST_TRACKS + 1)}
    # FFmpeg may decode a frame to learn of its layout.
    most_pixels = min((_BUDGET.get() or budget_bytes()) // _LARGEST_PIXEL_BITS * 8, _LARGEST_OPENED)
    try:
        with ffmpeg_messages() as messages:
            # Absolute, since FFmpeg takes a relative "a:b.mp4" for a protocol.
            container = av.open(
                str(path.absolute()),
                metadata_errors="replace",
                options={"max_pixels": str(most_pixels)},
                container_options=limits,
            )
    except (av.FFmpegError, OSError, *_FAILURES) as error:
        if any("whitelist" in line for line in messages):
            raise MediaError(f"{path} is not a video: it is a playlist, or of a kind that is not supported.") from error
        if any("max_streams" in line for line in messages):
            raise MediaError(_many_tracks(path)) from error
        raise MediaError(f"{path} cannot be {action}: {reason(error, messages)}.") from error
    with container:
        try:
            yield container
        except (av.FFmpegError, OSError, *_FAILURES) as error:
            raise MediaError(f"{path} cannot be {action}: {reason(error)}.") from error


@contextmanager
def ffmpeg_messages() -> Iterator[list[str]]:
    """Collect the errors that FFmpeg logs in this thread while the block runs.

    Not for blocks that decode: FFmpeg's threads would wait for Python's lock.
    """
    messages: list[str] = []
    with _LOG_LOCK:
        _LEVELS.append(_LEVELS[0] if _LEVELS else av.logging.get_level())
        av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as logs:
            try:
                yield messages
            finally:
                for _, _, text in logs:
                    messages.append(text.strip())
    finally:
        with _LOG_LOCK:
            level = _LEVELS.pop()
            if not _LEVELS:
                av.logging.set_level(level)


def reason(error: Exception, messages: list[str] | None = None) -> str:
    """Return the message of a system or FFmpeg error, with FFmpeg's own last line where it logged one."""
    if getattr(error, "errno", None) == errno.ENOSPC:
        return "the disk is full"
    text = getattr(error, "strerror", None) or failure(error)
    text = text[:1].lower() + text[1:].rstrip(".")
    lines = [line for line in messages or () if line]
    return f"{text} ({lines[-1].rstrip('.')})" if lines else text


def begins_as_video(path: Path) -> bool:
    """Whether a file begins as one of the usual containers of videos, and so is no image; False leaves it open.

    Raises:
        MediaError: If the file is missing, no regular file, or empty.
    """
    if path.is_dir():
        raise MediaError(f"{path} is a folder. Give a video file.")
    if not path.is_file():
        raise MediaError(f"{path} {'is not a file' if path.exists() else 'does not exist'}. Give a video file.")
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        raise MediaError(f"{path} is empty, it has 0 bytes. Give a video file.")
    is_avi = head[:4] == b"RIFF" and head[8:] == b"AVI "
    is_mp4 = head[4:8] == b"ftyp" and head[8:] in _VIDEO_BRANDS
    return head[:4] == _EBML or is_avi or is_mp4


def _many_tracks(path: Path) -> str:
    return f"{path} has more than {_MOST_TRACKS} tracks. Leave some out with another program first."


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """Return the first video stream that is not a cover image or thumbnail."""
    # Matroska's reader leaves out those beyond the limit, others end there.
    if len(container.streams) > _MOST_TRACKS:
        raise MediaError(_many_tracks(path))
    for stream in container.streams.video:
        if not stream.disposition & COVER:
            if stream.codec_context is None:
                raise MediaError(f"{path} holds video of a kind that FFmpeg cannot decode. Re-encode it as H.264.")
            return stream
    kinds: list[str] = sorted({stream.type for stream in container.streams}) or ["nothing"]
    raise MediaError(f"{path} holds no video, only {' and '.join(kinds)}.")


def count_packets(path: Path) -> int:
    """Count the packets of the first video stream of a file that this program wrote; each holds one frame."""
    num_packets = 0
    with open_media(path) as container:
        for packet in container.demux(video_stream(container, path)):
            num_packets += packet.size > 0
    return num_packets


@contextmanager
def decoding_budget(num_bytes: int) -> Iterator[None]:
    """Refuse videos and images that take more than this to decode; else the memory that a run may use counts."""
    token = _BUDGET.set(num_bytes)
    try:
        yield
    finally:
        _BUDGET.reset(token)


def prepare_decoder(stream: Any, path: Path, *, exact: bool = False) -> int:
    """Set the threads of a video stream's decoder; the memory in bytes that it then takes at most.

    Args:
        stream: Of an open file.
        path: Of the file, for messages.
        exact: Decode one frame after the other. Where several are decoded at once, FFmpeg may return a damaged frame
            before it has marked it.

    Raises:
        MemoryBudgetError: If that is more than there is.
    """
    context = stream.codec_context
    frame: int = context.width * context.height * _LARGEST_PIXEL_BITS // 8
    if context.format is not None:
        frame = 0
        for component in context.format.components:
            frame += component.width * component.height * (2 if component.bits > 8 else 1)
        # Decoders pad the sides of a frame.
        frame = frame * 9 // 8
    threads = max(1, min(os.cpu_count() or 1, _THREADS_BYTES // max(frame, 1)))
    context.thread_type, context.thread_count = "SLICE" if exact else "AUTO", threads
    num_bytes = frame * (_HELD_FRAMES.get(context.name, _FEW_HELD_FRAMES) + threads - 1)
    _check(path, context.height, context.width, num_bytes)
    # A stream may turn to frames that its header does not tell of; much larger ones count as damaged. Without a size in
    # the header, frames of 8K are the largest.
    pixels = max(4 * context.width * context.height, 2**20) if context.width else 2**25
    context.options = {**context.options, "max_pixels": str(pixels)}
    return num_bytes


def check_image(path: Path, height: int, width: int) -> None:
    """Raise ``MemoryBudgetError`` for an image that takes more memory to decode than there is."""
    _check(path, height, width, height * width * _IMAGE_PIXEL_BYTES)


def _check(path: Path, height: int, width: int, num_bytes: int) -> None:
    budget = _BUDGET.get() or budget_bytes()
    if num_bytes > budget:
        raise MemoryBudgetError(
            f"{path} has {width}×{height} pixels: decoding it takes up to {num_bytes / GIB:.2f} GiB, and "
            f"{budget / GIB:.2f} GiB may be used. Make it smaller with another program first."
        )


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
                if packet.size:
                    index = packet.stream.index
                    if index not in tracks:
                        tracks[index] = Track(packet.stream.type, packet.time_base)
                    tracks[index].add(packet, position)
        except av.FFmpegError as failure:
            error = failure.strerror
    restarts = []
    for index, track in tracks.items():
        # Subtitles are sparse: their gaps mean nothing.
        if track.kind != "subtitle":
            for ordinal, jump in find_restarts(track, close_gaps=is_joined_format):
                restarts.append(Restart(position=track.positions[ordinal], track=index, ordinal=ordinal, jump=jump))
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

    def add(self, frame: av.VideoFrame) -> None:
        """Add one decoded frame. Damaged ones before the first good one are no damage: a cut clip may begin so."""
        if frame.is_corrupt and self.first is None:
            self.num_leading += 1
        elif frame.is_corrupt:
            self.num_corrupt += 1
        elif self.first is None:
            self.first = frame
        size = frame.width, frame.height
        if self.first is not None and self.changed_size is None and size != (self.first.width, self.first.height):
            self.changed_size = len(self.stamps)
        self.stamps.append(frame.pts)
        self.durations.append(frame.duration or 0)
        self.good.append(not frame.is_corrupt)
        self.num_interlaced += frame.interlaced_frame


def scan_frames(path: Path, video_index: int, shifts: Shifts) -> Frames:
    """Decode a video and note the time and faults of each frame; the pixels are not kept."""
    frames = Frames()
    with open_media(path) as container:
        # Of all frames at once, which is the larger number.
        frames.decoding_bytes = prepare_decoder(container.streams[video_index], path)
        for frame in decode(container, video_index, shifts, exact=True, counts=frames):
            frames.add(frame)
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
