"""Video files to streams of frames and back, one chunk in memory at a time.

Reading keeps every frame; with a variable rate each keeps its time. Interlaced films come as whole frames,
transparency is left aside. Writing encodes frames as they come and gives the file its name when it is complete.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.audio import SourceTracks, TimedPackets, merge_by_time
from LTX_2_MLX.media.encoder import CRF, Codec, Encoding, choose_encoding, least_bytes
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.output import check_free, check_writable, replaced_when_complete
from LTX_2_MLX.media.pixel_format import RgbReader, YuvWriter
from LTX_2_MLX.media.probe import VideoInfo, count_frames, open_media, probe_video
from LTX_2_MLX.runtime.progress import Progress, SilentProgress

_CHUNK_BYTES = 32 * 2**20
_MAX_CHUNK_FRAMES = 16
# Finest unit of time written: files count in 32-bit numbers of it.
_FINEST_TICK = 90_000
_MUXER_OPTIONS = {
    # The index goes to the front, so that the film can be played while it is being loaded.
    "mp4": {"movflags": "+faststart"},
    "mov": {"movflags": "+faststart"},
    # Sound that starts before the film would shift it by a frame, and leave a gap after its first.
    "avi": {"avoid_negative_ts": "disabled"},
}
STAGE = "write"


def read_video(path: str | Path, unknown_rate: Fraction | None = None) -> FrameStream:
    """A video file as a stream of upright RGB frames, decoded as they are asked for.

    Sound and subtitle tracks come along (``audio``), the file's title and kin as ``metadata``.

    Args:
        path: The file.
        unknown_rate: Frame rate of a file that has none, such as a bare H.264 stream; None: FFmpeg's guess.

    Raises:
        MediaError: If it is missing, is a picture, holds no video, or is damaged. What only decoding
            tells is raised while the frames are read.
    """
    info = probe_video(path, unknown_rate)
    return FrameStream(
        chunks=_chunks(info),
        height=info.height,
        width=info.width,
        frame_rate=info.frame_rate,
        num_frames=info.num_frames,
        audio=SourceTracks(path=info.path, lead=info.lead) if info.has_tracks else None,
        metadata=dict(info.metadata),
        times=info.times,
        display=info.display,
    )


def _chunks(info: VideoInfo) -> Iterator[np.ndarray]:
    length = min(_MAX_CHUNK_FRAMES, max(1, _CHUNK_BYTES // (info.height * info.width * 3)))
    chunk: list[np.ndarray] = []
    for frame in _frames(info):
        chunk.append(frame)
        if len(chunk) == length:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)


def _frames(info: VideoInfo) -> Iterator[np.ndarray]:
    to_rgb, done = RgbReader(info.orientation), 0
    for frame in _decoded(info):
        if info.orientation.size(frame.height, frame.width) != (info.height, info.width):
            raise MediaError(f"{info.path} changes its size at frame {done}. Re-encode it with one size.")
        yield to_rgb(frame)
        done += 1
    if info.num_frames is not None and done != info.num_frames:
        raise MediaError(f"{info.path} is damaged: it holds {info.num_frames} frames, and {done} can be decoded.")


def _decoded(info: VideoInfo) -> Iterator[av.VideoFrame]:
    with open_media(info.path) as container:
        stream = container.streams[info.stream_index]
        stream.thread_type = "AUTO"
        done = 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                if done:
                    raise
                continue
            for frame in frames:
                if frame.is_corrupt:
                    raise MediaError(f"{info.path} is damaged: frame {done} cannot be decoded.")
                if info.first_pts is None or frame.pts is None or frame.pts >= info.first_pts:
                    done += 1
                    yield frame


def write_video(
    stream: FrameStream,
    path: str | Path,
    *,
    codec: Codec = "auto",
    crf: float = CRF,
    progress: Progress | None = None,
) -> Path:
    """Write a stream to a video file while its frames are made; the stream is closed in any case.

    The file is bt709, limited range, with the stream's own frame rate or times. It stands under ``path`` only when
    it is complete and holds every frame. Sound and subtitles are laid between the frames by time, copied as they
    are where the container can hold them (``media.audio`` says what else happens; ``progress`` is told).

    Args:
        stream: Frames and what belongs to them.
        path: .mp4, .m4v, .mov, .mkv, .avi or .webm; an existing file is replaced. AVI has a constant rate only.
        codec: ``auto``, ``h264``, ``h265``, ``vp9``, or ``ffv1`` (lossless; .mkv and .avi).
        crf: x264's scale of quality, 0 (best) to 51.
        progress: Hears of frames as they are written.

    Raises:
        MediaError: If the container, codec or folder will not do, the disk is full, or frames are missing.
    """
    path, progress = Path(path), progress or SilentProgress()
    try:
        encoding = choose_encoding(path, (stream.height, stream.width), codec, crf, stream.num_frames)
        if encoding.constant_rate and stream.times is not None:
            raise MediaError(f"{path.suffix} cannot hold a variable frame rate. Write .mp4 or .mkv instead.")
        check_writable(path)
        check_free(path, least_bytes((stream.height, stream.width), stream.num_frames or 1, codec))
        with replaced_when_complete(path) as temporary:
            written = _write(stream, temporary, encoding, progress)
            _check_count(stream, temporary, path, written)
    finally:
        stream.close()
    return path


def _write(stream: FrameStream, path: Path, encoding: Encoding, progress: Progress) -> int:
    progress.begin(STAGE)
    try:
        with _opened(path, encoding.container) as output:
            output.metadata.update(stream.metadata)
            lead = stream.audio.lead if stream.audio is not None and not encoding.constant_rate else Fraction(0)
            clock = _Clock(stream, lead)
            film = encoding.add_stream(
                output, (stream.height, stream.width), stream.frame_rate, clock.tick, stream.display
            )
            beside = stream.audio.attach(output, progress.note) if stream.audio is not None else iter(())
            frames = _FilmPackets(stream, film, encoding.pixel_format, clock, progress)
            # The header fixes the tracks, so all of them are there before the first packet.
            output.start_encoding()
            for _, packet in merge_by_time(frames.packets(), beside):
                output.mux(packet)
        return frames.done
    finally:
        progress.end(STAGE)


@contextmanager
def _opened(path: Path, container: str) -> Iterator[av.container.OutputContainer]:
    output = av.open(str(path), "w", format=container, options=_MUXER_OPTIONS.get(container, {}))
    try:
        yield output
    except BaseException:
        # Without its name the file is not finished off at length; what goes wrong in closing it is of no interest.
        path.unlink(missing_ok=True)
        with suppress(av.FFmpegError, OSError):
            output.close()
        raise
    output.close()


class _Clock:
    """When each frame is due, in whole ticks."""

    def __init__(self, stream: FrameStream, lead: Fraction):
        self._rate, self._times, self._lead = stream.frame_rate, stream.times, lead
        if stream.times is None and not lead:
            self.tick = 1 / stream.frame_rate
            return
        steps = stream.times if stream.times is not None else (1 / stream.frame_rate,)
        per_second = math.lcm(*(time.denominator for time in chain(steps, (lead,))))
        self.tick = Fraction(1, per_second if per_second <= _FINEST_TICK else _FINEST_TICK)

    def ticks(self, index: int) -> int:
        """Start of frame ``index``; one past the last frame it is the film's end."""
        time = index / self._rate if self._times is None else self._times[index]
        return round((time + self._lead) / self.tick)


