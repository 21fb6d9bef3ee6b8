"""Reading video files as streams of RGB frames, one chunk in memory at a time.

Every frame is kept; with a variable frame rate each keeps its time. Interlaced video is read as whole frames, alpha
is ignored.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.audio import SourceTracks
from LTX_2_MLX.media.display import RgbReader
from LTX_2_MLX.media.frames import FrameStream, observed
from LTX_2_MLX.media.probe import VideoInfo, probe_video
from LTX_2_MLX.media.source import decode, open_media
from LTX_2_MLX.media.writer import write_video

__all__ = ["read_video", "write_video"]

_CHUNK_BYTES = 32 * 2**20
_MAX_CHUNK_FRAMES = 16


def read_video(path: str | Path, unknown_rate: Fraction | None = None, *, repair: bool = False) -> FrameStream:
    """Open a video file as a stream of upright RGB frames, decoded when they are read.

    The whole file is looked through first, so that its faults are known before the work. Audio and subtitle tracks
    come along (``audio``), and the file's title and similar tags as ``metadata``.

    Args:
        path: The file.
        unknown_rate: Frame rate of a file that has none, such as a raw H.264 stream; None: FFmpeg's guess.
        repair: Read damaged files too: damaged and missing frames are replaced by the one before.

    Raises:
        MediaError: If it is missing, an image, without video, or damaged (without ``repair``).
    """
    info = probe_video(path, unknown_rate, repair=repair)
    stream = FrameStream(
        chunks=_chunks(info),
        height=info.height,
        width=info.width,
        frame_rate=info.frame_rate,
        num_frames=info.num_frames,
        audio=SourceTracks(info.path, info.lead, info.start, info.shifts) if info.has_tracks else None,
        metadata=dict(info.metadata),
        times=info.times,
        display=info.display,
        extras=info.extras,
        notes=info.notes,
    )
    return observed(stream)


def _chunks(info: VideoInfo) -> Iterator[np.ndarray]:
    frame_bytes = info.height * info.width * 3
    length = min(_MAX_CHUNK_FRAMES, max(1, _CHUNK_BYTES // frame_bytes))
    chunk: list[np.ndarray] = []
    for frame in _frames(info):
        chunk.append(frame)
        if len(chunk) == length:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)


def _frames(info: VideoInfo) -> Iterator[np.ndarray]:
    """Frames ``(H, W, 3)`` uint8 as they are shown, repeated and left out as the scan of the file says."""
    to_rgb = RgbReader(info.orientation)
    with open_media(info.path) as container:
        previous: np.ndarray | None = None
        num_read = 0
        for frame in decode(container, info.video_index, info.shifts):
            if num_read == len(info.repeats):
                break
            count = info.repeats[num_read]
            num_read += 1
            if count:
                previous = to_rgb(frame)
            for _ in range(count):
                assert previous is not None
                yield previous
    if num_read < len(info.repeats):
        raise MediaError(f"{info.path} changed while it was read: {num_read} of {len(info.repeats)} frames are left.")
