"""What a video file holds, from its packets: size, rate, number of frames, time of each, tracks beside it.

Only the first frame is decoded; the rest of the file is walked through packet by packet.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, UnidentifiedImageError

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.frames import Display
from LTX_2_MLX.media.pixel_format import Orientation

# Rates that files round: their own timestamps are often too coarse to tell them from their neighbours.
_STANDARD_RATES = tuple(
    Fraction(rate) for rate in ("24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")
)
_UNSPECIFIED = (0, 2, 3)
_KEPT_TAGS = ("title", "artist", "album", "date", "comment", "copyright", "description", "genre", "location")
# A clip of one frame may say nothing of its rate; this is LTX-2's own default.
_RATE_OF_ONE_FRAME = Fraction(24)


@dataclass(frozen=True)
class VideoInfo:
    """One video file.

    Attributes:
        path: The file.
        stream_index: Which of its streams is the film.
        height: Pixels, upright.
        width: Pixels, upright.
        frame_rate: Frames per second; the mean where ``times`` is given.
        num_frames: Frames that are shown; None where packets do not tell.
        times: As ``FrameStream.times``; None for a constant rate.
        first_pts: Time stamp of the first frame shown, in the stream's own ticks; None where it has none.
        lead: Seconds from the file's start to the first frame.
        orientation: How a stored frame is turned upright.
        display: How the pixels are meant to be shown.
        metadata: The file's tags that are worth keeping.
        has_tracks: Whether there is sound or there are subtitles.
    """

    path: Path
    stream_index: int
    height: int
    width: int
    frame_rate: Fraction
    num_frames: int | None
    times: tuple[Fraction, ...] | None
    first_pts: int | None
    lead: Fraction
    orientation: Orientation
    display: Display
    metadata: dict[str, str] = field(default_factory=dict)
    has_tracks: bool = False


@dataclass(frozen=True)
class _Packets:
    """Time stamps and lengths of the packets that are shown, sorted, and the first decoded frame.

    ``timed`` is False where the container says only in which order packets are decoded (AVI).
    """

    stamps: list[tuple[int | None, int]]
    first: av.VideoFrame
    timed: bool
    exact: bool


def probe_video(path: str | Path, unknown_rate: Fraction | None = None) -> VideoInfo:
    """Look through a video file.

    Args:
        path: The file.
        unknown_rate: Frame rate of a file that has none, such as a bare H.264 stream; None: FFmpeg's guess.

    Raises:
        MediaError: If it is missing, is a picture, holds no video, or is damaged or cut short.
    """
    path = Path(path)
    refuse_images(path)
    with open_media(path) as container:
        stream = video_stream(container, path)
        packets = _scan(container, stream, path)
        frame, time_base = packets.first, stream.time_base
        rate, times = _rate_and_times(stream, packets)
        if unknown_rate is not None and not _tells_rate(stream, packets):
            rate, times = unknown_rate, None
        orientation = _orientation(frame, path)
        height, width = orientation.size(frame.height, frame.width)
        started = packets.timed and container.start_time is not None
        lead = frame.pts * time_base - Fraction(container.start_time, av.time_base) if started else Fraction(0)
        return VideoInfo(
            path=path,
            stream_index=stream.index,
            height=height,
            width=width,
            frame_rate=rate,
            num_frames=len(packets.stamps) if packets.exact else None,
            times=times,
            first_pts=frame.pts if packets.timed else None,
            # Both times are rounded to their own ticks: less than half a millisecond is no lead.
            lead=lead if lead > Fraction(1, 2000) else Fraction(0),
            orientation=orientation,
            display=_display(stream, frame, orientation),
            metadata={k.lower(): text for k, text in container.metadata.items() if k.lower() in _KEPT_TAGS},
            has_tracks=bool(container.streams.audio or container.streams.subtitles),
        )


def count_frames(path: Path) -> int:
    """Packets of the first video stream that are shown."""
    with open_media(path) as container:
        stream = video_stream(container, path)
        return sum(_is_shown(packet, stream.codec_context.name) for packet in container.demux(stream))


def refuse_images(path: Path) -> None:
    """Raise ``MediaError`` if the file is missing, none, empty, or a still or animated picture."""
    if path.is_dir():
        raise MediaError(f"{path} is a folder. Give a video file.")
    if not path.is_file():
        raise MediaError(f"{path} {'is not a file' if path.exists() else 'does not exist'}. Give a video file.")
    if not path.stat().st_size:
        raise MediaError(f"{path} is empty, it has 0 bytes. Give a video file.")
    try:
        with Image.open(path) as picture:
            animated = getattr(picture, "is_animated", False)
            kind = picture.format
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return
    if animated:
        raise MediaError(
            f"{path} is an animated picture ({kind}), not a video. Turn it into one: ffmpeg -i {path.name} film.mp4"
        )
    # Pillow takes the first bytes of an MPEG program stream for a picture of its own.
    if kind != "MPEG":
        raise MediaError(f"{path} is a still picture ({kind}), not a video.")


@contextmanager
def open_media(path: Path) -> Iterator[av.container.InputContainer]:
    """The file opened for reading; everything FFmpeg has against it becomes one ``MediaError``."""
    try:
        # Absolute, since FFmpeg takes a relative "a:b.mp4" for a protocol.
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be read as video: {reason(error)}.") from error


def reason(error: Exception) -> str:
    """The system's or FFmpeg's own words for an error."""
    text = getattr(error, "strerror", None) or str(error)
    if getattr(error, "errno", None) == errno.ENOSPC:
        return "the disk is full"
    return text[:1].lower() + text[1:].rstrip(".")


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The film among the file's streams; cover pictures are not films."""
    for stream in container.streams.video:
        if not stream.disposition & (av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails):
            if stream.codec_context is None:
                raise MediaError(f"{path} holds video of a kind that FFmpeg cannot decode. Re-encode it as H.264.")
            return stream
    kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
    raise MediaError(f"{path} holds no video, only {' and '.join(kinds)}.")


