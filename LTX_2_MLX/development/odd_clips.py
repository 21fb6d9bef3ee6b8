"""Clips of all usual kinds whose times, tracks and bytes are disturbed by chance."""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

_SIZE = (64, 96)
_SOUND_RATE = 48_000
_RATES = (Fraction(25), Fraction(24), Fraction(30_000, 1001), Fraction(60_000, 1001), Fraction(12))


@dataclass(frozen=True)
class Kind:
    """A container with the codecs that files of it usually have.

    Attributes:
        suffix: Of the file name.
        video: FFmpeg's name of the encoder.
        audio: The same for the sound.
        options: Of the video encoder.
        byte_packets: Length of the pieces that recorders lose or repeat; 0 for a file that is written as a whole.
    """

    suffix: str
    video: str
    audio: str
    options: tuple[tuple[str, str], ...] = ()
    byte_packets: int = 0


KINDS = {
    "mp4": Kind(".mp4", "libx264", "aac", (("preset", "ultrafast"), ("bf", "2"))),
    "mp4 hevc": Kind(".mp4", "libx265", "ac3", (("preset", "ultrafast"), ("x265-params", "log-level=none"))),
    "mov": Kind(".mov", "libx264", "pcm_s16le", (("preset", "ultrafast"),)),
    "mkv": Kind(".mkv", "libx264", "flac", (("preset", "ultrafast"), ("bf", "2"))),
    "mkv lossless": Kind(".mkv", "ffv1", "pcm_s16le"),
    "webm": Kind(".webm", "libvpx", "libopus", (("deadline", "good"), ("cpu-used", "5"))),
    "avi": Kind(".avi", "mpeg4", "libmp3lame", (("qmin", "2"), ("qmax", "4"))),
    "avi camera": Kind(".avi", "mjpeg", "pcm_s16le"),
    "ts": Kind(".ts", "libx264", "aac", (("preset", "ultrafast"), ("bf", "2"), ("g", "10")), 188),
    "ts broadcast": Kind(".ts", "mpeg2video", "mp2", (("bf", "2"), ("g", "10")), 188),
    "mpg": Kind(".mpg", "mpeg1video", "mp2", (("g", "10"),), 2048),
    "flv": Kind(".flv", "flv", "libmp3lame"),
    "wmv": Kind(".wmv", "wmv2", "wmav2"),
}


@dataclass
class Plan:
    """How one clip is disturbed.

    Attributes:
        num_frames: Of the undisturbed clip.
        rate: Its frames per second.
        video_start: Seconds before the first frame.
        audio_start: Seconds before the first sample; negative: it begins before the clock's zero.
        video_gap: Number of the frame before which time is missing, and seconds.
        audio_gap: The same for packets of the sound.
        jitter: Largest part of a frame by which frames come late.
        dropped: Numbers of video and audio packets that are left out.
        repeated: Numbers of video and audio packets that are written twice.
        seconds_of_sound: Its length; 0 for none.
        bytes_cut: Part of the file's end that is missing.
        bytes_lost: Whether a piece in the middle is missing, or stands twice.
        joined: Whether a second copy follows, byte by byte.
    """

    num_frames: int
    rate: Fraction
    video_start: Fraction = Fraction(0)
    audio_start: Fraction = Fraction(0)
    video_gap: tuple[int, Fraction] | None = None
    audio_gap: tuple[int, Fraction] | None = None
    jitter: float = 0.0
    dropped: tuple[set[int], set[int]] = (set(), set())
    repeated: tuple[set[int], set[int]] = (set(), set())
    seconds_of_sound: float = 0.0
    bytes_cut: float = 0.0
    bytes_lost: str | None = None
    joined: bool = False


def draw_plan(dice: random.Random) -> Plan:
    """A clip of some frames with up to three disturbances."""
    plan = Plan(num_frames=dice.randrange(5, 36), rate=dice.choice(_RATES))
    plan.seconds_of_sound = float(plan.num_frames / plan.rate) * dice.choice((1, 1, 1, 1, 0.4, 1.7, 0))
    for disturb in dice.sample(_DISTURBANCES, dice.choice((0, 1, 1, 2, 3))):
        disturb(dice, plan)
    return plan


