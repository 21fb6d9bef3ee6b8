"""The stream of frames that every pipeline reads or returns, its other tracks, check for blank output and levels."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.files import KEEPS_WRITES
from LTX_2_MLX.media.audio import Audio, EncodedTrack, Waveform
from LTX_2_MLX.media.encoder import Container, Display
from LTX_2_MLX.media.extras import Extras
from LTX_2_MLX.media.sound import check_sound
from LTX_2_MLX.media.source import open_media
from LTX_2_MLX.media.subtitles import subtitle_tracks
from LTX_2_MLX.media.tracks import CopiedTrack, Note, OutputTrack, Shifts, SourceTrack
from LTX_2_MLX.media.writer import write_video

# Where tracks cannot begin late, audio is copied only if it begins with the video.
_IN_STEP_SECONDS = Fraction(1, 500)
# Less sound than this before the first frame is not worth a note.
_LEAST_LEAD_SECONDS = Fraction(1, 500)
# Networks change a flat colour by up to 9 levels (Real-ESRGAN's animevideov3); an overflow makes it black.
_SAME_COLOR_LEVELS = 24


@dataclass
class FrameStream:
    """The frames of one video in order, computed when they are read, with its audio and metadata.

    It can be read once, from front to back. Closing it early frees whatever produces the frames.

    Attributes:
        chunks: Consecutive frames, each chunk ``(T, H, W, 3)`` RGB; T may differ. uint8, or with more than 8 bits
            uint16 over its whole range.
        height: Pixels; every chunk has it.
        width: Pixels; every chunk has it.
        frame_rate: Frames per second, exact.
        num_frames: Number of frames; None if it is known only after reading them.
        audio: Audio and subtitle tracks for the writer (see ``media.audio``); None for a silent video.
        metadata: Tags of the written file.
        times: For a variable frame rate: start of each frame in seconds from the first, then the end of the last,
            so one entry more than frames; ``frame_rate`` is the mean. None: a constant rate.
        display: Pixel aspect and colour tags.
        bit_depth: 8 or 10: of the written file.
        extras: Chapters, cover image, fonts and time code for the writer.
        notes: What the user should know of the source; reported by the writer before the first frame.
        decoding_bytes: Memory that decoding the source takes at most; 0 for frames that are computed.
        source_check: What the frames of the source have in common, once they are read; None: not observed.
    """

    chunks: Iterable[np.ndarray] = field(repr=False)
    height: int
    width: int
    frame_rate: Fraction
    num_frames: int | None = None
    audio: Audio | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    times: tuple[Fraction, ...] | None = None
    display: Display = field(default_factory=Display)
    bit_depth: int = 8
    extras: Extras = field(default_factory=Extras)
    notes: tuple[str, ...] = ()
    source_check: "FrameCheck | None" = None
    decoding_bytes: int = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Chunks ``(T, H, W, 3)``, uint8 or uint16."""
        return iter(self.chunks)

    def frames(self) -> Iterator[np.ndarray]:
        """Frames one by one, each ``(H, W, 3)``, uint8 or uint16."""
        for chunk in self.chunks:
            yield from chunk

    def replace(self, **changes: Any) -> "FrameStream":
        """Return a copy with other chunks, size or rate; the remaining fields stay."""
        return replace(self, **changes)

    @property
    def duration_seconds(self) -> Fraction | None:
        """Duration of the video; None while the number of frames is unknown."""
        if self.times is not None:
            return self.times[-1]
        return None if self.num_frames is None else self.num_frames / self.frame_rate

    def array(self) -> np.ndarray:
        """Read the whole video into memory, ``(T, H, W, 3)`` uint8."""
        return np.concatenate(list(self))

    def close(self) -> None:
        """Free whatever produces the frames. Further reading yields nothing."""
        close = getattr(self.chunks, "close", None)
        if close is not None:
            close()

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write a video file while the frames are computed; options as for ``write_video``. A notebook plays it."""
        from LTX_2_MLX.media.display_html import SavedVideo

        return SavedVideo(write_video(self, path, **options))

    def _repr_html_(self) -> str:
        """The video, for notebooks: short streams are read, and keep their frames for further reading."""
        from LTX_2_MLX.media.display_html import stream_html

        return stream_html(self)


@dataclass(frozen=True)
class SourceTracks:
    """All audio and subtitle tracks of a file.

    Attributes:
        path: The file.
        lead: Seconds of the tracks before the first frame.
        start: Time of the first frame in the file's clock, in seconds; None without time stamps.
        shifts: What to add to the times of the file's packets.
    """

    path: Path
    lead: Fraction = Fraction(0)
    start: Fraction | None = None
    shifts: Shifts = field(default_factory=Shifts)

    def tracks(self, container: Container, note: Note) -> list[list[OutputTrack]]:
        """Ways to write each track into a container; what is lost is reported to ``note``."""
        tracks = []
        with open_media(self.path, "read") as source:
            zero = self.start
            if zero is None:
                zero = Fraction(source.start_time or 0, av.time_base)
            if container.late_tracks:
                zero -= self.lead
            elif self.lead > _LEAST_LEAD_SECONDS and source.streams.audio:
                note(
                    f"{self.path.name} has {float(self.lead):.3f} s of sound before the first frame: left out, since "
                    f"all tracks of {container.name} begin together. Write .mkv or .mp4 to keep it."
                )
            for stream in source.streams.audio:
                if stream.codec_context is None or not (stream.rate and stream.channels):
                    note(f"Audio track {stream.index} of {self.path.name} cannot be read and is left out.")
                    continue
                codec = stream.codec_context.codec.canonical_name
                track = SourceTrack(self.path, stream.index, codec, zero, self.shifts)
                tracks.append(ways_to_write(track, container))
            if source.streams.subtitles:
                tracks += subtitle_tracks(source, self.path, zero, self.shifts, container, note)
        return tracks


def ways_to_write(track: SourceTrack, container: Container) -> list[OutputTrack]:
    """Ways to write one audio track into a container, the best first: as it is where the container can hold it."""
    encoded = EncodedTrack(track, container)
    can_copy = container.audio_codecs is None or track.codec in container.audio_codecs
    if can_copy and (container.late_tracks or _is_in_step(track)):
        return [CopiedTrack(track, keeps_early=container.late_tracks), encoded]
    return [encoded]


def _is_in_step(track: SourceTrack) -> bool:
    """Whether the packets begin at the output's zero and follow each other without gaps."""
    expected: Fraction | None = None
    for _, packet in track.packets():
        if packet.pts is None or packet.duration is None:
            return False
        start = packet.pts * packet.time_base
        end = start + packet.duration * packet.time_base
        if expected is None and end <= 0:
            continue
        if abs(start - (expected or Fraction(0))) > _IN_STEP_SECONDS + packet.time_base:
            return False
        expected = end
    return True


