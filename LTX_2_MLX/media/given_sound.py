"""Sound of a user's file: its first audio track as samples for a network, and as a track beside a generated video."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.encoder import Container
from LTX_2_MLX.media.frames import SourceTracks, ways_to_write
from LTX_2_MLX.media.samples import audio_frame, placed_samples, planar
from LTX_2_MLX.media.source import open_media
from LTX_2_MLX.media.tracks import OutputTrack, Shifts, SourceTrack, default_layout

_STEREO = 2


@dataclass(frozen=True)
class GivenSound:
    """The first audio track of a file; for the writer (see ``FrameStream.audio``) as well.

    Attributes:
        track: Where it is. Its ``end`` is where the video ends.
        rate: Samples per second.
        layout: FFmpeg's name of the layout of its channels.
        seconds: How long the track plays, as the file says.
        lead: Seconds of it before the first frame.
    """

    track: SourceTrack
    rate: int
    layout: str
    seconds: Fraction
    lead: Fraction = Fraction(0)

    @property
    def path(self) -> Path:
        """The file."""
        return self.track.path

    def until(self, seconds: Fraction) -> "GivenSound":
        """The same sound, cut where a video of that length ends."""
        return replace(self, track=replace(self.track, end=seconds))

    def tracks(self, container: Container, note: Callable[[str], None]) -> list[list[OutputTrack]]:
        """Ways to write the track: as it is where the container can hold it, else encoded again."""
        return [ways_to_write(self.track, container)]

    def samples(self, seconds: Fraction) -> np.ndarray:
        """The first ``seconds``, ``(S, 2)`` float32 in [-1, 1]; silence where the track has ended.

        Raises:
            MediaError: If it cannot be decoded.
        """
        try:
            blocks = placed_samples(self.track, self.rate, seconds)
            samples = [_stereo(block, self.layout, self.rate) for block in blocks]
        except ValueError as error:
            raise MediaError(f"The sound of {self.path} cannot be read: {error}.") from error
        if not samples:
            raise MediaError(f"The sound of {self.path} cannot be decoded.")
        missing = round(seconds * self.rate) - sum(map(len, samples))
        return np.concatenate([*samples, np.zeros((max(missing, 0), _STEREO), np.float32)])


def open_sound(path: str | Path) -> GivenSound:
    """The sound of an audio or video file, from where its own track begins.

    Raises:
        MediaError: If the file cannot be read, or has no sound.
    """
    path = Path(path)
    with open_media(path, "read") as source:
        stream = _audio_stream(source)
        if stream is None:
            raise MediaError(f"{path} has no sound. Give a file with an audio track.")
        start = Fraction(stream.start_time or 0) * stream.time_base
        track = SourceTrack(path, stream.index, stream.codec_context.codec.canonical_name, start, Shifts())
        seconds = None if stream.duration is None else stream.duration * stream.time_base
        sound = GivenSound(track, stream.rate, _layout(stream), seconds or Fraction(0))
    return sound if sound.seconds else replace(sound, seconds=_length(track))


def sound_of_clip(clip: SourceTracks, seconds: Fraction) -> GivenSound | None:
    """The sound of a clip, from its first frame on; None for a silent clip.

    Args:
        clip: Tracks of the clip.
        seconds: How long its frames last.
    """
    with open_media(clip.path, "read") as source:
        stream = _audio_stream(source)
        if stream is None:
            return None
        zero = Fraction(source.start_time or 0, av.time_base) if clip.start is None else clip.start
        codec = stream.codec_context.codec.canonical_name
        track = SourceTrack(clip.path, stream.index, codec, zero, clip.shifts)
        return GivenSound(track, stream.rate, _layout(stream), seconds)


def _audio_stream(source: av.container.InputContainer) -> Any:
    for stream in source.streams.audio:
        if stream.codec_context is not None and stream.rate and stream.channels:
            return stream
    return None


def _layout(stream: Any) -> str:
    return default_layout(stream.layout.name, stream.channels)


def _length(track: SourceTrack) -> Fraction:
    """Seconds until the last packet ends, for files that do not say."""
    end = Fraction(0)
    for _, packet in track.packets():
        start = packet.pts if packet.pts is not None else packet.dts
        if start is not None:
            end = max(end, (start + (packet.duration or 0)) * packet.time_base)
    return end


def _stereo(samples: np.ndarray, layout: str, rate: int) -> np.ndarray:
    """Samples ``(channels, S)`` as ``(S, 2)``: one channel twice, more than two mixed down."""
    if len(samples) == 1:
        samples = np.repeat(samples, _STEREO, axis=0)
    elif len(samples) > _STEREO:
        mixer = av.AudioResampler(format="flt", layout="stereo", rate=rate)
        (mixed,) = mixer.resample(audio_frame(samples, layout, rate, 0))
        samples = planar(mixed)
    return np.ascontiguousarray(samples.T)
