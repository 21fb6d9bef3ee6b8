"""Deinterlacing: frames that show two moments in alternate rows to whole ones, by FFmpeg's bwdif."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal

import av

Deinterlace = Literal["same", "double"]
MODES = {"same": "send_frame", "double": "send_field"}
# Any unit will do: frames are counted, and their times come from the scan of the file.
_TICK = Fraction(1, 25)
_NOT_READY = (av.BlockingIOError, av.EOFError)


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
    bwdif = graph.add("bwdif", f"mode={MODES[mode]}:parity=auto:deint=all")
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
