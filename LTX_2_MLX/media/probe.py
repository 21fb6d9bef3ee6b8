"""Properties of a video file: size, frame rate, time of each frame, tracks, and what is wrong with it."""

from dataclasses import dataclass, field
from fractions import Fraction
from operator import attrgetter
from pathlib import Path
from typing import Any

import av

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.display import HDR, Display, Orientation
from LTX_2_MLX.media.extras import Extras, read_extras, read_tags
from LTX_2_MLX.media.image_formats import refuse_images
from LTX_2_MLX.media.source import Frames, Packets, begins_as_video, open_media, scan_frames, scan_packets, video_stream
from LTX_2_MLX.media.timeline import Shifts, constant_rate, fill_gaps, order_stamps, usual_step

_UNSPECIFIED = (0, 2, 3)
# Used for a video of one frame without a rate; LTX-2's own default.
_DEFAULT_RATE = Fraction(24)
# Containers whose header tells the length of the video exactly, so that a shorter one has been cut.
_EXACT_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
# Codecs whose frames may carry a colour profile: PyAV 18.1 crashes when their side data is read.
_CODECS_WITH_PROFILES = ("png", "apng", "webp", "tiff", "jpegxl", "jpeg2000")


@dataclass(frozen=True)
class VideoInfo:
    """Properties of one video file.

    Attributes:
        path: The file.
        video_index: Index of the video among all streams of the file.
        height: Pixels, upright.
        width: Pixels, upright.
        frame_rate: Frames per second; the mean where ``times`` is given.
        num_frames: Number of frames shown.
        times: As ``FrameStream.times``; None for a constant rate.
        repeats: How often each frame that the decoder returns is shown; 0 for one that is left out.
        start: Time of the first frame in the file's clock, in seconds; None without time stamps.
        lead: Seconds from the start of the earliest track to the first frame.
        shifts: What to add to the times of packets, so that joined pieces follow each other.
        orientation: Transform of a stored frame to the upright one.
        display: Pixel aspect and colour tags.
        metadata: Tags by lower-case name.
        extras: Chapters, cover image, fonts and time code.
        has_tracks: Whether the file has audio or subtitles.
        interlaced: Whether most frames are interlaced.
        bit_depth: Of the stored frames.
        notes: What the user should know of the file.
        decoding_bytes: Memory that decoding takes at most.
        damage: What is wrong with it; with ``repair`` it has been worked around.
    """

    path: Path
    video_index: int
    height: int
    width: int
    frame_rate: Fraction
    num_frames: int
    times: tuple[Fraction, ...] | None
    repeats: tuple[int, ...]
    start: Fraction | None
    lead: Fraction
    shifts: Shifts
    orientation: Orientation
    display: Display
    metadata: dict[str, str] = field(default_factory=dict)
    extras: Extras = field(default_factory=Extras)
    has_tracks: bool = False
    interlaced: bool = False
    bit_depth: int = 8
    notes: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()
    decoding_bytes: int = 0


def probe_video(path: str | Path, unknown_rate: Fraction | None = None, *, repair: bool = False) -> VideoInfo:
    """Read the properties of a video file; every packet is read and every frame decoded once.

    Args:
        path: The file.
        unknown_rate: Frame rate of a file that has none, such as a raw H.264 stream; None: FFmpeg's guess.
        repair: Repeat a frame for each one that is damaged or missing, instead of refusing the file.

    Raises:
        MediaError: If it is missing, an image, without video, or damaged (without ``repair``).
    """
    path = Path(path)
    if not begins_as_video(path):
        refuse_images(path)
    with open_media(path) as container:
        video_index = video_stream(container, path).index
    packets = scan_packets(path, video_index)
    frames = scan_frames(path, video_index, packets.shifts)
    if frames.first is None:
        raise MediaError(f"{path} holds no frame that can be decoded. It is empty, damaged or truncated.")
    with open_media(path) as container:
        return _Probe(path, container, video_index, packets, frames, unknown_rate).info(repair)


