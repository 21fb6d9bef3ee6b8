"""Reading video files as streams of RGB frames, one chunk in memory at a time.

A file is looked through first: size, frame rate, time of each frame, and what is wrong with it. Every frame is kept;
with a variable frame rate each keeps its time. Interlaced video is read as whole frames unless deinterlacing is asked
for, alpha is ignored.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from operator import lt
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.deinterlace import MODES, Deinterlace, deinterlaced
from LTX_2_MLX.media.encoder import HDR, Display, check_bit_depth
from LTX_2_MLX.media.extras import Extras, read_extras
from LTX_2_MLX.media.frames import FrameStream, SourceTracks, observed
from LTX_2_MLX.media.image_formats import refuse_images
from LTX_2_MLX.media.source import Orientation, RgbReader, begins_as_video, open_media
from LTX_2_MLX.media.tracks import Frames, Packets, Shifts, decode, scan_frames, scan_packets, usual_step
from LTX_2_MLX.media.writer import write_video

__all__ = ["read_video", "write_video"]

_CHUNK_BYTES = 32 * 2**20
_MAX_CHUNK_FRAMES = 16
_UNSPECIFIED = (0, 2, 3)
# Used for a video of one frame without a rate; LTX-2's own default.
_DEFAULT_RATE = Fraction(24)
# Rates that files round: their time stamps are often too coarse to distinguish them.
_STANDARD_RATES = tuple(
    Fraction(rate)
    for rate in (
        "24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60", "12", "15",
        "48000/1001", "100", "120000/1001", "120",
    )
)  # fmt: skip
# If fewer stamps are in order, they are not stamps at all.
_SMALLEST_SHARE_IN_ORDER = Fraction(1, 2)
# Containers whose header tells the length of the video exactly, so that a shorter one has been cut.
_EXACT_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
# Codecs whose frames may carry a colour profile: PyAV 18.1 crashes when their side data is read.
_CODECS_WITH_PROFILES = ("png", "apng", "webp", "tiff", "jpegxl", "jpeg2000")
# Tags that describe the old file itself.
_STRUCTURE = frozenset(
    (
        "major_brand", "minor_version", "compatible_brands", "encoder", "software", "duration", "handler_name",
        "vendor_id", "timecode", "creation_time_original",
    )
)  # fmt: skip
_INTERLACED = (
    "The video is interlaced: its frames show two moments in alternate rows, which networks take for detail. "
    "Pass --deinterlace same or --deinterlace double."
)


def read_video(
    path: str | Path,
    unknown_rate: Fraction | None = None,
    *,
    repair: bool = False,
    deinterlace: Deinterlace | None = None,
    bit_depth: int = 8,
) -> FrameStream:
    """Open a video file as a stream of upright RGB frames, decoded when they are read.

    The whole file is looked through first, so that its faults are known before the work. Audio and subtitle tracks
    come along (``audio``), and the file's title and similar tags as ``metadata``.

    Args:
        path: The file.
        unknown_rate: Frame rate of a file that has none, such as a raw H.264 stream; None: FFmpeg's guess.
        repair: Read damaged files too: damaged and missing frames are replaced by the one before.
        deinterlace: ``same``: whole frames from interlaced ones. ``double``: one from each field, at twice the rate.
        bit_depth: 8, or 10: frames are uint16, and written with 10 bits.

    Raises:
        MediaError: If it is missing, an image, without video, or damaged (without ``repair``).
    """
    if deinterlace is not None and deinterlace not in MODES:
        raise MediaError(f"deinterlace is {deinterlace!r}, expected {' or '.join(get_args(Deinterlace))}.")
    if bit_depth != 8:
        check_bit_depth(bit_depth)
    path = Path(path)
    if not begins_as_video(path):
        refuse_images(path)
    packets = scan_packets(path)
    frames = scan_frames(path, packets.video_index, packets.shifts)
    if frames.first is None:
        raise MediaError(f"{path} holds no frame that can be decoded. It is empty, damaged or truncated.")
    with open_media(path) as container:
        clip = _Clip(path, container, packets, frames, frames.first, unknown_rate)
        return observed(clip.stream(deinterlace, bit_depth, repair=repair))


class _Clip:
    """A video file, open for its header, with the scans of its packets and frames."""

    def __init__(
        self,
        path: Path,
        container: av.container.InputContainer,
        packets: Packets,
        frames: Frames,
        first: av.VideoFrame,
        unknown_rate: Fraction | None,
    ):
        self._path = path
        self._container = container
        video: Any = container.streams[packets.video_index]
        self._video: av.VideoStream = video
        self._packets = packets
        self._frames = frames
        self._first = first
        self._unknown_rate = unknown_rate
        self._notes: list[str] = []
        self._tick: Fraction = self._video.time_base or Fraction(1, 1000)
        # Without a container its packets have no times of their own, and FFmpeg assumes a rate.
        self._track = packets.tracks[packets.video_index]
        # Usual duration of a frame in ticks.
        self._step = usual_step(frames.stamps)
        # End of the video in seconds as its own header says.
        self._track_end: Fraction | None = None
        if container.format.name == "matroska,webm":
            self._track_end = _seconds_of_tag(video.metadata)
        elif video.duration and container.format.name in _EXACT_LENGTH:
            self._track_end = (video.start_time or 0) * self._tick + video.duration * self._tick
        if packets.shifts.starts:
            self._track_end = None

    def stream(self, deinterlace: Deinterlace | None, bit_depth: int, *, repair: bool) -> FrameStream:
        """The frames as they are shown, with the tracks and tags of the file.

        Raises:
            MediaError: If it is damaged and not to be repaired, or changes its size.
        """
        damage = self._damage()
        if damage and not repair:
            raise MediaError(
                f"{self._path} is damaged: {'; '.join(damage)}. "
                f"Pass --repair to go on (frames are repeated, gaps in the audio stay silent), or mend the file first."
            )
        repeats, rate, times = self._timing(fill=bool(damage))
        if damage:
            remedy = (
                "Frames are repeated in the gaps" if max(repeats) > 1 else "The frames that can be decoded are used"
            )
            self._notes.append(f"{self._path.name} is damaged: {'; '.join(damage)}. {remedy}.")
        orientation, display = self._shown()
        height, width = orientation.size(self._first.height, self._first.width)
        start, lead = self._beginning()
        tags, extras = self._tags_and_extras(start or Fraction(0), rate)
        # Frames that are shown for each stored one.
        num_fields = 2 if deinterlace == "double" else 1
        shifts = self._packets.shifts
        exact = bool(damage) or 0 in repeats
        stored = _StoredFrames(self._path, self._video.index, shifts, tuple(repeats), orientation, exact)
        streams = self._container.streams
        return FrameStream(
            chunks=stored.chunks((height, width), deinterlace, num_fields, bit_depth),
            height=height,
            width=width,
            frame_rate=rate * num_fields,
            num_frames=sum(repeats) * num_fields,
            audio=SourceTracks(self._path, lead, start, shifts) if streams.audio or streams.subtitles else None,
            metadata=tags,
            times=_field_times(times) if times is not None and num_fields == 2 else times,
            display=display,
            bit_depth=bit_depth,
            extras=extras,
            decoding_bytes=self._frames.decoding_bytes,
            notes=(*self._notes, *self._further_notes(deinterlace, bit_depth)),
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
        if self._track.corrupt:
            num_packets = len(self._track.starts)
            damage.append(f"data is missing in {len(self._track.corrupt)} of {num_packets} video packets")
        damage += self._truncation()
        return damage

    def _where(self) -> str:
        first_bad = self._frames.good.find(0, self._frames.num_leading)
        stamp = self._frames.stamps[first_bad] if first_bad >= 0 else None
        begin = self._frames.stamps[0]
        if stamp is None or begin is None:
            return ""
        return f", the first at {float((stamp - begin) * self._tick):.2f} s"

    def _further_notes(self, deinterlace: Deinterlace | None, bit_depth: int) -> list[str]:
        """Joined pieces, damaged audio, interlaced frames and more bits than are read."""
        notes = []
        joints = self._packets.shifts.starts.get(self._video.index, [])
        if joints:
            notes.append(
                f"{self._path.name} consists of {len(joints) + 1} joined pieces with times of their own: "
                f"they follow each other."
            )
        for index, track in self._packets.tracks.items():
            if track.kind == "audio" and track.corrupt:
                notes.append(
                    f"Audio track {index} of {self._path.name} is damaged: data is missing in {len(track.corrupt)} of "
                    f"{len(track.starts)} packets."
                )
        if 2 * self._frames.num_interlaced > len(self._frames.stamps) and deinterlace is None:
            notes.append(_INTERLACED)
        stored_depth = 0
        for component in self._first.format.components:
            stored_depth = max(stored_depth, component.bits)
        if stored_depth > bit_depth:
            advice = " Pass --bit-depth 10 to keep ten." if bit_depth == 8 else ""
            notes.append(f"{self._path.name} has {stored_depth} bits for each colour: {bit_depth} are read.{advice}")
        return notes

    def _truncation(self) -> list[str]:
        """Whether the file ends before its header says; only noted where headers are often wrong."""
        # Shifts of joined pieces are not in the file's clock.
        if self._packets.shifts.starts or not self._track.has_times:
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
        tagged = self._track_end
        if tagged is not None and self._container.format.name != "matroska,webm":
            return tagged
        if self._container.duration is None:
            return tagged
        declared = Fraction(self._container.duration + max(0, self._container.start_time or 0), av.time_base)
        if tagged is not None:
            return min(tagged, declared)
        tracks = self._packets.tracks.values()
        ends = [track.last_end() for track in tracks if track.has_times]
        # If another track reaches the declared end, the video is simply shorter.
        return declared if ends and max(ends) < declared - Fraction(1, 10) else None

    def _timing(self, fill: bool) -> tuple[list[int], Fraction, tuple[Fraction, ...] | None]:
        """How often each decoded frame is shown, the frame rate, and the times of a variable one."""
        good, stamps = [], []
        for index, is_good in enumerate(self._frames.good):
            if is_good:
                good.append(index)
                stamps.append(self._frames.stamps[index])
        declared = []
        for stated in (self._video.average_rate, self._video.guessed_rate):
            if stated:
                declared.append(Fraction(stated))
        ordered = order_stamps(stamps, self._step) if self._track.has_times else None
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
                counts, starts = fill_gaps(starts, self._step)
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
        if not self._track.has_times and self._unknown_rate is not None:
            rate = self._unknown_rate
        if any(stamp is not None for stamp in stamps) and len(stamps) > 1 and self._track.has_times:
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
        declared, stamp = self._track_end, self._frames.stamps[index]
        if declared is None or stamp is None or (is_stored and self._track.starts[-1] == stamp):
            return stored
        duration = declared / self._tick - stamp
        fits = self._step / 2 <= duration if is_stored else 0 < duration <= 10 * self._step
        return duration if fits else stored

    def _beginning(self) -> tuple[Fraction | None, Fraction]:
        """Time of the first frame in the file's clock, and seconds to it from the start of the earliest track."""
        start = None
        if self._track.has_times and self._container.format.name == "avi":
            # AVI stores the order of decoding only: FFmpeg's times are a frame late where it suspects reordering.
            start = self._track.first_order()
        elif self._track.has_times:
            stamp = self._frames.stamps[self._frames.good.index(1)]
            start = None if stamp is None else stamp * self._tick
        if start is None or self._container.start_time is None:
            return start, Fraction(0)
        lead = start - Fraction(self._container.start_time, av.time_base)
        # Both times are rounded to their own ticks: less than half a millisecond is no lead.
        return start, lead if lead > Fraction(1, 2000) else Fraction(0)

    def _shown(self) -> tuple[Orientation, Display]:
        """Transform of a stored frame to the upright one, and how players show it."""
        frame = self._first
        orientation = Orientation()
        hdr = None
        if self._video.codec_context.name not in _CODECS_WITH_PROFILES:
            matrix: Any = frame.side_data.get("DISPLAYMATRIX")
            mastering = frame.side_data.get("MASTERING_DISPLAY_METADATA")
            light = frame.side_data.get("CONTENT_LIGHT_LEVEL")
            try:
                orientation = Orientation.from_display_matrix(bytes(matrix)) if matrix else orientation
            except MediaError as error:
                raise MediaError(f"{self._path}: {error}") from error
            if mastering is not None or light is not None:
                hdr = HDR.from_side_data(mastering, light)
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

    def _tags_and_extras(self, start: Fraction, rate: Fraction) -> tuple[dict[str, str], Extras]:
        """Tags by lower-case name, and what else the file holds: most files nothing but audio and subtitles."""
        source, video = self._container, self._video
        tags = {}
        for name, text in source.metadata.items():
            if text and name.lower() not in _STRUCTURE:
                tags[name.lower()] = text
        num_others = len(source.streams) - 1 - len(source.streams.audio) - len(source.streams.subtitles)
        names_of_tags = " ".join((*source.metadata, *video.metadata)).lower()
        if num_others or source.chapters() or "timecode" in names_of_tags:
            return tags, read_extras(source, video, start, rate)
        return tags, Extras()


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