def _is_shown(packet: av.Packet, codec: str) -> bool:
    if packet.size == 0 or packet.is_discard:
        return False
    # VP8 stores frames that only serve as references; bit 4 of the first byte says whether one is shown.
    return codec != "vp8" or bool(bytes(packet)[0] & 16)


def _scan(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> _Packets:
    codec, first, seen, stamps = stream.codec_context.name, None, 0, []
    for packet in container.demux(stream):
        if first is None:
            try:
                first = next(iter(packet.decode()), None)
            except av.InvalidDataError:
                # A film cut out of another may begin with pieces whose reference is missing.
                first = None
        seen += packet.size > 0
        if _is_shown(packet, codec):
            stamps.append((packet.pts, packet.dts, packet.duration or 0))
    if first is None:
        raise MediaError(f"{path} holds no frame that can be decoded. It is empty, damaged or cut short.")
    if "mp4" in container.format.name and seen < stream.frames:
        raise MediaError(f"{path} is cut short: it promises {stream.frames} frames and holds {seen}.")
    # AVI has no times of its own: FFmpeg makes them up, a frame late where it suspects reordering.
    timed = container.format.name != "avi" and first.pts is not None and all(pts is not None for pts, _, _ in stamps)
    if timed:
        # What comes before the first frame that decodes is never shown.
        shown = sorted((pts, length) for pts, _, length in stamps if pts >= first.pts)
    else:
        shown = [(dts, length) for _, dts, length in stamps]
    # MPEG-4 Part 2 in AVI packs two frames into one packet and leaves the next one empty.
    packed = codec == "mpeg4" and container.format.name == "avi"
    return _Packets(stamps=shown, first=first, timed=timed, exact=not packed)


def _rate_and_times(stream: av.VideoStream, packets: _Packets) -> tuple[Fraction, tuple[Fraction, ...] | None]:
    said = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    stamps, tick = packets.stamps, stream.time_base
    if any(start is None for start, _ in stamps) or not packets.exact:
        return (said or [_RATE_OF_ONE_FRAME])[0], None
    starts = _ascending([start - stamps[0][0] for start, _ in stamps])
    if len(starts) == 1:
        shown = stamps[0][1] * tick
        return next(iter(said), 1 / shown if shown else _RATE_OF_ONE_FRAME), None
    candidates = [rate for rate in said if rate in _STANDARD_RATES] + said[:1] + [*_STANDARD_RATES, *said]
    for rate in candidates:
        # One tick either way is rounding, unless a tick is most of a frame.
        rounding = min(tick, 1 / (8 * rate))
        if all(abs(start * tick - index / rate) <= rounding for index, start in enumerate(starts)):
            return rate, None
    end = starts[-1] + (stamps[-1][1] or starts[-1] - starts[-2])
    mean = Fraction(len(starts)) / (end * tick)
    return mean.limit_denominator(100_000), tuple(start * tick for start in (*starts, end))


def _tells_rate(stream: av.VideoStream, packets: _Packets) -> bool:
    """Whether the rate is the file's own. Without a container no frame has a time, and FFmpeg puts in a rate."""
    untimed = all(start is None for start, _ in packets.stamps)
    return not untimed and bool(stream.average_rate or stream.guessed_rate or len(packets.stamps) > 1)


def _ascending(starts: list[int]) -> list[int]:
    """The same time stamps, with equal neighbours moved one tick apart."""
    moved, previous = [], -1
    for start in starts:
        previous = max(start, previous + 1)
        moved.append(previous)
    return moved


def _orientation(frame: av.VideoFrame, path: Path) -> Orientation:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    try:
        return Orientation.from_display_matrix(bytes(matrix)) if matrix else Orientation()
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from error


def _display(stream: av.VideoStream, frame: av.VideoFrame, orientation: Orientation) -> Display:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    return Display(
        pixel_aspect=1 / aspect if orientation.transpose else aspect,
        primaries=1 if primaries in _UNSPECIFIED else primaries,
        transfer=1 if transfer in _UNSPECIFIED else transfer,
    )