def subdivide_times(times: tuple[Fraction, ...], factor: int) -> tuple[Fraction, ...]:
    """Insert ``factor - 1`` evenly spaced times between each two frames.

    N frames become ``(N - 1) * factor + 1``; the last one lasts ``1 / factor`` of its former duration.
    """
    starts = times[:-1]
    subdivided: list[Fraction] = []
    for start, following in pairwise(starts):
        step = (following - start) / factor
        subdivided += [start + index * step for index in range(factor)]
    last_duration = (times[-1] - starts[-1]) / factor
    return (*subdivided, starts[-1], starts[-1] + last_duration)


def to_levels(pixels: mx.array, bit_depth: int = 8) -> np.ndarray:
    """Convert pixels in [0, 1] to what a stream of that bit depth holds: uint8, or uint16 for more than 8 bits.

    Clip, round, then cast, in float32: a bare cast truncates and wraps, so that 254.9 becomes 254 and 300 becomes 44.

    Raises:
        OutputError: If a value is NaN or infinite.
    """
    largest, dtype = (255, mx.uint8) if bit_depth == 8 else (65535, mx.uint16)
    finite = mx.isfinite(pixels).all()
    levels = mx.round(mx.clip(pixels.astype(mx.float32), 0, 1) * largest).astype(dtype)
    mx.eval(finite, levels)
    if not finite.item():
        raise OutputError(
            "The frames contain NaN or infinite values: the network overflowed. "
            "Try --fp32, or --bf16 instead of --fp16."
        )
    return np.array(levels)