class _FilmPackets:
    """Frames to packets of the film's stream, counted."""

    def __init__(self, stream: FrameStream, film: av.VideoStream, pixel_format: str, clock: _Clock, progress: Progress):
        self.done = 0
        self._stream, self._film, self._clock, self._progress = stream, film, clock, progress
        self._to_yuv = YuvWriter(pixel_format)
        # Encoders give packets late and in another order than frames came in.
        self._index_of: dict[int, int] = {}

    def packets(self) -> TimedPackets:
        for picture in self._stream.frames():
            yield from self._timed(self._film.encode(self._frame(picture)))
            self.done += 1
            self._progress.advance(STAGE, self.done, self._stream.num_frames)
        if self.done:
            yield from self._timed(self._film.encode(None))

    def _frame(self, picture: np.ndarray) -> av.VideoFrame:
        expected = (self._stream.height, self._stream.width, 3)
        if picture.shape != expected or picture.dtype != np.uint8:
            raise MediaError(f"Frame {self.done} is {picture.shape} {picture.dtype}, expected {expected} uint8.")
        times = self._stream.times
        if times is not None and self.done + 1 >= len(times):
            raise MediaError(f"There are more frames than the {len(times) - 1} that the stream has times for.")
        frame = self._to_yuv(picture)
        frame.pts, frame.time_base = self._clock.ticks(self.done), self._clock.tick
        self._index_of[frame.pts] = self.done
        frame.color_primaries, frame.color_trc = self._stream.display.primaries, self._stream.display.transfer
        return frame

    def _timed(self, packets: list[av.Packet]) -> TimedPackets:
        for packet in packets:
            index = self._index_of.pop(packet.pts)
            packet.duration = self._clock.ticks(index + 1) - packet.pts
            yield packet.dts * packet.time_base, packet


def _check_count(stream: FrameStream, file: Path, path: Path, written: int) -> None:
    if not written:
        raise MediaError(f"{path} was not written: the stream gave no frame.")
    if stream.num_frames is not None and written != stream.num_frames:
        raise MediaError(f"{path} was not written: {stream.num_frames} frames were promised, {written} came.")
    found = count_frames(file)
    if found != written:
        raise MediaError(f"{path} was not written: {written} frames went in, the file holds {found}. Is the disk full?")
