"""Disturbed clips, read and written again into every container, and what is wrong with the result.

A clip ends in one of two ways: it is refused by one line before a frame is computed, or the written file plays as long
as the clip does, with its sound where it was. Both are measured by PyAV alone, from what its decoders return. Where
the file differs, a note must have said so.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from LTX_2_MLX.development.odd_clips import KINDS, Plan, draw_plan, write_odd_clip
from LTX_2_MLX.errors import LTXError
from LTX_2_MLX.media.encoder import CONTAINERS, Container
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.tracks import Note, OutputTrack
from LTX_2_MLX.media.video import read_video, write_video
from LTX_2_MLX.runtime.progress import SilentProgress

SUFFIXES = tuple(container.suffixes[0] for container in CONTAINERS)
WAYS = ("copy", "encode")
REFUSED, KEPT, SAID = "refused", "kept", "said"
# Sound may move against the frames by this much without a word.
MAX_SHIFT_SECONDS = 0.002
# Samples a second at which sounds are compared.
_COMPARED_RATE = 16_000
# Sounds that agree less than this are not the same.
_LEAST_LIKENESS = 0.5
_LEAST_SECONDS = 0.15
# What a note may say of the frames' and of the sound's times.
_ON_TIMES = (
    "damaged", "time stamps", "joined", "shorter", "repeated", "starts", "before the first frame", "moved",
)  # fmt: skip
_ON_SOUND = (*_ON_TIMES, "left out", "cannot be read")


class Fault(Exception):
    """What a case should not have come to."""


@dataclass(frozen=True)
class Case:
    """One run: the kind of the clip, the container that is written, how its sound gets there, and the chance."""

    kind: str
    suffix: str
    way: str
    seed: int


def cases(number: int, seed: int = 0) -> Iterator[Case]:
    """The first ``number`` cases: all kinds, containers and ways in turn."""
    for index in range(number):
        kind = [*KINDS][index % len(KINDS)]
        suffix = SUFFIXES[index // len(KINDS) % len(SUFFIXES)]
        way = WAYS[index // (len(KINDS) * len(SUFFIXES)) % len(WAYS)]
        yield Case(kind, suffix, way, seed + index)


def run_case(case: Case, folder: Path) -> str:
    """Make the clip, read it and write it again.

    Returns:
        ``refused``, ``kept`` (as long, and in step) or ``said`` (different as notes say).

    Raises:
        Fault: For anything else.
    """
    dice = random.Random(f"{case.kind}-{case.suffix}-{case.way}-{case.seed}")
    plan = draw_plan(dice)
    source = write_odd_clip(KINDS[case.kind], plan, dice, folder / f"source{KINDS[case.kind].suffix}")
    notes = _Notes()
    target = folder / f"target{case.suffix}"
    if not _written(source, target, case.way, notes, repair=dice.random() < 0.5):
        return REFUSED
    return _judge(source, target, notes.lines, plan)


class _Notes(SilentProgress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def __str__(self) -> str:
        return " | ".join(self.lines)


@dataclass(frozen=True)
class _Encoded:
    """Audio whose tracks are all encoded anew."""

    audio: Any

    @property
    def lead(self) -> Fraction:
        lead: Fraction = self.audio.lead
        return lead

    def tracks(self, container: Container, note: Note) -> list[list[OutputTrack]]:
        return [ways[-1:] for ways in self.audio.tracks(container, note)]


@dataclass
class _Count:
    """Frames that have been computed."""

    frames: int = field(default=0)

    def counted(self, stream: FrameStream) -> Iterator[np.ndarray]:
        for chunk in stream:
            self.frames += len(chunk)
            yield chunk


def _written(source: Path, target: Path, way: str, notes: _Notes, *, repair: bool) -> bool:
    """Whether the file was written; False for a refusal before the work."""
    count = _Count()
    try:
        stream = read_video(source, repair=repair)
        if way == "encode" and stream.audio is not None:
            stream = stream.replace(audio=_Encoded(stream.audio))
        write_video(stream.replace(chunks=count.counted(stream)), target, progress=notes)
    except LTXError as error:
        if count.frames:
            raise Fault(f"after {count.frames} frames: {error}") from error
        if not str(error).strip():
            raise Fault("the refusal says nothing") from error
        return False
    except Exception as error:
        raise Fault(f"{type(error).__name__} after {count.frames} frames: {error}") from error
    return True


def _judge(source: Path, target: Path, notes: list[str], plan: Plan) -> str:
    before, after = measure(source), measure(target)
    if after.start is None:
        raise Fault("the written file has no frames")
    faults = []
    about_times = any(word in note for note in notes for word in _ON_TIMES)
    about_sound = any(word in note for note in notes for word in _ON_SOUND)
    difference = abs(before.seconds - after.seconds)
    if difference > before.frame_seconds / 2 + 0.001 and not about_times:
        faults.append(f"lasts {after.seconds:.3f} s instead of {before.seconds:.3f} s")
    shifts = sound_shifts(before, after)
    if not about_sound:
        faults += _faults_of_sound(before, after, shifts)
    if faults:
        raise Fault(f"{'; '.join(faults)}. Notes: {notes}. Plan: {plan}")
    is_same = difference <= before.frame_seconds / 2 + 0.001 and all(map(_is_small, shifts))
    return KEPT if is_same else SAID


def _is_small(shift: float) -> bool:
    return abs(shift) <= MAX_SHIFT_SECONDS


def _faults_of_sound(before: "Measured", after: "Measured", shifts: list[float]) -> list[str]:
    faults = []
    length_before, length_after = before.seconds_of_sound, after.seconds_of_sound
    if length_before > _LEAST_SECONDS and length_after < length_before / 2:
        faults.append(f"{length_after:.2f} s of sound instead of {length_before:.2f} s")
    if not all(map(_is_small, shifts)):
        faults.append(f"sound moved by {', '.join(f'{1000 * shift:.1f}' for shift in shifts)} ms")
    return faults


@dataclass
class Measured:
    """A file as PyAV's decoders return it.

    Attributes:
        start: Of the first frame in seconds; None without frames.
        seconds: From the first frame to the end of the last.
        frame_seconds: Usual step between frames.
        sound: Samples ``(S,)`` at ``_COMPARED_RATE`` from ``sound_start`` on.
        sound_start: In seconds from the first frame.
    """

    start: float | None = None
    seconds: float = 0.0
    frame_seconds: float = 0.04
    sound: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    sound_start: float = 0.0

    @property
    def seconds_of_sound(self) -> float:
        """Without silence."""
        blocks = self.sound[: len(self.sound) // 160 * 160].reshape(-1, 160)
        return float((np.abs(blocks).max(axis=1, initial=0) > 0.02).sum()) / 100


def measure(path: Path) -> Measured:
    """Times of a file's frames, and its sound."""
    with av.open(str(path)) as container:
        video = _decoded(container, "video")
        is_avi = container.format.name == "avi"
        track_end = _track_end(container)
    starts = [float(frame.pts * frame.time_base) for frame in video if frame.pts is not None]
    if not starts:
        return Measured()
    if is_avi:
        starts = [start - starts[0] + _first_order(path) for start in starts]
    starts.sort()
    steps = np.diff(starts)
    step = float(np.median(steps)) if len(steps) else float((video[0].duration or 0) * video[0].time_base)
    last: Any = video[-1]
    end = float(last.duration * last.time_base) if last.duration and not is_avi else step
    if track_end is not None and track_end - starts[-1] >= step / 2:
        end = track_end - starts[-1]
    result = Measured(starts[0], starts[-1] - starts[0] + end, step)
    with av.open(str(path)) as container:
        _place_sound(result, _decoded(container, "audio"))
    return result