def _start_late(dice: random.Random, plan: Plan) -> None:
    plan.video_start = Fraction(dice.randrange(1, 700), 1000)


def _start_sound_late(dice: random.Random, plan: Plan) -> None:
    plan.audio_start = Fraction(dice.randrange(-300, 700), 1000)


def _start_far(dice: random.Random, plan: Plan) -> None:
    plan.video_start = plan.audio_start = Fraction(dice.choice((1, 60, 36_000, 95_000)))


def _lose_time(dice: random.Random, plan: Plan) -> None:
    plan.video_gap = dice.randrange(1, plan.num_frames), Fraction(dice.randrange(40, 1500), 1000)


def _lose_sound(dice: random.Random, plan: Plan) -> None:
    plan.audio_gap = dice.randrange(1, 12), Fraction(dice.randrange(20, 900), 1000)


def _shake(dice: random.Random, plan: Plan) -> None:
    plan.jitter = dice.choice((0.01, 0.3, 0.9))


def _drop(dice: random.Random, plan: Plan) -> None:
    plan.dropped = _some(dice, plan.num_frames), _some(dice, 20)


def _repeat(dice: random.Random, plan: Plan) -> None:
    plan.repeated = _some(dice, plan.num_frames), _some(dice, 20)


def _some(dice: random.Random, below: int) -> set[int]:
    return {dice.randrange(below) for _ in range(dice.choice((0, 1, 1, 3)))}


def _cut(dice: random.Random, plan: Plan) -> None:
    plan.bytes_cut = dice.choice((0.001, 0.01, dice.random()))


def _lose_bytes(dice: random.Random, plan: Plan) -> None:
    plan.bytes_lost = dice.choice(("missing", "twice"))


def _join(dice: random.Random, plan: Plan) -> None:
    plan.joined = True


_DISTURBANCES: tuple[Callable[[random.Random, Plan], None], ...] = (
    _start_late, _start_sound_late, _start_far, _lose_time, _lose_sound, _shake, _drop, _repeat, _cut, _lose_bytes,
    _join,
)  # fmt: skip


def write_odd_clip(kind: Kind, plan: Plan, dice: random.Random, path: Path) -> Path:
    """Write one clip; what the muxer refuses is left out."""
    if kind.video.startswith("mpeg") and plan.rate < 24:
        # MPEG-1 and MPEG-2 have a few rates only.
        plan.rate = Fraction(24)
    # Without it Matroska gets random numbers, and a case could not be repeated.
    settings = {"fflags": "+bitexact"}
    with suppress(av.FFmpegError), av.open(str(path), "w", container_options=settings) as output:
        # A muxer that refuses the end leaves a file without it, as a recorder that stops does.
        video: Any = _video_stream(output, kind, plan)
        tracks = [(video, _disturbed(_video_packets(video, plan, dice), plan, 0))]
        if plan.seconds_of_sound:
            audio: Any = output.add_stream(kind.audio, rate=_SOUND_RATE)
            audio.codec_context.layout = "mono"
            audio.codec_context.bit_rate = 96_000
            tracks.append((audio, _disturbed(_audio_packets(audio, plan, dice), plan, 1)))
        output.start_encoding()
        packets = [packet for _, packets in tracks for packet in packets]
        for packet in sorted(packets, key=_seconds):
            _mux(output, packet)
    _disturb_bytes(kind, plan, dice, path)
    return path


def _seconds(packet: av.Packet) -> Fraction:
    return (packet.dts or 0) * packet.time_base


def _mux(output: Any, packet: av.Packet) -> None:
    with suppress(av.FFmpegError, OverflowError):
        output.mux(packet)


def _video_stream(output: Any, kind: Kind, plan: Plan) -> Any:
    # Old codecs count whole frames only.
    is_fine = kind.video in ("libx264", "libx265", "ffv1", "libvpx")
    tick = Fraction(1, 90_000) if is_fine and (plan.jitter or plan.video_gap) else 1 / plan.rate
    stream = output.add_stream(kind.video, rate=plan.rate, options=dict(kind.options), time_base=tick)
    stream.height, stream.width = _SIZE
    stream.pix_fmt = {"mjpeg": "yuvj420p"}.get(kind.video, "yuv420p")
    return stream


