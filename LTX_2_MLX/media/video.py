"""Reading video files as streams of RGB frames, one chunk in memory at a time.

Every frame is kept; with a variable frame rate each keeps its time. Interlaced video is read as whole frames unless
deinterlacing is asked for, alpha is ignored.
"""

from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from itertools import islice, pairwise, repeat
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.display import RgbReader
from LTX_2_MLX.media.encoder import check_bit_depth
from LTX_2_MLX.media.extras import SourceTracks
from LTX_2_MLX.media.frames import FrameStream, observed
from LTX_2_MLX.media.probe import VideoInfo, probe_video
from LTX_2_MLX.media.source import decode, open_media
from LTX_2_MLX.media.writer import write_video

__all__ = ["read_video", "write_video"]

Deinterlace = Literal["same", "double"]
# Any unit will do: frames are counted, and their times come from the scan of the file.
_TICK = Fraction(1, 25)
_MODES = {"same": "send_frame", "double": "send_field"}
_NOT_READY = (av.BlockingIOError, av.EOFError)
_CHUNK_BYTES = 32 * 2**20
_MAX_CHUNK_FRAMES = 16
_INTERLACED = (
    "The video is interlaced: its frames show two moments in alternate rows, which networks take for detail. "
    "Pass --deinterlace same or --deinterlace double."
)


def read_video(
    path: str | Path,
    unknown_rate: Fraction | None = None,
    *,
    repair: bool = False,
    deinterlace: Deinterlace | None = None,
    bit_depth: int = 8,
) -> FrameStream:
    """Open a video file as a stream of upright RGB frames, decoded when they are read.

    The whole file is looked through first, so that its faults are known before the work. Audio and subtitle tracks
    come along (``audio``), and the file's title and similar tags as ``metadata``.

    Args:
        path: The file.
        unknown_rate: Frame rate of a file that has none, such as a raw H.264 stream; None: FFmpeg's guess.
        repair: Read damaged files too: damaged and missing frames are replaced by the one before.
        deinterlace: ``same``: whole frames from interlaced ones. ``double``: one from each field, at twice the rate.
        bit_depth: 8, or 10: frames are uint16, and written with 10 bits.

    Raises:
        MediaError: If it is missing, an image, without video, or damaged (without ``repair``).
    """
    if deinterlace is not None and deinterlace not in _MODES:
        raise MediaError(f"deinterlace is {deinterlace!r}, expected {' or '.join(get_args(Deinterlace))}.")
    if bit_depth != 8:
        check_bit_depth(bit_depth)
    info = probe_video(path, unknown_rate, repair=repair)
    notes = list(info.notes)
    if info.interlaced and deinterlace is None:
        notes.append(_INTERLACED)
    if info.bit_depth > bit_depth:
        advice = " Pass --bit-depth 10 to keep ten." if bit_depth == 8 else ""
        notes.append(f"{info.path.name} has {info.bit_depth} bits for each colour: {bit_depth} are read.{advice}")
    # Frames that are shown for each stored one.
    num_fields = 2 if deinterlace == "double" else 1
    stream = FrameStream(
        chunks=_chunks(info, deinterlace, num_fields, bit_depth),
        height=info.height,
        width=info.width,
        frame_rate=info.frame_rate * num_fields,
        num_frames=info.num_frames * num_fields,
        audio=SourceTracks(info.path, info.lead, info.start, info.shifts) if info.has_tracks else None,
        metadata=dict(info.metadata),
        times=_field_times(info.times) if num_fields == 2 else info.times,
        display=info.display,
        bit_depth=bit_depth,
        extras=info.extras,
        decoding_bytes=info.decoding_bytes,
        notes=tuple(notes),
    )
    return observed(stream)


def _field_times(times: tuple[Fraction, ...] | None) -> tuple[Fraction, ...] | None:
    """Times of both fields of each frame: its start, and halfway to the next."""
    if times is None:
        return None
    fields = [time for start, end in pairwise(times) for time in (start, (start + end) / 2)]
    return (*fields, times[-1])


def _chunks(info: VideoInfo, deinterlace: Deinterlace | None, num_fields: int, bit_depth: int) -> Iterator[np.ndarray]:
    """Chunks ``(T, H, W, 3)`` of the frames as they are shown."""
    frame_bytes = info.height * info.width * 3 * (1 if bit_depth == 8 else 2)
    length = min(_MAX_CHUNK_FRAMES, max(1, _CHUNK_BYTES // frame_bytes))
    frames = _frames(info, deinterlace, num_fields, bit_depth)
    while chunk := list(islice(frames, length)):
        yield np.stack(chunk)


def _frames(info: VideoInfo, deinterlace: Deinterlace | None, num_fields: int, bit_depth: int) -> Iterator[np.ndarray]:
    """Frames ``(H, W, 3)`` as they are shown, repeated and left out as the scan of the file says."""
    to_rgb = RgbReader(info.orientation, bit_depth)
    num_read = 0
    exact = bool(info.damage) or 0 in info.repeats
    # The decoder's threads come to rest before the file is closed.
    with (
        open_media(info.path) as container,
        closing(decode(container, info.video_index, info.shifts, exact=exact)) as decoded,
    ):
        frames = decoded if deinterlace is None else deinterlaced(decoded, deinterlace)
        for count in info.repeats:
            fields = list(islice(frames, num_fields))
            if len(fields) < num_fields:
                break
            num_read += 1
            if count:
                images = list(map(to_rgb, fields))
                yield from images
                yield from repeat(images[-1], (count - 1) * num_fields)
    if num_read < len(info.repeats):
        raise MediaError(f"{info.path} changed while it was read: {num_read} of {len(info.repeats)} frames are left.")


def deinterlaced(frames: Iterator[av.VideoFrame], mode: Deinterlace) -> Iterator[av.VideoFrame]:
    """Turn each interlaced frame into one (``same``) or two (``double``: one for each field) whole ones.

    Frames that are not marked as interlaced are filtered as well, upper field first.
    """
    graph: Any = None
    for index, frame in enumerate(frames):
        graph = graph or _graph(frame, mode)
        tags = frame.colorspace, frame.color_range
        frame.pts = index
        frame.time_base = _TICK
        graph.vpush(frame)
        yield from _ready(graph, *tags)
    if graph is not None:
        graph.vpush(None)
        yield from _ready(graph, *tags)


def _graph(frame: av.VideoFrame, mode: Deinterlace) -> Any:
    graph: Any = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TICK)
    bwdif = graph.add("bwdif", f"mode={_MODES[mode]}:parity=auto:deint=all")
    sink = graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    return graph


def _ready(graph: Any, colorspace: int, color_range: int) -> Iterator[av.VideoFrame]:
    """Frames that the filter has finished, with the tags of the source."""
    while True:
        try:
            frame = graph.vpull()
        except _NOT_READY:
            return
        frame.colorspace = colorspace
        frame.color_range = color_range
        yield frame
