"""Audio tracks of a video: packets copied from another file, or a waveform to encode.

Each kind has one method, ``attach``: it adds its tracks to a file that is being written and returns their packets
with the time of each, so that the writer can interleave them with the frames.
"""

import heapq
import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.source import open_media

# Time in seconds at which the packet is due, and the packet.
TimedPackets = Iterator[tuple[Fraction, av.Packet]]
_WAVEFORM_BITS_PER_CHANNEL = 96_000
_TRACK_TAGS = ("language", "title")


class Audio(Protocol):
    """Type of ``FrameStream.audio``."""

    @property
    def lead(self) -> Fraction:
        """Seconds that these tracks play before the first frame."""

    def attach(self, output: av.container.OutputContainer, note: Callable[[str], None]) -> TimedPackets:
        """Add the tracks to ``output``, before anything is written, and return their packets in order of time."""


@dataclass(frozen=True)
class SourceTracks:
    """All audio and subtitle tracks of a file, copied without decoding.

    An audio track that the container cannot hold is re-encoded, such a subtitle track is left out; both are reported
    to ``note``.

    Attributes:
        path: The file.
        lead: Seconds of the tracks before the first frame.
    """

    path: Path
    lead: Fraction = Fraction(0)

    def attach(self, output: av.container.OutputContainer, note: Callable[[str], None]) -> TimedPackets:
        """Add the tracks to ``output`` and return their packets."""
        copied: dict[int, Any] = {}
        encoded: dict[int, Any] = {}
        with open_media(self.path) as source:
            for track in (*source.streams.audio, *source.streams.subtitles):
                if track.codec_context is None or (track.type == "audio" and not (track.rate and track.channels)):
                    note(f"Track {track.index} of {self.path.name} cannot be read and is left out.")
                elif (added := _copy_track(output, track)) is not None:
                    copied[track.index] = added
                elif track.type == "audio":
                    encoded[track.index] = added = _add_encoder(output, track.rate, track.layout.name)
                    _describe(added, track)
                    note(
                        f"Audio track {track.index} ({track.codec_context.name}) is re-encoded as "
                        f"{added.codec_context.name}, which {output.format.name} can hold."
                    )
                else:
                    note(
                        f"Subtitle track {track.index} ({track.codec_context.name}) is left out: "
                        f"{output.format.name} cannot hold it. Write .mkv to keep it."
                    )
        return self._packets(copied, encoded)

    def _packets(self, copied: dict[int, Any], encoded: dict[int, Any]) -> TimedPackets:
        if not copied and not encoded:
            return
        with open_media(self.path) as source:
            origin = Fraction(source.start_time or 0, av.time_base)
            encoders = {index: _Encoder(stream) for index, stream in encoded.items()}
            for packet in source.demux([source.streams[index] for index in (*copied, *encoded)]):
                index = packet.stream.index
                if index in encoders:
                    yield from encoders[index].packets(_moved(packet.decode(), origin))
                elif packet.dts is not None or packet.pts is not None:
                    yield _copied(packet, copied[index], origin)
            for encoder in encoders.values():
                yield from encoder.finish()


@dataclass(frozen=True)
class Waveform:
    """Audio as samples; encoded as AAC, or as Opus in WebM.

    Attributes:
        samples: ``(S, channels)`` float32 in [-1, 1].
        sample_rate: Samples per second.
        lead: Seconds of audio before the first frame.
    """

    samples: np.ndarray
    sample_rate: int
    lead: Fraction = Fraction(0)

    def attach(self, output: av.container.OutputContainer, note: Callable[[str], None]) -> TimedPackets:
        """Add one track to ``output`` and return its packets."""
        if self.samples.ndim != 2 or self.samples.shape[1] not in (1, 2):
            raise MediaError(f"A waveform has shape (S, 1) or (S, 2), not {self.samples.shape}.")
        layout = "mono" if self.samples.shape[1] == 1 else "stereo"
        stream = _add_encoder(output, self.sample_rate, layout)
        stream.codec_context.bit_rate = _WAVEFORM_BITS_PER_CHANNEL * self.samples.shape[1]
        return self._packets(_Encoder(stream), layout)

    def _packets(self, encoder: "_Encoder", layout: str) -> TimedPackets:
        block = self.sample_rate
        for start in range(0, len(self.samples), block):
            piece = np.clip(self.samples[start : start + block].astype(np.float32), -1, 1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece.T), format="fltp", layout=layout)
            frame.sample_rate = self.sample_rate
            frame.pts = start
            frame.time_base = Fraction(1, self.sample_rate)
            yield from encoder.packets([frame])
        yield from encoder.finish()


