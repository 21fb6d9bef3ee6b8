"""Writing streams of RGB frames to video files, encoded as the frames are computed.

A file gets its final name when it is complete and holds every frame. Its comment tag holds the record of the run: the
command, its settled request, files and versions.
"""

import heapq
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Protocol

import av
import numpy as np
from av.container import OutputContainer

from LTX_2_MLX._version import __version__
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.files import KEEPS_WRITES, check_free, check_writable, parse_json, reason, replaced_when_complete
from LTX_2_MLX.media.audio import Audio
from LTX_2_MLX.media.encoder import (
    CRF,
    SQUARE_ENCODERS,
    Codec,
    Display,
    Encoding,
    YuvWriter,
    choose_encoding,
    least_bytes,
)
from LTX_2_MLX.media.extras import Extras, lost_extras, write_extras
from LTX_2_MLX.media.source import count_packets, ffmpeg_messages, open_media
from LTX_2_MLX.media.suffixes import IMAGE_OUTPUTS
from LTX_2_MLX.media.tracks import OutputTrack, TimedPackets, choose_tracks
from LTX_2_MLX.runtime.progress import Progress, SilentProgress

# Finest unit of time written: files count in 32-bit numbers of it.
_FINEST_TICK = 90_000
_MUXER_OPTIONS = {
    # The index goes to the front, so that the video can be played while it is being loaded.
    "mp4": {"movflags": "+faststart"},
    "mov": {"movflags": "+faststart"},
    # Audio that starts before the video would shift it by a frame, and leave a gap after its first.
    "avi": {"avoid_negative_ts": "disabled"},
}
# Tags that mp4 and mov have places of their own for. With any other tag all of them become QuickTime metadata keys.
_MP4_TAGS = frozenset(
    (
        "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
        "lyrics", "description", "synopsis", "show", "network", "keywords", "creation_time", "location", "track",
    )
)  # fmt: skip
# The length of such a text has 16 bits in mov, and a longer one would be cut in silence: the record of a long prompt.
# QuickTime metadata keys have 32.
_MOV_TEXT_BYTES = 65_000
STAGE = "write"
_PROGRAM = "LTX-2-MLX"
_TAG = "comment"
# Where the record goes if the user's own comment is in the first.
_TAGS = (_TAG, "description", "synopsis")
# Frames that wait for the encoder: at most so many, and so many bytes.
_MOST_WAITING = 16
_MOST_WAITING_BYTES = 64 * 2**20


class FrameSource(Protocol):
    """What is written: the fields and methods of ``media.frames.FrameStream`` that the writer reads."""

    height: int
    width: int
    frame_rate: Fraction
    num_frames: int | None
    audio: Audio | None
    metadata: dict[str, str]
    times: tuple[Fraction, ...] | None
    display: Display
    bit_depth: int
    extras: Extras
    notes: tuple[str, ...]

    def frames(self) -> Iterator[np.ndarray]:
        """Frames ``(H, W, 3)``, uint8 or with more than 8 bits uint16, one by one."""

    def close(self) -> None:
        """Free whatever produces the frames."""


