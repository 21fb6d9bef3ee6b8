"""Files of the kinds that users had trouble with, one folder for each kind."""

from pathlib import Path

import av
import pytest

from LTX_2_MLX.media.video import read_video, write_video

CASES = Path(__file__).parent


@pytest.fixture
def case():
    """Path of a case's file by ``folder/name``; the folder's number is enough."""

    def path_of(name: str) -> Path:
        number, _, file = name.partition("/")
        (path,) = CASES.glob(f"{number}-*/{file}")
        return path

    return path_of


@pytest.fixture
def copied(tmp_path, notes):
    """Read a file and write it again, as a command does without any network; the notes are in ``notes.notes``."""

    def copy(source: Path, suffix: str, **options) -> Path:
        return write_video(read_video(source, **options), tmp_path / f"copy{suffix}", progress=notes)

    return copy


def track_times(path: Path) -> dict[str, tuple[float, float]]:
    """Start and end in seconds of the first video and audio tracks, from their decoded frames."""
    times = {}
    with av.open(str(path)) as source:
        for stream in (*source.streams.video[:1], *source.streams.audio[:1]):
            source.seek(0)
            frames = [frame for frame in source.decode(stream) if frame.pts is not None]
            starts = [float(frame.pts * frame.time_base) for frame in frames]
            last = frames[-1]
            if stream.type == "audio":
                length = last.samples / last.sample_rate
            else:
                length = float(last.duration * last.time_base)
            times[stream.type] = (starts[0], starts[-1] + length)
    return times