class _Encoder:
    """Encodes decoded audio to packets of one track."""

    def __init__(self, stream: Any):
        self.stream = stream
        self._resampler: av.AudioResampler | None = None

    def packets(self, frames: list[av.AudioFrame]) -> TimedPackets:
        for frame in frames:
            yield from self._encoded(self._resampled(frame))

    def finish(self) -> TimedPackets:
        if self._resampler is not None:
            yield from self._encoded(self._resampler.resample(None))
        yield from self._timed(self.stream.encode(None))

    def _resampled(self, frame: av.AudioFrame) -> list[av.AudioFrame]:
        if self._resampler is None:
            context = self.stream.codec_context
            # The encoder reports its frame size only when it is open.
            context.open(strict=False)
            self._resampler = av.AudioResampler(
                format=context.format, layout=context.layout, rate=context.sample_rate, frame_size=context.frame_size
            )
        return self._resampler.resample(frame)

    def _encoded(self, frames: list[av.AudioFrame]) -> TimedPackets:
        for frame in frames:
            yield from self._timed(self.stream.encode(frame))

    def _timed(self, packets: list[av.Packet]) -> TimedPackets:
        for packet in packets:
            yield packet.pts * packet.time_base, packet


def read_waveform(path: str | Path) -> Waveform:
    """Read the first audio track of a file, whole, at its own rate.

    Returns:
        Samples ``(S, channels)`` float32.

    Raises:
        MediaError: If the file cannot be read or has no audio.
    """
    path = Path(path)
    with open_media(path) as source:
        if not source.streams.audio:
            raise MediaError(f"{path} has no audio.")
        track = source.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout=track.layout, rate=track.rate)
        frames = [out for frame in source.decode(track) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
        if not frames:
            raise MediaError(f"The audio of {path} cannot be decoded.")
        return Waveform(samples=np.concatenate([f.to_ndarray() for f in frames], axis=1).T, sample_rate=track.rate)


def merge_by_time(*sources: TimedPackets) -> TimedPackets:
    """Merge packets of several sources by time; each source is in order already."""
    yield from heapq.merge(*sources, key=lambda timed: timed[0])


def _copy_track(output: av.container.OutputContainer, track: Any) -> Any | None:
    if not _can_hold(output.format.name, track):
        return None
    added = output.add_stream_from_template(track)
    _describe(added, track)
    return added


def _can_hold(container: str, track: Any) -> bool:
    """Whether a container can hold a track's codec; some refuse it only when the header is written."""
    trial = av.open(io.BytesIO(), "w", format=container)
    try:
        trial.add_stream_from_template(track)
        trial.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    finally:
        # Closing a file without packets may fail.
        with suppress(av.FFmpegError):
            trial.close()
    return True


def _describe(added: Any, track: Any) -> None:
    added.metadata.update({name: text for name, text in track.metadata.items() if name.lower() in _TRACK_TAGS})
    added.disposition = track.disposition


def _add_encoder(output: av.container.OutputContainer, sample_rate: int, layout: str) -> Any:
    opus = output.format.name == "webm"
    # Opus supports five rates, of which 48 kHz loses nothing.
    stream = output.add_stream("libopus" if opus else "aac", rate=48_000 if opus else sample_rate)
    stream.codec_context.layout = layout
    return stream


def _copied(packet: av.Packet, stream: Any, origin: Fraction) -> tuple[Fraction, av.Packet]:
    shift = round(origin / packet.time_base)
    time = (packet.dts if packet.dts is not None else packet.pts) * packet.time_base - origin
    if packet.pts is not None:
        packet.pts -= shift
    if packet.dts is not None:
        packet.dts -= shift
    packet.stream = stream
    return time, packet


def _moved(frames: list[av.AudioFrame], origin: Fraction) -> list[av.AudioFrame]:
    for frame in frames:
        if frame.pts is not None:
            frame.pts -= round(origin / frame.time_base)
    return frames
