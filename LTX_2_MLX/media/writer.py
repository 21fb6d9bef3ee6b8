"""Writing streams of RGB frames to video files, encoded as the frames are computed.

A file gets its final name when it is complete and holds every frame.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.audio import Audio, TimedPackets, merge_by_time
from LTX_2_MLX.media.display import Display
from LTX_2_MLX.media.encoder import CRF, Codec, Encoding, choose_encoding, least_bytes
from LTX_2_MLX.media.output import check_free, check_writable, replaced_when_complete
from LTX_2_MLX.media.pixel_format import YuvWriter
from LTX_2_MLX.media.probe import count_packets
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
STAGE = "write"


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
    notes: tuple[str, ...]

    def frames(self) -> Iterator[np.ndarray]:
        """Frames ``(H, W, 3)`` uint8, one by one."""

    def close(self) -> None:
        """Free whatever produces the frames."""


def write_video(
    stream: FrameSource,
    path: str | Path,
    *,
    codec: Codec = "auto",
    crf: float = CRF,
    progress: Progress | None = None,
) -> Path:
    """Write a stream to a video file while its frames are computed; the stream is closed in any case.

    The file is bt709, limited range, with the stream's own frame rate or times. It appears under ``path`` only when
    it is complete and holds every frame. Audio and subtitles are interleaved by time, copied where the container can
    hold them; ``media.audio`` describes the other cases, which are reported to ``progress``.

    Args:
        stream: Frames, audio and metadata.
        path: .mp4, .m4v, .mov, .mkv, .avi or .webm; an existing file is replaced. AVI has a constant rate only.
        codec: ``auto``, ``h264``, ``h265``, ``vp9``, or ``ffv1`` (lossless; .mkv and .avi).
        crf: Quality on x264's scale, 0 (best) to 51.
        progress: Receives the number of frames written, and notes.

    Raises:
        MediaError: If the container, codec or folder is unsuitable, the disk is full, or frames are missing.
    """
    path = Path(path)
    progress = progress or SilentProgress()
    size = (stream.height, stream.width)
    try:
        encoding = choose_encoding(path, size, codec, crf, stream.num_frames)
        if encoding.constant_rate and stream.times is not None:
            raise MediaError(f"{path.suffix} cannot hold a variable frame rate. Write .mp4 or .mkv instead.")
        check_writable(path)
        check_free(path, least_bytes(size, stream.num_frames or 1, codec))
        with replaced_when_complete(path) as temporary:
            num_written = _write(stream, temporary, encoding, progress)
            _check_count(stream, temporary, path, num_written)
    finally:
        stream.close()
    return path


def _write(stream: FrameSource, path: Path, encoding: Encoding, progress: Progress) -> int:
    for note in stream.notes:
        progress.note(note)
    progress.begin(STAGE)
    try:
        with _opened(path, encoding.container) as output:
            output.metadata.update(stream.metadata)
            clock = _Clock(stream, _audio_lead(stream, encoding))
            size = (stream.height, stream.width)
            track = encoding.add_stream(output, size, stream.frame_rate, clock.tick, stream.display)
            audio_packets: TimedPackets = iter(())
            if stream.audio is not None:
                audio_packets = stream.audio.attach(output, progress.note)
            video = _VideoPackets(stream, track, encoding.pixel_format, clock, progress)
            # The header fixes the tracks, so all of them are added before the first packet.
            output.start_encoding()
            for _, packet in merge_by_time(video.packets(), audio_packets):
                output.mux(packet)
        return video.num_encoded
    finally:
        progress.end(STAGE)


def _audio_lead(stream: FrameSource, encoding: Encoding) -> Fraction:
    """Seconds of audio before the first frame; none where the container starts all tracks together."""
    if stream.audio is None or encoding.constant_rate:
        return Fraction(0)
    return stream.audio.lead


@contextmanager
def _opened(path: Path, container: str) -> Iterator[av.container.OutputContainer]:
    output = av.open(str(path), "w", format=container, options=_MUXER_OPTIONS.get(container, {}))
    try:
        yield output
    except BaseException:
        # Without its name the file is not finalized at length; errors on closing it no longer matter.
        path.unlink(missing_ok=True)
        with suppress(av.FFmpegError, OSError):
            output.close()
        raise
    output.close()


class _Clock:
    """Start of each frame in whole ticks, all different."""

    def __init__(self, stream: FrameSource, lead: Fraction):
        self._rate = stream.frame_rate
        self._lead = lead
        if stream.times is None and not lead:
            self.tick = 1 / stream.frame_rate
        else:
            steps = stream.times if stream.times is not None else (1 / stream.frame_rate,)
            per_second = math.lcm(lead.denominator, *(time.denominator for time in steps))
            self.tick = Fraction(1, min(per_second, _FINEST_TICK))
        self._ticks = None if stream.times is None else self._different(stream.times)

    def ticks(self, index: int) -> int:
        """Start of frame ``index``; one past the last frame it is the end of the video."""
        return self._rounded(index / self._rate) if self._ticks is None else self._ticks[index]

    def _rounded(self, time: Fraction) -> int:
        return round((time + self._lead) / self.tick)

    def _different(self, times: tuple[Fraction, ...]) -> list[int]:
        """Round times that may lie closer together than a tick; each frame begins at least a tick after the last."""
        ticks: list[int] = []
        for time in times:
            rounded = self._rounded(time)
            ticks.append(max(rounded, ticks[-1] + 1) if ticks else rounded)
        return ticks


class _VideoPackets:
    """Encodes the frames to packets of the video track, and counts them."""

    def __init__(
        self, stream: FrameSource, track: av.VideoStream, pixel_format: str, clock: _Clock, progress: Progress
    ):
        self.num_encoded = 0
        self._stream = stream
        self._track = track
        self._clock = clock
        self._progress = progress
        self._to_yuv = YuvWriter(pixel_format)
        # Encoders return packets late and in another order than the frames.
        self._index_of: dict[int, int] = {}

    def packets(self) -> TimedPackets:
        """Encode all frames."""
        for image in self._stream.frames():
            yield from self._timed(self._track.encode(self._frame(image)))
            self.num_encoded += 1
            self._progress.advance(STAGE, self.num_encoded, self._stream.num_frames)
        if self.num_encoded:
            yield from self._timed(self._track.encode(None))

    def _frame(self, image: np.ndarray) -> av.VideoFrame:
        self._check(image)
        frame = self._to_yuv(image)
        frame.pts = self._clock.ticks(self.num_encoded)
        frame.time_base = self._clock.tick
        self._index_of[frame.pts] = self.num_encoded
        frame.color_primaries = self._stream.display.primaries
        frame.color_trc = self._stream.display.transfer
        return frame

    def _check(self, image: np.ndarray) -> None:
        expected = (self._stream.height, self._stream.width, 3)
        if image.shape != expected or image.dtype != np.uint8:
            raise MediaError(f"Frame {self.num_encoded} is {image.shape} {image.dtype}, expected {expected} uint8.")
        times = self._stream.times
        if times is not None and self.num_encoded + 1 >= len(times):
            raise MediaError(f"There are more frames than the {len(times) - 1} that the stream has times for.")

    def _timed(self, packets: list[av.Packet]) -> TimedPackets:
        for packet in packets:
            index = self._index_of.pop(packet.pts)
            packet.duration = self._clock.ticks(index + 1) - packet.pts
            yield packet.dts * packet.time_base, packet


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