def _track_end(container: Any) -> float | None:
    """When the video of an MP4 or MOV ends where its last frame is not decoded last; None for anything else.

    These store the step to the frame that is decoded next as a frame's duration.
    """
    stream = next(iter(container.streams.video), None)
    if stream is None or not container.format.name.startswith("mov,") or not stream.duration:
        return None
    container.seek(0)
    starts = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
    if not starts or starts[-1] == max(starts):
        return None
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base)


def _first_order(path: Path) -> float:
    """When the first frame is decoded: AVI knows nothing else."""
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.dts is not None:
                return float(packet.dts * packet.time_base)
    return 0.0


def _decoded(container: Any, kind: str) -> list[Any]:
    streams = [stream for stream in container.streams if stream.type == kind and stream.codec_context is not None]
    frames: list[Any] = []
    if not streams:
        return frames
    packets = container.demux(streams[0])
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return frames
            frames += [frame for frame in packet.decode() if not getattr(frame, "is_corrupt", False)]
        except av.EOFError:
            return frames
        except av.FFmpegError:
            continue


def _place_sound(result: Measured, frames: list[Any]) -> None:
    placed = [(float(frame.pts * frame.time_base), frame) for frame in frames if frame.pts is not None]
    if not placed:
        return
    begin = min(start for start, _ in placed)
    length = max(start + frame.samples / frame.sample_rate for start, frame in placed) - begin
    if length > 100:
        return
    samples = np.zeros(int(length * _COMPARED_RATE) + 2, np.float32)
    for start, frame in placed:
        _lay(samples, frame, start - begin)
    assert result.start is not None
    result.sound, result.sound_start = samples, begin - result.start


