"""Audio of a video: a track of a file that is encoded again, or a waveform to encode."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.container import OutputContainer

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.encoder import Container
from LTX_2_MLX.media.samples import Samples, audio_frame, decoded_frames, planar
from LTX_2_MLX.media.source import open_media
from LTX_2_MLX.media.tracks import Note, OutputTrack, SourceTrack, TimedPackets, default_layout, describe

_BITS_PER_CHANNEL = 96_000
# Layouts to try where an encoder does not know the one of the source: those that keep all channels come first.
_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "quad", "5.0", "5.1", "6.1", "7.1")


class Audio(Protocol):
    """Type of ``FrameStream.audio``."""

    @property
    def lead(self) -> Fraction:
        """Seconds that these tracks play before the first frame."""

    def tracks(self, container: Container, note: Note) -> list[list[OutputTrack]]:
        """Ways to write each track into a container, the best first; what is lost is reported to ``note``."""


@dataclass(frozen=True)
class EncodedTrack:
    """A track that is decoded and encoded again; gaps become silence, so that it stays in step.

    Attributes:
        source: Where it comes from.
        container: What it goes into.
    """

    source: SourceTrack
    container: Container

    @property
    def label(self) -> str:
        """Index, codec and what becomes of them."""
        with open_media(self.source.path, "read") as source:
            stream: Any = source.streams[self.source.index]
            settings = _settings(self.container.audio_encoder, stream)
            layout = default_layout(stream.layout.name, stream.channels)
            text = f"Audio {self.source.label} is re-encoded as {settings.encoder}"
            changes = []
            if settings.rate != stream.rate:
                changes.append(f"{settings.rate} Hz instead of {stream.rate} Hz")
            if settings.layout != layout:
                changes.append(f"{settings.layout} instead of {layout}")
        return f"{text}, {' and '.join(changes)}" if changes else text

    def loss(self, container: Container) -> str:
        """Why it is encoded again."""
        return f"{self.label}: {container.name} cannot hold it as it is."

    def attach(self, output: OutputContainer) -> TimedPackets:
        """Add the track to ``output`` and return its packets."""
        with open_media(self.source.path, "read") as source:
            template: Any = source.streams[self.source.index]
            settings = _settings(self.container.audio_encoder, template)
            stream = settings.add_stream(output)
            describe(stream, template)
            layout = default_layout(template.layout.name, template.channels)
            samples = Samples(
                rate=template.rate, layout=layout, from_zero=not self.container.late_tracks, end=self.source.end
            )
        return self._packets(_Encoder(stream), samples)

    def _packets(self, encoder: "_Encoder", samples: "Samples") -> TimedPackets:
        for frame in decoded_frames(self.source):
            yield from encoder.packets(samples.placed(frame))
        yield from encoder.finish()


@dataclass(frozen=True)
class _Settings:
    """An encoder, with a rate and layout that it knows."""

    encoder: str
    rate: int
    layout: str
    channels: int

    def add_stream(self, output: OutputContainer) -> Any:
        stream: Any = output.add_stream(self.encoder, rate=self.rate)
        stream.codec_context.layout = self.layout
        if not self.encoder.startswith("pcm"):
            stream.codec_context.bit_rate = _BITS_PER_CHANNEL * self.channels
        return stream


def _settings(encoder: str, stream: Any) -> _Settings:
    rate = _nearest_rate(encoder, stream.rate)
    wanted = default_layout(stream.layout.name, stream.channels)
    for layout in (wanted, *_alternatives(wanted)):
        if _opens(encoder, rate, layout):
            return _Settings(encoder, rate, layout, len(av.AudioLayout(layout).channels))
    raise MediaError(f"{encoder} has no layout for {wanted} audio.")


def _nearest_rate(encoder: str, rate: int) -> int:
    """The nearest rate that loses nothing, else the highest."""
    rates = sorted(av.Codec(encoder, "w").audio_rates or [rate])
    return next((each for each in rates if each >= rate), rates[-1])


def _alternatives(layout: str) -> list[str]:
    """Other layouts, those first that hold all channels of ``layout``, the smallest first."""
    wanted = _places(layout)
    holding = [other for other in _LAYOUTS if wanted <= _places(other)]
    return [*holding, *reversed([other for other in _LAYOUTS if other not in holding])]


def _places(layout: str) -> set[str]:
    """Channels of a layout; side and back are one place to a listener, and one rear channel is two."""
    places = set()
    for channel in av.AudioLayout(layout).channels:
        name = channel.name.replace("SL", "BL").replace("SR", "BR")
        places |= {"BL", "BR"} if name == "BC" else {name}
    return places


def _opens(encoder: str, rate: int, layout: str) -> bool:
    try:
        context: Any = av.CodecContext.create(encoder, "w")
        context.sample_rate = rate
        context.layout = layout
        formats = av.Codec(encoder, "w").audio_formats
        assert formats, encoder
        context.format = formats[0]
        context.time_base = Fraction(1, rate)
        context.open()
    except (av.FFmpegError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class Waveform:
    """Audio as samples; encoded as AAC, as Opus in WebM and as PCM in AVI.

    Attributes:
        samples: ``(S, channels)`` float32 in [-1, 1].
        sample_rate: Samples per second.
        lead: Seconds of audio before the first frame.
    """

    samples: np.ndarray
    sample_rate: int
    lead: Fraction = Fraction(0)

    def tracks(self, container: Container, note: Note) -> list[list[OutputTrack]]:
        """The only way to write it."""
        if self.samples.ndim != 2 or self.samples.shape[1] not in (1, 2):
            raise MediaError(f"A waveform has shape (S, 1) or (S, 2), not {self.samples.shape}.")
        return [[_WaveformTrack(self, container)]]


@dataclass(frozen=True)
class _WaveformTrack:
    """The track of a waveform."""

    waveform: Waveform
    container: Container

    @property
    def label(self) -> str:
        return "The generated audio"

    def loss(self, container: Container) -> str:
        return ""

    def attach(self, output: OutputContainer) -> TimedPackets:
        channels = self.waveform.samples.shape[1]
        layout = "mono" if channels == 1 else "stereo"
        encoder = self.container.audio_encoder
        rate = _nearest_rate(encoder, self.waveform.sample_rate)
        stream = _Settings(encoder, rate, layout, channels).add_stream(output)
        return self._packets(_Encoder(stream), layout)

    def _packets(self, encoder: "_Encoder", layout: str) -> TimedPackets:
        rate = self.waveform.sample_rate
        for start in range(0, len(self.waveform.samples), rate):
            block = np.clip(self.waveform.samples[start : start + rate].astype(np.float32), -1, 1)
            yield from encoder.packets([audio_frame(block.T, layout, rate, start)])
        yield from encoder.finish()


@dataclass
class _Encoder:
    """Encodes audio frames to packets of one track."""

    stream: Any
    _resampler: av.AudioResampler | None = None
    _next_pts: int = 0

    def packets(self, frames: "Iterator[av.AudioFrame] | list[av.AudioFrame]") -> TimedPackets:
        """Packets that are complete after these frames."""
        for frame in frames:
            if self._resampler is None:
                context = self.stream.codec_context
                # The encoder reports its frame size only when it is open.
                context.open(strict=False)
                self._resampler = av.AudioResampler(
                    format=context.format,
                    layout=context.layout,
                    rate=context.sample_rate,
                    frame_size=context.frame_size,
                )
            for resampled in self._resampler.resample(frame):
                yield from self._encoded(resampled)

    def finish(self) -> TimedPackets:
        """The remaining packets."""
        if self._resampler is None:
            # Nothing was encoded: some muxers want a sample in every track.
            context = self.stream.codec_context
            silence = np.zeros((len(context.layout.channels), 1024), np.float32)
            yield from self.packets([audio_frame(silence, context.layout.name, context.sample_rate, 0)])
        assert self._resampler is not None
        for frame in (*self._resampler.resample(None), None):
            yield from self._encoded(frame)

    def _encoded(self, frame: av.AudioFrame | None) -> TimedPackets:
        """Packets that are complete after a resampled frame; None is the end."""
        for packet in self.stream.encode(frame):
            if packet.pts is None:
                # The last packet of some encoders has no time.
                packet.pts = self._next_pts
                packet.dts = self._next_pts
            self._next_pts = packet.pts + (packet.duration or 0)
            yield packet.pts * packet.time_base, packet


def read_waveform(path: str | Path) -> Waveform:
    """Read the first audio track of a file, whole, at its own rate.

    Returns:
        Samples ``(S, channels)`` float32.

    Raises:
        MediaError: If the file cannot be read or has no audio.
    """
    path = Path(path)
    with open_media(path, "read") as source:
        if not source.streams.audio:
            raise MediaError(f"{path} has no audio.")
        track = source.streams.audio[0]
        samples = [planar(frame) for frame in source.decode(track)]
        if not samples:
            raise MediaError(f"The audio of {path} cannot be decoded.")
        return Waveform(samples=np.concatenate(samples, axis=1).T, sample_rate=track.rate)
