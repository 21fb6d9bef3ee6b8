"""Decoded audio as samples: frames laid end to end, gaps filled with silence."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from LTX_2_MLX.media.tracks import SourceTrack

# Times of audio packets may be off by this much without a gap: some containers round them to milliseconds, so that two
# may be a whole one apart.
_TOLERANCE_SECONDS = Fraction(3, 2000)
# Wrong times may leave a gap of hours, whose silence would fill the disk.
_LONGEST_SILENCE_SECONDS = 3600
_MOST_PLANES = 8


def decoded_frames(track: SourceTrack) -> Iterator[av.AudioFrame]:
    """The decoded frames of a track, with times that count from the output's zero. Damaged audio is left out."""
    for _, packet in track.packets():
        try:
            frames: Any = packet.decode()
        except av.FFmpegError:
            continue
        yield from frames


def placed_samples(track: SourceTrack, rate: int, seconds: Fraction) -> Iterator[np.ndarray]:
    """Samples ``(channels, S)`` float32 of a track from the output's zero on, gaps filled with silence.

    Args:
        track: Of one rate, in the file's own layout.
        rate: Samples per second.
        seconds: At most so much; where the track ends earlier there is less.
    """
    samples = Samples(rate=rate, layout="", from_zero=True, end=seconds)
    for frame in decoded_frames(track):
        if samples.is_full:
            return
        yield from samples.arrays(frame)


class Samples:
    """Decoded frames, laid end to end: gaps are filled with silence, overlaps and what comes after ``end`` are cut."""

    def __init__(self, rate: int, layout: str, from_zero: bool, end: Fraction | None = None):
        self._rate = rate
        self._layout = layout
        self._cursor: int | None = 0 if from_zero else None
        self._end = None if end is None else round(end * rate)
        self._tolerance = int(_TOLERANCE_SECONDS * rate)
        self._has_begun = False

    @property
    def is_full(self) -> bool:
        """Whether nothing more is taken."""
        return self._end is not None and self._cursor is not None and self._cursor >= self._end

    def placed(self, frame: av.AudioFrame) -> Iterator[av.AudioFrame]:
        """Frames to encode for one decoded frame."""
        for samples in self.arrays(frame):
            assert self._cursor is not None
            yield audio_frame(samples, self._layout, self._rate, self._cursor - samples.shape[1])

    def arrays(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        """The samples ``(channels, S)`` of one decoded frame at the cursor, after the silence of a gap before it."""
        samples = planar(frame)
        start = self._cursor
        if frame.pts is not None and frame.time_base is not None:
            start = round(frame.pts * frame.time_base * self._rate)
        if start is None:
            start = 0
        if self._cursor is None:
            self._cursor = start
        gap = start - self._cursor
        tolerance = self._tolerance if self._has_begun else 0
        self._has_begun = True
        if gap > tolerance:
            yield from self._silence(gap, samples.shape[0])
        elif gap < -tolerance:
            samples = samples[:, -gap:]
        yield from self._taken(samples)

    def _silence(self, count: int, channels: int) -> Iterator[np.ndarray]:
        """Arrays of silence; raises ValueError for a longer one than any video needs."""
        if count > _LONGEST_SILENCE_SECONDS * self._rate:
            raise ValueError(f"its times leave {count / self._rate:.0f} s without sound")
        while count > 0:
            block = min(count, self._rate)
            yield from self._taken(np.zeros((channels, block), np.float32))
            count -= block

    def _taken(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """The samples up to the end, by which the cursor moves on."""
        assert self._cursor is not None
        if self._end is not None:
            samples = samples[:, : max(self._end - self._cursor, 0)]
        self._cursor += samples.shape[1]
        if samples.shape[1]:
            yield samples


def audio_frame(samples: np.ndarray, layout: str, rate: int, start: int) -> av.AudioFrame:
    """Make a frame of samples ``(channels, S)`` float32 that begins at sample ``start``."""
    # Packed: PyAV 18.1 reads past the planes of eight channels.
    packed = np.ascontiguousarray(samples.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    frame.sample_rate = rate
    frame.pts = start
    frame.time_base = Fraction(1, rate)
    return frame


def planar(frame: av.AudioFrame) -> np.ndarray:
    """Samples ``(channels, S)`` float32 in [-1, 1] of a frame in any format."""
    if frame.format.is_planar and frame.layout.nb_channels >= _MOST_PLANES:
        # PyAV 18.1 reads past that many planes.
        (frame,) = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate).resample(frame)
    samples: np.ndarray = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32)