def _lay(samples: np.ndarray, frame: Any, start: float) -> None:
    mono = np.concatenate(
        [piece.to_ndarray() for piece in av.AudioResampler("flt", "mono", frame.sample_rate).resample(frame)], axis=1
    )[0]
    first, end = int(np.ceil(start * _COMPARED_RATE)), int((start + len(mono) / frame.sample_rate) * _COMPARED_RATE)
    times = np.arange(first, min(end + 1, len(samples))) / _COMPARED_RATE
    samples[first : first + len(times)] = np.interp(times, start + np.arange(len(mono)) / frame.sample_rate, mono)


def sound_shifts(before: Measured, after: Measured) -> list[float]:
    """Seconds by which each third of the sound comes later in the second file, where it can be measured."""
    start = max(before.sound_start, after.sound_start)
    ends = [each.sound_start + len(each.sound) / _COMPARED_RATE for each in (before, after)]
    seconds = min(ends) - start
    if seconds < _LEAST_SECONDS:
        return []
    num_parts = 3 if seconds > 3 * _LEAST_SECONDS else 1
    shifts = []
    for part in range(num_parts):
        begin = start + part * seconds / num_parts
        shift = _shift(_part(before, begin, seconds / num_parts), _part(after, begin, seconds / num_parts))
        if shift is not None:
            shifts.append(shift)
    return shifts


def _part(sound: Measured, start: float, seconds: float) -> np.ndarray:
    # Starts are no whole samples: interpolated, so that less than a sample counts.
    times = start - sound.sound_start + np.arange(int(seconds * _COMPARED_RATE)) / _COMPARED_RATE
    part: np.ndarray = np.interp(times, np.arange(len(sound.sound)) / _COMPARED_RATE, sound.sound)
    return part


def _shift(before: np.ndarray, after: np.ndarray) -> float | None:
    size = 2 * len(before)
    spectrum = np.conj(np.fft.rfft(before, size)) * np.fft.rfft(after, size)
    products = np.fft.irfft(spectrum, size)
    norm = float(np.linalg.norm(before) * np.linalg.norm(after))
    best = int(np.argmax(products))
    if norm < 1e-3 or products[best] < _LEAST_LIKENESS * norm:
        return None
    return float(best if best < size // 2 else best - size) / _COMPARED_RATE