def _video_packets(stream: Any, plan: Plan, dice: random.Random) -> list[av.Packet]:
    tick = stream.codec_context.time_base
    rate = plan.rate
    packets = []
    time = plan.video_start
    latest = -1
    for index in range(plan.num_frames):
        if plan.video_gap is not None and index == plan.video_gap[0]:
            time += plan.video_gap[1]
        frame = av.VideoFrame.from_ndarray(numbered_image(index), format="rgb24").reformat(format=stream.pix_fmt)
        late = Fraction(plan.jitter * dice.random()).limit_denominator(1000) / rate
        # Without a finer unit than a frame, two may round to one place.
        frame.pts = latest = max(round((time + late) / tick), latest + 1)
        frame.time_base = tick
        packets += stream.encode(frame)
        time += 1 / rate
    return [*packets, *stream.encode(None)]


def numbered_image(index: int) -> np.ndarray:
    """An image ``(H, W, 3)`` uint8 that differs from its neighbours everywhere."""
    image = np.full((*_SIZE, 3), 30 + 7 * index % 190, dtype=np.uint8)
    column = 5 * index % (_SIZE[1] - 16)
    image[16:48, column : column + 16] = (220, 60, 40)
    return image


def _audio_packets(stream: Any, plan: Plan, dice: random.Random) -> list[av.Packet]:
    context = stream.codec_context
    context.open(strict=False)
    resampler = av.AudioResampler(
        format=context.format, layout=context.layout, rate=context.sample_rate, frame_size=context.frame_size or 1024
    )
    frame = av.AudioFrame.from_ndarray(noise(plan.seconds_of_sound)[None], format="fltp", layout="mono")
    frame.sample_rate = _SOUND_RATE
    frame.time_base = Fraction(1, _SOUND_RATE)
    frame.pts = 0
    packets = []
    for piece in (*resampler.resample(frame), *resampler.resample(None)):
        packets += stream.encode(piece)
    packets += stream.encode(None)
    _move_sound(packets, plan)
    return packets


def _move_sound(packets: list[av.Packet], plan: Plan) -> None:
    time = plan.audio_start
    for index, packet in enumerate(packets):
        if plan.audio_gap is not None and index == plan.audio_gap[0]:
            time += plan.audio_gap[1]
        ticks = round(time / packet.time_base)
        packet.pts = (packet.pts or 0) + ticks
        packet.dts = packet.pts


def noise(seconds: float) -> np.ndarray:
    """Soft noise ``(S,)`` float32 at 48 kHz, the same at every call, that shows any shift in time."""
    samples = np.random.default_rng(5).normal(0, 1, int(seconds * _SOUND_RATE) + 64)
    smooth = np.convolve(samples, np.hanning(40), "same")[: int(seconds * _SOUND_RATE)]
    result: np.ndarray = (smooth / np.abs(smooth).max() * 0.7).astype(np.float32)
    return result


def _disturbed(packets: list[av.Packet], plan: Plan, track: int) -> Iterator[av.Packet]:
    for index, packet in enumerate(packets):
        if index in plan.dropped[track] and len(packets) > 2:
            continue
        yield packet
        if index in plan.repeated[track]:
            yield _copy(packet)


def _copy(packet: av.Packet) -> av.Packet:
    copy = av.Packet(bytes(packet))
    copy.stream = packet.stream
    copy.time_base = packet.time_base
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    return copy


def _disturb_bytes(kind: Kind, plan: Plan, dice: random.Random, path: Path) -> None:
    data = path.read_bytes()
    piece = kind.byte_packets
    if plan.bytes_lost and piece:
        start = dice.randrange(len(data) // piece) * piece
        end = start + dice.randrange(1, 12) * piece
        data = data[:start] + (data[start:end] * 2 if plan.bytes_lost == "twice" else b"") + data[end:]
    if plan.joined and piece:
        data += data
    path.write_bytes(data[: max(1, round(len(data) * (1 - plan.bytes_cut)))])