def to_unit(frames: np.ndarray | mx.array, dtype: mx.Dtype = mx.float32) -> mx.array:
    """Convert uint8 or uint16 frames to pixels in [0, 1], same shape."""
    levels = mx.array(frames)
    largest = 65535 if levels.dtype == mx.uint16 else 255
    return (levels.astype(mx.float32) / largest).astype(dtype)


def to_signed(frames: np.ndarray | mx.array, dtype: mx.Dtype = mx.float32) -> mx.array:
    """Convert uint8 or uint16 frames to pixels in [-1, 1], same shape, the input range of video VAEs."""
    levels = mx.array(frames)
    half = 32767.5 if levels.dtype == mx.uint16 else 127.5
    return (levels.astype(mx.float32) / half - 1).astype(dtype)


def signed_to_levels(pixels: mx.array, bit_depth: int = 8) -> np.ndarray:
    """Convert pixels in [-1, 1], the output range of video VAEs, to what a stream of that bit depth holds, same shape.

    Raises:
        OutputError: If a value is NaN or infinite.
    """
    return to_levels((pixels.astype(mx.float32) + 1) / 2, bit_depth)


def validated(stream: FrameStream, *, moving: bool = False) -> FrameStream:
    """Return the same stream, which raises after its last frame if the whole output is blank.

    A writer that reads it to its end therefore never finishes such a file.

    Args:
        stream: Any stream of chunks ``(T, H, W, 3)`` uint8.
        moving: Also require at least two different frames, as in a generated video.

    Raises:
        OutputError: At once, if generated sound is silent or clipped. While it is read, if every pixel of every frame
            has the same colour and the source's pixels have not, or (``moving``) if all frames are identical.
    """
    if not KEEPS_WRITES.get():
        # Another process of the run has the frames, and checks them.
        return stream
    if isinstance(stream.audio, Waveform):
        check_sound(stream.audio)
    check = FrameCheck(moving)
    return replace(stream, chunks=_checked_chunks(stream, check, raises=True))


def observed(stream: FrameStream) -> FrameStream:
    """Return the same stream, whose frames are compared while they are read, for ``validated`` of the result."""
    check = FrameCheck()
    return replace(stream, chunks=_checked_chunks(stream, check), source_check=check)


def _checked_chunks(stream: FrameStream, check: "FrameCheck", *, raises: bool = False) -> Iterator[np.ndarray]:
    try:
        for chunk in stream.chunks:
            check.add(chunk)
            yield chunk
    finally:
        stream.close()
    if raises:
        check.finish(stream.source_check)


@dataclass
class FrameCheck:
    """What all frames so far have in common: one colour, or one image.

    Attributes:
        moving: Whether frames that are all identical are a fault.
        color: The only colour of all frames; None if there are several, or no frame.
    """

    moving: bool = False
    color: np.ndarray | None = None
    _first: np.ndarray | None = None
    _num_frames: int = 0
    _frozen: bool = True

    def add(self, chunk: np.ndarray) -> None:
        """Compare frames ``(T, H, W, 3)`` uint8 with the first one."""
        if not len(chunk):
            return
        if self._first is None:
            self._first = chunk[0].copy()
            self.color = self._first[0, 0]
        self._num_frames += len(chunk)
        # Frames that have differed once are compared no more.
        if self.color is not None and not (chunk == self.color).all():
            self.color = None
        self._frozen = self.moving and self._frozen and bool((chunk == self._first).all())

    def finish(self, source: "FrameCheck | None" = None) -> None:
        """Raise ``OutputError`` if the frames are blank unlike the source's, or frozen where motion is expected."""
        if self.color is not None:
            if source is not None and source.color is not None:
                unit = 257 if self.color.dtype == np.uint16 else 1
                if np.abs(self.color.astype(int) - source.color).max() <= _SAME_COLOR_LEVELS * unit:
                    return
            raise OutputError(
                f"The output is blank: every pixel is {tuple(self.color.tolist())}. Try --fp32, other weights, or "
                f"--allow-blank to keep it."
            )
        if self._first is not None and self._frozen and self._num_frames > 1:
            raise OutputError(
                f"The output is frozen: all {self._num_frames} frames are identical. "
                f"Try --fp32, another --seed, or --allow-blank to keep it."
            )
