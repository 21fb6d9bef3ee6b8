"""Size, frame rate, number of frames and times of a video file, from its packets.

Only the first frame is decoded; of the rest of the file the packets are read.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.display import Display, Orientation
from LTX_2_MLX.media.source import open_media, refuse_images, video_stream

# Rates that files round: their time stamps are often too coarse to distinguish them.
_STANDARD_RATES = tuple(
    Fraction(rate) for rate in ("24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")
)
_UNSPECIFIED = (0, 2, 3)
_KEPT_TAGS = ("title", "artist", "album", "date", "comment", "copyright", "description", "genre", "location")
# Used for a video of one frame without a rate; LTX-2's own default.
_RATE_OF_ONE_FRAME = Fraction(24)


@dataclass(frozen=True)
class VideoInfo:
    """Properties of one video file.

    Attributes:
        path: The file.
        video_index: Index of the video among the file's video streams.
        height: Pixels, upright.
        width: Pixels, upright.
        frame_rate: Frames per second; the mean where ``times`` is given.
        num_frames: Number of frames shown; None if the packets do not tell.
        times: As ``FrameStream.times``; None for a constant rate.
        first_pts: Time stamp of the first frame shown, in the stream's own ticks; None without time stamps.
        lead: Seconds from the file's start to the first frame.
        orientation: Transform of a stored frame to the upright one.
        display: Pixel aspect and colour tags.
        metadata: Tags that are kept, by lower-case name.
        has_tracks: Whether the file has audio or subtitles.
    """

    path: Path
    video_index: int
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

    ``timed`` is False if the container stores only the order of decoding (AVI).
    """

    stamps: list[tuple[int | None, int]]
    first: av.VideoFrame
    timed: bool
    exact: bool


def probe_video(path: str | Path, unknown_rate: Fraction | None = None) -> VideoInfo:
    """Read the properties of a video file.

    Args:
        path: The file.
        unknown_rate: Frame rate of a file that has none, such as a raw H.264 stream; None: FFmpeg's guess.

    Raises:
        MediaError: If it is missing, an image, without video, damaged or truncated.
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
            video_index=container.streams.video.index(stream),
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
    """Count the packets of the first video stream that are shown."""
    with open_media(path) as container:
        stream = video_stream(container, path)
        return sum(_is_shown(packet, stream.codec_context.name) for packet in container.demux(stream))


def _is_shown(packet: av.Packet, codec: str) -> bool:
    if packet.size == 0 or packet.is_discard:
        return False
    # VP8 stores frames that only serve as references; bit 4 of the first byte marks those that are shown.
    return codec != "vp8" or bool(bytes(packet)[0] & 16)


def _scan(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> _Packets:
    codec = stream.codec_context.name
    first: av.VideoFrame | None = None
    num_packets = 0
    stamps: list[tuple[int | None, int | None, int]] = []
    for packet in container.demux(stream):
        if first is None:
            try:
                first = next(iter(packet.decode()), None)
            except av.InvalidDataError:
                # A clip cut out of another may begin with packets whose reference is missing.
                first = None
        num_packets += packet.size > 0
        if _is_shown(packet, codec):
            stamps.append((packet.pts, packet.dts, packet.duration or 0))
    if first is None:
        raise MediaError(f"{path} holds no frame that can be decoded. It is empty, damaged or truncated.")
    if "mp4" in container.format.name and num_packets < stream.frames:
        raise MediaError(f"{path} is truncated: its header declares {stream.frames} frames, it holds {num_packets}.")
    # AVI has no time stamps: FFmpeg makes them up, a frame late where it suspects reordering.
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
    """Whether the rate is the file's own. Without a container frames have no times, and FFmpeg assumes a rate."""
    untimed = all(start is None for start, _ in packets.stamps)
    return not untimed and bool(stream.average_rate or stream.guessed_rate or len(packets.stamps) > 1)


def _ascending(starts: list[int]) -> list[int]:
    """Move equal neighbouring time stamps one tick apart."""
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
