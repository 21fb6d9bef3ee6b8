"""Clips made on the spot: every oddity that a user's file may have, a few frames each."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

PEBBLES = Path(__file__).parent / "pebbles_160x112.mp4"


def frame_of(index: int, height: int, width: int) -> np.ndarray:
    """A image that tells its number by its grey, and left from right and top from bottom by its corners."""
    image = np.full((height, width, 3), 20 + 9 * index % 200, dtype=np.uint8)
    image[: height // 4, : width // 4] = (230, 30, 30)
    image[: height // 4, -(width // 4) :] = (30, 200, 40)
    image[-(height // 4) :, : width // 4] = (40, 60, 220)
    return image


def sine(seconds: float, rate: int, frequency: float = 440.0) -> np.ndarray:
    """``(S, 1)`` float32."""
    return np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate).astype(np.float32)[:, None] / 2


def write_clip(
    path: Path,
    *,
    num_frames: int = 7,
    size: tuple[int, int] = (48, 64),
    rate: Fraction | int = 24,
    times: list[Fraction] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    matrix: int = 1,
    full_range: bool = False,
    tagged: bool = True,
    images: list[np.ndarray] | None = None,
    sounds: int = 0,
    sound_codec: str = "aac",
    sound_start: Fraction = Fraction(0),
    video_start: Fraction = Fraction(0),
    display_matrix: tuple[int, ...] | None = None,
    options: dict[str, str] | None = None,
    muxer_options: dict[str, str] | None = None,
) -> Path:
    """Write a clip with PyAV alone; nothing here goes through the writer under test."""
    from av.video.reformatter import VideoReformatter

    from LTX_2_MLX.media.encoder import SCALING

    tick = Fraction(1, 12_000) if times or video_start else 1 / Fraction(rate)
    with av.open(str(path), "w", options=muxer_options or {}) as output:
        video = output.add_stream(codec, rate=Fraction(rate), options=options or {"crf": "1"}, time_base=tick)
        video.height, video.width, video.pix_fmt = *size, pixel_format
        if tagged:
            video.codec_context.colorspace = video.codec_context.color_primaries = video.codec_context.color_trc = (
                matrix
            )
            video.codec_context.color_range = 2 if full_range else 1
        if display_matrix is not None:
            video.set_display_matrix(display_matrix)
        tracks = [output.add_stream(sound_codec, rate=48_000) for _ in range(sounds)]
        for number, track in enumerate(tracks):
            track.layout = "mono"
            track.metadata["language"] = ("eng", "fra", "deu")[number]
        reformatter = VideoReformatter()
        for index in range(num_frames):
            image = images[index] if images else frame_of(index, *size)
            frame = reformatter.reformat(
                av.VideoFrame.from_ndarray(image, format="rgb24"),
                format=pixel_format,
                dst_colorspace=matrix,
                src_color_range=2,
                dst_color_range=2 if full_range else 1,
                interpolation=SCALING,
            )
            time = times[index] if times else index / Fraction(rate)
            frame.pts, frame.time_base = round((time + video_start) / tick), tick
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        seconds = max(0.2, num_frames / float(rate))
        for number, track in enumerate(tracks):
            _encode_sound(output, track, sine(seconds, 48_000, 300.0 + 200 * number), sound_start)
    return path


def _encode_sound(output, track, samples: np.ndarray, start: Fraction) -> None:
    resampler = av.AudioResampler(format="fltp" if "pcm" not in track.name else "s16", layout="mono", rate=48_000)
    frame = av.AudioFrame.from_ndarray(samples.T.copy(), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, int(start * 48_000), Fraction(1, 48_000)
    for out in [*resampler.resample(frame), *resampler.resample(None)]:
        output.mux(track.encode(out))
    output.mux(track.encode(None))


def packets_of(path: Path, kind: str) -> list[list[bytes]]:
    """The bytes of every packet of every track of a kind."""
    with av.open(str(path)) as source:
        indices = [stream.index for stream in source.streams if stream.type == kind]
    found = []
    for index in indices:
        with av.open(str(path)) as source:
            found.append([bytes(packet) for packet in source.demux(source.streams[index]) if packet.size])
    return found


@pytest.fixture
def clip():
    """``write_clip``."""
    return write_clip


@pytest.fixture
def packets():
    """``packets_of``."""
    return packets_of


@pytest.fixture
def pebbles() -> Path:
    """12 frames, 160×112, 12 a second, with sound; drawn by a program."""
    return PEBBLES


@pytest.fixture
def numbered():
    """``frame_of``."""
    return frame_of


@pytest.fixture
def tone():
    """``sine``."""
    return sine


@pytest.fixture
def notes():
    """A progress that keeps every note in ``notes``."""

    class Notes:
        def __init__(self):
            self.notes, self.steps = [], []

        def begin(self, stage): ...

        def advance(self, stage, done, total):
            self.steps.append((stage, done, total))

        def end(self, stage): ...

        def note(self, text):
            self.notes.append(text)

    return Notes()