class _Probe:
    """What the scans of a file come to."""

    def __init__(
        self,
        path: Path,
        container: av.container.InputContainer,
        video_index: int,
        packets: Packets,
        frames: Frames,
        unknown_rate: Fraction | None,
    ):
        self._path = path
        self._container = container
        video: Any = container.streams[video_index]
        self._video: av.VideoStream = video
        self._packets = packets
        self._frames = frames
        self._unknown_rate = unknown_rate
        self._notes: list[str] = []
        self._tick: Fraction = self._video.time_base or Fraction(1, 1000)
        self._stamps = packets.tracks[video_index].stamps
        # Without a container frames have no times of their own, and FFmpeg assumes a rate.
        self._has_times = self._stamps.has_times
        # Usual duration of a frame in ticks.
        self._step = usual_step(frames.stamps)

    def info(self, repair: bool) -> VideoInfo:
        """Judge the file.

        Raises:
            MediaError: If it is damaged and not to be repaired, or changes its size.
        """
        damage = self._damage()
        if damage and not repair:
            raise MediaError(
                f"{self._path} is damaged: {'; '.join(damage)}. "
                f"Pass --repair to go on (frames are repeated, gaps in the audio stay silent), or mend the file first."
            )
        first = self._frames.first
        assert first is not None
        repeats, rate, times = self._timing(repair and bool(damage))
        orientation, display = self._shown(first)
        height, width = orientation.size(first.height, first.width)
        start, lead = self._beginning(repeats)
        interlaced = 2 * self._frames.num_interlaced > len(self._frames.stamps)
        if damage:
            remedy = (
                "Frames are repeated in the gaps" if max(repeats) > 1 else "The frames that can be decoded are used"
            )
            self._notes.append(f"{self._path.name} is damaged: {'; '.join(damage)}. {remedy}.")
        return VideoInfo(
            path=self._path,
            video_index=self._video.index,
            height=height,
            width=width,
            frame_rate=rate,
            num_frames=sum(repeats),
            times=times,
            repeats=tuple(repeats),
            start=start,
            lead=lead,
            shifts=self._packets.shifts,
            orientation=orientation,
            display=display,
            metadata=read_tags(self._container),
            extras=read_extras(self._container, self._video, start or Fraction(0), rate),
            has_tracks=bool(self._container.streams.audio or self._container.streams.subtitles),
            interlaced=interlaced,
            bit_depth=max(map(attrgetter("bits"), first.format.components)),
            notes=tuple([*self._notes, *self._notes_on_tracks()]),
            damage=tuple(damage),
            decoding_bytes=self._frames.decoding_bytes,
        )

    def _damage(self) -> list[str]:
        frames = self._frames
        if frames.changed_size is not None:
            raise MediaError(
                f"{self._path} changes its size at frame {frames.changed_size}. Re-encode it with one size."
            )
        damage = []
        if self._packets.error is not None:
            damage.append(f"reading ends early ({self._packets.error.lower()})")
        if frames.num_corrupt or frames.num_errors:
            count = max(frames.num_corrupt, frames.num_errors)
            damage.append(
                f"{count} of {len(frames.stamps) - frames.num_leading} frames cannot be decoded{self._where()}"
            )
        num_lost = self._packets.num_corrupt(self._video.index)
        if num_lost:
            damage.append(f"data is missing in {num_lost} of {len(self._stamps.starts)} video packets")
        damage += self._truncation()
        return damage

    def _where(self) -> str:
        first_bad = self._frames.good.find(0, self._frames.num_leading)
        stamp = self._frames.stamps[first_bad] if first_bad >= 0 else None
        begin = self._frames.stamps[0]
        if stamp is None or begin is None:
            return ""
        return f", the first at {float((stamp - begin) * self._tick):.2f} s"

    def _notes_on_tracks(self) -> list[str]:
        """Joined pieces and damaged audio, which are no reason to refuse a file."""
        notes = []
        joints = self._packets.shifts.starts.get(self._video.index, [])
        if joints:
            notes.append(
                f"{self._path.name} consists of {len(joints) + 1} joined pieces with times of their own: "
                f"they follow each other."
            )
        for index, track in self._packets.tracks.items():
            num_lost = self._packets.num_corrupt(index)
            if track.kind == "audio" and num_lost:
                num_packets = len(track.stamps.starts)
                notes.append(
                    f"Audio track {index} of {self._path.name} is damaged: data is missing in {num_lost} of "
                    f"{num_packets} packets."
                )
        return notes

    def _truncation(self) -> list[str]:
        """Whether the file ends before its header says; only noted where headers are often wrong."""
        # Shifts of joined pieces are not in the file's clock.
        if self._packets.shifts.starts or not self._has_times:
            return []
        declared = self._declared_end()
        ends = []
        for stamp, duration in zip(self._frames.stamps, self._frames.durations, strict=True):
            if stamp is not None:
                ends.append(stamp + (duration or self._step))
        if declared is None or not ends:
            return []
        end = Fraction(max(ends)) * self._tick
        frame = self._step * self._tick or Fraction(1, 25)
        missing = declared - end
        # Only mp4 and mov count every frame's duration; in the others the last one may last longer than it says.
        tolerance = Fraction(1, 2) if self._container.format.name.startswith("mov,") else Fraction(3, 2)
        text = f"it ends at {float(end):.2f} s, its header says {float(declared):.2f} s"
        if missing <= tolerance * frame:
            if missing > Fraction(3, 4) * frame and self._container.format.name == "matroska,webm":
                self._notes.append(f"{self._path.name} may be a frame shorter than its header says: {text}.")
            return []
        if self._container.format.name in _EXACT_LENGTH:
            return [text]
        if missing > 1:
            self._notes.append(f"{self._path.name} is shorter than its header says: {text}.")
        return []

    def _declared_end(self) -> Fraction | None:
        """End of the video as the header says, or of the file if no track reaches it."""
        tagged = self._track_end()
        if tagged is not None and self._container.format.name != "matroska,webm":
            return tagged
        if self._container.duration is None:
            return tagged
        declared = Fraction(self._container.duration + max(0, self._container.start_time or 0), av.time_base)
        if tagged is not None:
            return min(tagged, declared)
        tracks = self._packets.tracks.values()
        ends = [track.stamps.last_end() for track in tracks if track.stamps.has_times]
        # If another track reaches the declared end, the video is simply shorter.
        return declared if ends and max(ends) < declared - Fraction(1, 10) else None

    def _timing(self, fill: bool) -> tuple[list[int], Fraction, tuple[Fraction, ...] | None]:
        """How often each decoded frame is shown, the frame rate, and the times of a variable one."""
        good = [index for index, is_good in enumerate(self._frames.good) if is_good]
        stamps = [self._frames.stamps[index] for index in good]
        declared = [Fraction(rate) for rate in (self._video.average_rate, self._video.guessed_rate) if rate]
        ordered = order_stamps(stamps, self._step) if self._has_times else None
        if ordered is None:
            return self._untimed(stamps, declared)
        starts = ordered.starts
        counts = [1] * len(good)
        rate: Fraction | None
        times = None
        if len(good) == 1:
            duration = self._frames.durations[good[0]] * self._tick
            rate = next(iter(declared), 1 / duration if duration else _DEFAULT_RATE)
        else:
            if ordered.num_moved:
                self._notes.append(
                    f"{ordered.num_moved} of {len(stamps)} frames of {self._path.name} have missing, repeated or "
                    f"backward time stamps: they are spaced evenly."
                )
            if fill:
                counts = fill_gaps(starts, self._step)
                starts = _filled(starts, counts)
            rate = constant_rate(starts, self._tick, declared)
        if rate is None:
            end = starts[-1] + self._last_duration(good[-1])
            rate = (len(starts) / (end * self._tick)).limit_denominator(100_000)
            times = tuple(start * self._tick for start in (*starts, end))
        repeats = [0] * len(self._frames.good)
        for index, count in zip(good, counts, strict=True):
            repeats[index] = count
        return repeats, rate, times

    def _untimed(
        self, stamps: list[int | None], declared: list[Fraction]
    ) -> tuple[list[int], Fraction, tuple[Fraction, ...] | None]:
        rate = next(iter(declared), _DEFAULT_RATE)
        if not self._has_times and self._unknown_rate is not None:
            rate = self._unknown_rate
        if any(stamp is not None for stamp in stamps) and len(stamps) > 1 and self._has_times:
            self._notes.append(
                f"The time stamps of {self._path.name} are unusable: {float(rate):g} frames per second are assumed."
            )
        return [int(good) for good in self._frames.good], rate, None

    def _last_duration(self, index: int) -> Fraction:
        """Duration of the last frame in ticks; Matroska and AVI tell it by the track's end alone.

        Where the file does not tell, it is the usual one: the step before may be a gap. MP4 and MOV store the step
        to the frame that is decoded next, which is another one where the last frame is not decoded last.
        """
        is_stored = self._container.format.name not in ("matroska,webm", "avi")
        stored = Fraction(self._frames.durations[index] or self._step)
        declared, stamp = self._track_end(), self._frames.stamps[index]
        if declared is None or stamp is None or (is_stored and self._stamps.starts[-1] == stamp):
            return stored
        duration = declared / self._tick - stamp
        fits = self._step / 2 <= duration if is_stored else 0 < duration <= 10 * self._step
        return duration if fits else stored

    def _track_end(self) -> Fraction | None:
        """End of the video in seconds as its own header says."""
        if self._packets.shifts.starts:
            return None
        if self._container.format.name == "matroska,webm":
            return _seconds_of_tag(self._video.metadata)
        if self._video.duration and self._container.format.name in _EXACT_LENGTH:
            return (self._video.start_time or 0) * self._tick + self._video.duration * self._tick
        return None

    def _beginning(self, repeats: list[int]) -> tuple[Fraction | None, Fraction]:
        """Time of the first frame in the file's clock, and seconds to it from the start of the earliest track."""
        start = None
        if self._has_times and self._container.format.name == "avi":
            # AVI stores the order of decoding only: FFmpeg's times are a frame late where it suspects reordering.
            start = self._stamps.first_order()
        elif self._has_times:
            first = list(map(bool, repeats)).index(True)
            stamp = self._frames.stamps[first]
            start = None if stamp is None else stamp * self._tick
        if start is None or self._container.start_time is None:
            return start, Fraction(0)
        lead = start - Fraction(self._container.start_time, av.time_base)
        # Both times are rounded to their own ticks: less than half a millisecond is no lead.
        return start, lead if lead > Fraction(1, 2000) else Fraction(0)

    def _shown(self, frame: av.VideoFrame) -> tuple[Orientation, Display]:
        """Transform of a stored frame to the upright one, and how players show it."""
        orientation = Orientation()
        hdr = None
        if self._video.codec_context.name not in _CODECS_WITH_PROFILES:
            matrix: Any = frame.side_data.get("DISPLAYMATRIX")
            try:
                orientation = Orientation.from_display_matrix(bytes(matrix)) if matrix else orientation
            except MediaError as error:
                raise MediaError(f"{self._path}: {error}") from error
            hdr = HDR.of_frame(frame)
        aspect = self._video.sample_aspect_ratio or Fraction(1)
        primaries = int(frame.color_primaries)
        transfer = int(frame.color_trc)
        display = Display(
            pixel_aspect=1 / aspect if orientation.transpose else aspect,
            primaries=1 if primaries in _UNSPECIFIED else primaries,
            transfer=1 if transfer in _UNSPECIFIED else transfer,
            hdr=hdr,
        )
        return orientation, display


def _filled(starts: list[Fraction], counts: list[int]) -> list[Fraction]:
    """Starts of all frames after repeating each as often as ``counts`` says."""
    filled = []
    for index, count in enumerate(counts):
        following = starts[index + 1] if index + 1 < len(starts) else starts[index]
        step = (following - starts[index]) / count
        filled += [starts[index] + number * step for number in range(count)]
    return filled


def _seconds_of_tag(metadata: dict[str, str]) -> Fraction | None:
    """The track's end that Matroska's muxers write as a tag, ``00:00:01.221000000``."""
    for name, text in metadata.items():
        if name.upper() == "DURATION":
            try:
                hours, minutes, seconds = text.split(":")
                return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
            except ValueError:
                return None
    return None