def _field_times(times: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Times of both fields of each frame: its start, and halfway to the next."""
    fields = [time for start, end in pairwise(times) for time in (start, (start + end) / 2)]
    return (*fields, times[-1])


@dataclass(frozen=True)
class _StoredFrames:
    """The frames of a file as they are stored, and what is shown of them.

    Attributes:
        path: The file.
        video_index: Index of the video among all streams of the file.
        shifts: What to add to the times of packets, so that joined pieces follow each other.
        repeats: How often each frame that the decoder returns is shown; 0 for one that is left out.
        orientation: Transform of a stored frame to the upright one.
        exact: Whether marks of damage count.
    """

    path: Path
    video_index: int
    shifts: Shifts
    repeats: tuple[int, ...]
    orientation: Orientation
    exact: bool

    def chunks(
        self, size: tuple[int, int], deinterlace: Deinterlace | None, num_fields: int, bit_depth: int
    ) -> Iterator[np.ndarray]:
        """Chunks ``(T, H, W, 3)`` of the frames as they are shown."""
        frame_bytes = size[0] * size[1] * 3 * (1 if bit_depth == 8 else 2)
        length = min(_MAX_CHUNK_FRAMES, max(1, _CHUNK_BYTES // frame_bytes))
        to_rgb = RgbReader(self.orientation, bit_depth)
        chunk: list[np.ndarray] = []
        num_read = 0
        # The decoder's threads come to rest before the file is closed.
        with (
            open_media(self.path) as container,
            closing(decode(container, self.video_index, self.shifts, exact=self.exact)) as decoded,
        ):
            frames = decoded if deinterlace is None else deinterlaced(decoded, deinterlace)
            for count in self.repeats:
                fields = list(islice(frames, num_fields))
                if len(fields) < num_fields:
                    break
                num_read += 1
                images = []
                if count:
                    for field in fields:
                        images.append(to_rgb(field))
                    images += [images[-1]] * ((count - 1) * num_fields)
                for image in images:
                    chunk.append(image)
                    if len(chunk) == length:
                        yield np.stack(chunk)
                        chunk = []
        if num_read < len(self.repeats):
            raise MediaError(
                f"{self.path} changed while it was read: {num_read} of {len(self.repeats)} frames are left."
            )
        if chunk:
            yield np.stack(chunk)


def longest_ascending(stamps: Sequence[int]) -> list[int]:
    """Indices of a longest strictly ascending subsequence; of several, one that keeps early entries."""
    tails: list[int] = []
    tail_indices: list[int] = []
    following: dict[int, int] = {}
    # From the end, with the signs turned: a stamp that falls back then yields to the one before it.
    for index in range(len(stamps) - 1, -1, -1):
        length = bisect_left(tails, -stamps[index])
        if length:
            following[index] = tail_indices[length - 1]
        tails[length : length + 1] = [-stamps[index]]
        tail_indices[length : length + 1] = [index]
    indices = []
    index = tail_indices[-1] if tail_indices else -1
    while index >= 0:
        indices.append(index)
        index = following.get(index, -1)
    return indices


@dataclass(frozen=True)
class Times:
    """Start of each frame in ticks from the first, all different and ascending.

    Attributes:
        starts: One for each frame; fractions where stamps had to be spaced anew.
        num_moved: Frames whose own stamp was missing, repeated or out of order.
    """

    starts: list[Fraction]
    num_moved: int


def order_stamps(stamps: Sequence[int | None], duration: Fraction) -> Times | None:
    """Bring the time stamps of frames into ascending order.

    Frames without a stamp of their own, or with one that is repeated or out of order, are spaced evenly between
    their neighbours.

    Args:
        stamps: In the order in which the frames are shown.
        duration: Usual duration of a frame in ticks, used after the last good stamp.

    Returns:
        None if most stamps are missing or out of order.
    """
    indices, values = [], []
    for index, stamp in enumerate(stamps):
        if stamp is not None:
            indices.append(index)
            values.append(stamp)
    is_ascending = len(values) == len(stamps) and all(map(lt, values, values[1:]))
    good = []
    starts = [Fraction(0)] * len(stamps)
    for place in range(len(values)) if is_ascending else longest_ascending(values):
        good.append(indices[place])
        starts[indices[place]] = Fraction(values[place])
    if not good or len(good) < len(stamps) * _SMALLEST_SHARE_IN_ORDER:
        return None
    for index in range(good[0] - 1, -1, -1):
        starts[index] = starts[index + 1] - duration
    for before, after in pairwise(good):
        step = (starts[after] - starts[before]) / (after - before)
        for index in range(before + 1, after):
            starts[index] = starts[before] + (index - before) * step
    for index in range(good[-1] + 1, len(stamps)):
        starts[index] = starts[index - 1] + duration
    begin = starts[0]
    for index, start in enumerate(starts):
        starts[index] = start - begin
    return Times(starts=starts, num_moved=len(stamps) - len(good))


def constant_rate(starts: Sequence[Fraction], tick: Fraction, declared: Sequence[Fraction]) -> Fraction | None:
    """Return the frame rate if the frames have a constant one, up to the rounding of their stamps.

    Args:
        starts: Start of each frame in ticks from the first, at least two.
        tick: Unit of the stamps in seconds.
        declared: Rates that the file declares. Rates such as 19001/317, means of rounded stamps, yield to a standard
            rate that fits as well.
    """
    seconds = []
    for start in starts:
        seconds.append(start * tick)
    mean = (len(starts) - 1) / seconds[-1]
    candidates = []
    for rate in declared:
        if rate.denominator in (1, 1001):
            candidates.append(rate)
    candidates += [*_STANDARD_RATES, *declared]
    for nearest in (Fraction(round(mean)), Fraction(round(mean * 1001 / 1000) * 1000, 1001)):
        if nearest > 0:
            candidates.append(nearest)
    for rate in candidates:
        # One tick either way is rounding, unless a tick is most of a frame.
        rounding = min(tick, 1 / (8 * rate))
        for index, time in enumerate(seconds):
            if abs(time - index / rate) > rounding:
                break
        else:
            return rate
    return None


def fill_gaps(starts: list[Fraction], step: Fraction) -> tuple[list[int], list[Fraction]]:
    """Repeat frames across gaps, so that the rate becomes constant where it can.

    Args:
        starts: Start of each frame in ticks, ascending.
        step: Usual duration of a frame in ticks.

    Returns:
        How often each frame is shown, and the starts of all that are shown.
    """
    if not step:
        return [1] * len(starts), starts
    counts = []
    filled = []
    for before, after in pairwise(starts):
        count = max(1, round((after - before) / step))
        counts.append(count)
        filled += [before + number * (after - before) / count for number in range(count)]
    return [*counts, 1], [*filled, starts[-1]]