def write_video(
    stream: FrameSource,
    path: str | Path,
    *,
    codec: Codec = "auto",
    crf: float = CRF,
    exact_size: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a stream to a video file while its frames are computed; the stream is closed in any case.

    The file is bt709, limited range, with the stream's own frame rate or times. It appears under ``path`` only when
    it is complete and holds every frame. Audio and subtitles are interleaved by time. Writing all of them, and one
    frame, is tried out before the first frame is computed; what cannot be kept is reported to ``progress`` then.

    Args:
        stream: Frames, audio and metadata.
        path: .mp4, .m4v, .mov, .mkv, .avi or .webm; an existing file is replaced. AVI has a constant rate only.
            Images take one frame, .webp and .gif short loops; see ``media.stills``.
        codec: ``auto``, ``h264``, ``h265``, ``vp9``, or ``ffv1`` (lossless; .mkv and .avi).
        crf: Quality on x264's scale, 0 (best) to 51.
        exact_size: Keep an odd width or height in H.264 and H.265, in a pixel format that Apple's players lack.
        progress: Receives the number of frames handed to the encoder, and notes.

    Raises:
        MediaError: If the container, codec or folder is unsuitable, the disk is full, or frames are missing.
    """
    path = Path(path)
    progress = progress or SilentProgress()
    size = (stream.height, stream.width)
    try:
        if not KEEPS_WRITES.get():
            # Another process of the run encodes the same frames.
            deque(stream.frames(), maxlen=0)
            return path
        if path.suffix.lower() in IMAGE_OUTPUTS:
            if stream.bit_depth > 8:
                raise MediaError(f"--bit-depth 10: {path.suffix} is written with 8 bits here. Write .mp4 or .mkv.")
            return _write_stills(stream, path, progress)
        deep: Any = {"bit_depth": stream.bit_depth, "hdr": stream.bit_depth > 8 and stream.display.hdr is not None}
        encoding = choose_encoding(path, size, codec, crf, stream.num_frames, exact_size=exact_size, **deep)
        if stream.times is not None and not encoding.container.variable_rate:
            raise MediaError(f"{path.suffix} cannot hold a variable frame rate. Write .mp4 or .mkv instead.")
        check_writable(path)
        check_free(path, least_bytes(size, stream.num_frames or 1, codec))
        for note in (*stream.notes, *encoding.notes):
            progress.note(note)
        tracks: list[OutputTrack] = []
        if stream.audio is not None:
            ways = stream.audio.tracks(encoding.container, progress.note)
            tracks = choose_tracks(ways, encoding.container, progress.note)
        layout = _Layout(stream, encoding, tracks)
        layout.report_losses(progress.note)
        trial = choose_encoding(path, size, codec, crf, num_frames=1, exact_size=exact_size, **deep)
        _Layout(stream, trial, tracks).rehearse(path)
        with replaced_when_complete(path) as temporary:
            num_written = _write(stream, temporary, layout, progress)
            _check_count(stream, temporary, path, num_written)
    finally:
        stream.close()
    return path


def check_format(path: str | Path, size: tuple[int, int], num_frames: int | None, crf: float = CRF) -> None:
    """Raise ``MediaError`` unless ``write_video`` can write this many frames of this height and width to the path."""
    if Path(path).suffix.lower() in IMAGE_OUTPUTS:
        from LTX_2_MLX.media.stills import check_stills

        check_stills(path, size, num_frames)
    else:
        choose_encoding(path, size, crf=crf)


def _write_stills(stream: FrameSource, path: Path, progress: Progress) -> Path:
    # Imported here: most outputs are videos.
    from LTX_2_MLX.media.stills import write_stills

    for note in stream.notes:
        progress.note(note)
    return write_stills(
        stream.frames(),
        path,
        size=(stream.height, stream.width),
        num_frames=stream.num_frames,
        frame_rate=stream.frame_rate,
        times=stream.times,
        metadata=stream.metadata,
        audio=stream.audio,
        progress=progress,
    )


class _Layout:
    """All that an output file holds, in the order in which it is added, and when each frame is shown.

    Attributes:
        encoding: Of the video.
        to_yuv: Converts its frames.
        tick: Unit of their time stamps, in seconds.
    """

    def __init__(self, stream: FrameSource, encoding: Encoding, tracks: list[OutputTrack]):
        self._stream = stream
        self.encoding = encoding
        self._tracks = tracks
        self.to_yuv = YuvWriter(encoding.pixel_format, stream.display.matrix(encoding.bit_depth))
        # Seconds of audio before the first frame; none where the container starts all tracks together.
        self._lead = Fraction(0)
        if stream.audio is not None and encoding.container.late_tracks:
            self._lead = stream.audio.lead
        self.tick = 1 / stream.frame_rate
        if self._lead or stream.times is not None:
            times = (self.tick,) if stream.times is None else stream.times
            per_second = math.lcm(self._lead.denominator, *(time.denominator for time in times))
            self.tick = Fraction(1, min(per_second, _FINEST_TICK))
        self._ticks = None if stream.times is None else _different_ticks(stream.times, self._lead, self.tick)

    def ticks(self, index: int) -> int:
        """Start of frame ``index`` in ticks; one past the last frame it is the end of the video."""
        if self._ticks is None:
            return round((index / self._stream.frame_rate + self._lead) / self.tick)
        return self._ticks[index]

    def report_losses(self, note: Callable[[str], None]) -> None:
        """Report to ``note`` what the container cannot hold, and what is changed for it."""
        stream = self._stream
        container = self.encoding.container
        if stream.extras != Extras() or container.tags is not None:
            lost_extras(stream.extras, stream.metadata, container, stream.frame_rate, note)
        if self.encoding.encoder in SQUARE_ENCODERS and stream.display.pixel_aspect != 1:
            note(
                f"Not kept by {self.encoding.encoder}: the pixel aspect {stream.display.pixel_aspect}; players will "
                f"show square pixels. Write .mp4 or .mkv in H.264 to keep it."
            )
        if stream.display.hdr is not None and not self.encoding.holds_hdr:
            note("Not kept: mastering display and content light of HDR. Pass --bit-depth 10 and write H.265.")
        height, width = self.encoding.size
        if (height, width) != (stream.height, stream.width):
            note(
                f"H.264 and H.265 take even sizes only: {stream.width}×{stream.height} is written as {width}×{height}, "
                f"its last column or row repeated. --exact-size (write_video(exact_size=True)) keeps the size."
            )

    def open(self, file: str) -> tuple[OutputContainer, av.VideoStream, list[TimedPackets]]:
        """Open an output and add all tracks, tags and extras; returns its video track and the packets beside it."""
        container = self.encoding.container
        options = dict(_MUXER_OPTIONS.get(container.name, {}))
        if "movflags" in options:
            if file == os.devnull:
                # Moving the index to the front reads the file again.
                options["movflags"] = "-faststart"
            for name, text in self._stream.metadata.items():
                if name not in _MP4_TAGS or len(text.encode()) > _MOV_TEXT_BYTES:
                    options["movflags"] += "+use_metadata_tags"
                    break
        output = av.open(file, "w", format=container.name, container_options=options)
        for name, text in self._stream.metadata.items():
            if container.holds_tag(name):
                output.metadata[name] = text
        video = self.encoding.add_stream(output, self._stream.frame_rate, self.tick, self._stream.display)
        packets: list[TimedPackets] = []
        for track in self._tracks:
            packets.append(track.attach(output))
        extras = self._stream.extras
        if extras != Extras():
            first = write_extras(output, video, extras, container, self._stream.frame_rate, self._lead)
            packets.append((Fraction(-1), packet) for packet in first)
        return output, video, packets

    def rehearse(self, path: Path) -> None:
        """Write the header, a black frame and the trailer to nowhere.

        Raises:
            MediaError: If the encoder or the container refuses them.
        """
        messages: list[str] = []
        try:
            output, video, _ = self.open(os.devnull)
            with output:
                with ffmpeg_messages() as messages:
                    output.start_encoding()
                black = self.to_yuv(np.zeros((*self.encoding.size, 3), np.uint8))
                black.pts, black.time_base = self.ticks(0), self.tick
                for packet in [*video.encode(black), *video.encode(None)]:
                    with ffmpeg_messages() as messages:
                        output.mux(packet)
        except (av.FFmpegError, ValueError, OverflowError) as error:
            raise MediaError(f"{path} cannot be written: {reason(error, messages)}.") from error


def _different_ticks(times: tuple[Fraction, ...], lead: Fraction, tick: Fraction) -> list[int]:
    """Round times that may lie closer together than a tick; each frame begins at least a tick after the last."""
    ticks: list[int] = []
    for time in times:
        rounded = round((time + lead) / tick)
        ticks.append(max(rounded, ticks[-1] + 1) if ticks else rounded)
    return ticks


def waiting_bytes(height: int, width: int, bit_depth: int = 8) -> int:
    """Memory of the frames that wait for the encoder at most, for plans."""
    frame_bytes = 3 * height * width * (1 if bit_depth == 8 else 2)
    return frame_bytes * max(1, min(_MOST_WAITING, _MOST_WAITING_BYTES // frame_bytes))


def _write(stream: FrameSource, path: Path, layout: _Layout, progress: Progress) -> int:
    """Encode in a thread of its own while this one computes the frames and reports progress."""
    frame_bytes = 3 * stream.height * stream.width * (1 if stream.bit_depth == 8 else 2)
    most = waiting_bytes(stream.height, stream.width, stream.bit_depth) // frame_bytes
    # The last place is that of a frame which is put while encoding fails.
    video = _VideoPackets(stream, layout, waiting=Queue(most + 1))
    progress.begin(STAGE)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="encoder") as pool:
            encoding = pool.submit(_encode, video, path, layout)
            try:
                for done, image in enumerate(stream.frames(), start=1):
                    if video.stopped:
                        break
                    video.waiting.put(image)
                    progress.advance(STAGE, done, stream.num_frames)
                if not video.stopped:
                    video.waiting.put(None)
            except BaseException:
                video.stop()
                raise
            encoding.result()
        return video.num_encoded
    finally:
        progress.end(STAGE)


def _encode(video: "_VideoPackets", path: Path, layout: _Layout) -> None:
    """The encoder's thread; an error of FFmpeg, such as a full disk, is raised as one of the system."""
    try:
        output, track, beside = layout.open(str(path))
        try:
            # The header fixes the tracks, so all of them are added before the first packet.
            output.start_encoding()
            for _, packet in heapq.merge(video.packets(track), *beside, key=itemgetter(0)):
                output.mux(packet)
        except BaseException:
            # Without its name the file is not finalized at length; errors on closing it no longer matter.
            path.unlink(missing_ok=True)
            with suppress(av.FFmpegError, OSError):
                output.close()
            raise
        output.close()
    except av.FFmpegError as error:
        video.stop()
        raise OSError(error.errno, error.strerror) from error
    except BaseException:
        video.stop()
        raise


@dataclass
class _VideoPackets:
    """Encodes the frames to packets of the video track, and counts them.

    Attributes:
        stream: What the frames have to be like.
        layout: Of the file.
        waiting: Frames that were computed; None after the last one.
        num_encoded: Frames so far.
        stopped: Whether computing or encoding has failed: then neither side waits for the other.
    """

    stream: FrameSource
    layout: _Layout
    waiting: "Queue[np.ndarray | None]"
    num_encoded: int = 0
    stopped: bool = False
    # Encoders return packets late and in another order than the frames.
    _index_of: dict[int, int] = field(default_factory=dict)

    def packets(self, track: av.VideoStream) -> TimedPackets:
        """Encode all frames that arrive."""
        is_last = False
        while not is_last:
            image = self.waiting.get()
            is_last = image is None
            if is_last and self.stopped:
                raise MediaError("Writing was stopped.")
            if is_last and not self.num_encoded:
                return
            for packet in track.encode(None if image is None else self._frame(image)):
                assert packet.pts is not None and packet.dts is not None, "encoders set both"
                index = self._index_of.pop(packet.pts)
                packet.duration = self.layout.ticks(index + 1) - packet.pts
                yield packet.dts * packet.time_base, packet
            self.num_encoded += not is_last

    def stop(self) -> None:
        """Let neither side wait."""
        self.stopped = True
        with suppress(Empty):
            while True:
                self.waiting.get_nowait()
        with suppress(Full):
            self.waiting.put_nowait(None)

    def _frame(self, image: np.ndarray) -> av.VideoFrame:
        stream, layout = self.stream, self.layout
        expected = (stream.height, stream.width, 3)
        dtype = np.dtype(np.uint8 if stream.bit_depth == 8 else np.uint16)
        if image.shape != expected or image.dtype != dtype:
            raise MediaError(f"Frame {self.num_encoded} is {image.shape} {image.dtype}, expected {expected} {dtype}.")
        times = stream.times
        if times is not None and self.num_encoded + 1 >= len(times):
            raise MediaError(f"There are more frames than the {len(times) - 1} that the stream has times for.")
        height, width = layout.encoding.size
        extra_rows = height - image.shape[0]
        extra_columns = width - image.shape[1]
        if extra_rows or extra_columns:
            image = np.pad(image, ((0, extra_rows), (0, extra_columns), (0, 0)), mode="edge")
        frame = layout.to_yuv(image)
        frame.pts = layout.ticks(self.num_encoded)
        frame.time_base = layout.tick
        self._index_of[frame.pts] = self.num_encoded
        frame.color_primaries = stream.display.primaries
        frame.color_trc = stream.display.transfer
        return frame


def _check_count(stream: FrameSource, file: Path, path: Path, num_written: int) -> None:
    if not num_written:
        raise MediaError(f"{path} was not written: the stream has no frames.")
    if stream.num_frames is not None and num_written != stream.num_frames:
        raise MediaError(f"{path} was not written: expected {stream.num_frames} frames, got {num_written}.")
    num_stored = count_packets(file)
    if num_stored != num_written:
        raise MediaError(
            f"{path} was not written: the file holds {num_stored} of {num_written} frames. Is the disk full?"
        )


@dataclass(frozen=True)
class RunRecord:
    """The request of a run.

    Attributes:
        request: Options by name, with every default settled and every file as an absolute path.
        files: Digest of each file by its path; None: an earlier version, which recorded none.
        automatic: Options that the run settled by itself.
        source: The video or folder that holds the record.
    """

    request: Mapping[str, Any]
    files: Mapping[str, str] | None = None
    automatic: tuple[str, ...] = ()
    source: Path = field(default_factory=Path)

    def as_json(self) -> dict[str, Any]:
        """The record as values that JSON has a form for."""
        facts = {"request": dict(self.request), "files": dict(self.files or {}), "automatic": list(self.automatic)}
        as_text: dict[str, Any] = parse_json(json.dumps(facts, default=str))
        return as_text


def run_record(
    command: str,
    request: Mapping[str, Any],
    *,
    beside: Mapping[str, str] | None = None,
    note: Callable[[str], None] | None = None,
    **facts: Any,
) -> dict[str, str]:
    """Return metadata for a ``FrameStream`` from which the run can be repeated.

    Args:
        command: Name of the script, such as ``generate``.
        request: Options by name; values without a JSON form (paths, fractions) become text.
        beside: Tags of the source, which are kept. The record goes into the first of ``_TAGS`` that is free: a record
            of this program is replaced, a user's text never.
        note: Gets a line where none is free.
        **facts: Further facts of the run, such as the digests of its files.
    """
    record = {"program": _PROGRAM, "version": __version__, "command": command, "request": dict(request), **facts}
    tags = dict(beside or {})
    for tag in _TAGS:
        if tag not in tags or _parsed(tags[tag]) is not None:
            return {**tags, tag: json.dumps(record, default=str)}
    if note is not None:
        note(f"The record of this run is not kept: {', '.join(_TAGS)} of the source hold text of yours.")
    return tags


def _parsed(text: str) -> dict[str, Any] | None:
    """A record of this program; None for other text."""
    try:
        record = parse_json(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.get("program") == _PROGRAM else None


def read_run_record(path: str | Path, command: str) -> RunRecord:
    """Read the record of the run that a video was made by.

    Raises:
        MediaError: If the file cannot be read, or was made by another program or command.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MediaError(f"{path} does not exist. Give a video that this program wrote.")
    tags = _tags(path)
    record = next(filter(None, (_parsed(tags.get(tag, "")) for tag in _TAGS)), None)
    if record is None:
        raise MediaError(f"{path} has no run record: {_PROGRAM} did not write it, or its tags were removed.")
    if record.get("command") != command:
        raise MediaError(
            f"{path} was made by {record.get('command')}, not by {command}. Give --replay to that command."
        )
    return record_from(record, path)


def _tags(path: Path) -> dict[str, str]:
    """Tags of a video by lower-case name; of an image its comment."""
    if path.suffix.lower() in IMAGE_OUTPUTS:
        from LTX_2_MLX.media.image_formats import read_comment

        return {_TAG: read_comment(path)}
    with open_media(path) as container:
        return {key.lower(): text for key, text in container.metadata.items()}


def record_from(facts: Mapping[str, Any], source: Path) -> RunRecord:
    """A record from parsed JSON.

    Raises:
        MediaError: If the JSON is no record.
    """
    request = facts.get("request")
    files = facts.get("files")
    automatic = facts.get("automatic", [])
    if not isinstance(request, dict) or not isinstance(automatic, list) or not isinstance(files, dict | None):
        raise MediaError(f"The run record of {source} is damaged. Make the request again.")
    return RunRecord(request, files, tuple(str(name) for name in automatic), source)
