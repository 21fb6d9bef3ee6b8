"""Reading video files as streams of RGB frames, one chunk in memory at a time.

Every frame is kept; with a variable frame rate each keeps its time. Interlaced video is read as whole frames, alpha
is ignored.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.audio import SourceTracks
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.pixel_format import RgbReader
from LTX_2_MLX.media.probe import VideoInfo, probe_video
from LTX_2_MLX.media.source import open_media
from LTX_2_MLX.media.writer import write_video

__all__ = ["read_video", "write_video"]

_CHUNK_BYTES = 32 * 2**20
_MAX_CHUNK_FRAMES = 16


def read_video(path: str | Path, unknown_rate: Fraction | None = None) -> FrameStream:
    """Open a video file as a stream of upright RGB frames, decoded when they are read.

    Audio and subtitle tracks come along (``audio``), and the file's title and similar tags as ``metadata``.

    Args:
        path: The file.
        unknown_rate: Frame rate of a file that has none, such as a raw H.264 stream; None: FFmpeg's guess.

    Raises:
        MediaError: If it is missing, an image, without video, or damaged. Damage that only decoding reveals is
            raised while the frames are read.
    """
    info = probe_video(path, unknown_rate)
    return FrameStream(
        chunks=_chunks(info),
        height=info.height,
        width=info.width,
        frame_rate=info.frame_rate,
        num_frames=info.num_frames,
        audio=SourceTracks(path=info.path, lead=info.lead) if info.has_tracks else None,
        metadata=dict(info.metadata),
        times=info.times,
        display=info.display,
    )


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
    to_rgb = RgbReader(info.orientation)
    num_read = 0
    for frame in _decoded(info):
        if info.orientation.size(frame.height, frame.width) != (info.height, info.width):
            raise MediaError(f"{info.path} changes its size at frame {num_read}. Re-encode it with one size.")
        yield to_rgb(frame)
        num_read += 1
    if info.num_frames is not None and num_read != info.num_frames:
        raise MediaError(f"{info.path} is damaged: {num_read} of its {info.num_frames} frames can be decoded.")


def _decoded(info: VideoInfo) -> Iterator[av.VideoFrame]:
    with open_media(info.path) as container:
        stream = container.streams.video[info.video_index]
        stream.thread_type = "AUTO"
        num_decoded = 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                if num_decoded:
                    raise
                continue
            for frame in frames:
                if frame.is_corrupt:
                    raise MediaError(f"{info.path} is damaged: frame {num_decoded} cannot be decoded.")
                if info.first_pts is None or frame.pts is None or frame.pts >= info.first_pts:
                    num_decoded += 1
                    yield frame
