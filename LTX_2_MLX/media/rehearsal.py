"""Trial writing of tracks before the work, so that no container refuses one after the last frame is computed."""

import io
from typing import Any

import av

from LTX_2_MLX.media.audio import EncodedTrack
from LTX_2_MLX.media.containers import Container
from LTX_2_MLX.media.source import ffmpeg_messages, reason
from LTX_2_MLX.media.tracks import CopiedTrack, Note, OutputTrack

# With fewer whole packets than this the track is encoded again, or left out.
_SMALLEST_SHARE_WHOLE = 0.5


class NullFile(io.RawIOBase):
    """A file that forgets what is written; muxers can seek in it."""

    def __init__(self) -> None:
        super().__init__()
        self._position = 0
        self._size = 0

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Take the bytes."""
        self._position += len(data)
        self._size = max(self._size, self._position)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Position within the file."""
        return self._position


def choose_tracks(ways_of_tracks: list[list[OutputTrack]], container: Container, note: Note) -> list[OutputTrack]:
    """Choose the first way of each track that can be written from its first packet to its last.

    What is encoded again or left out, and why, is reported to ``note``.
    """
    chosen = []
    for ways in ways_of_tracks:
        problem = ""
        for way in ways:
            problem = _problem(way, container)
            if not problem:
                _report(way, container, note)
                chosen.append(way)
                break
        else:
            note(f"{ways[-1].label} is left out: {problem}.")
    return chosen


def _report(way: OutputTrack, container: Container, note: Note) -> None:
    if isinstance(way, EncodedTrack):
        note(f"{way.label}: {container.name} cannot hold it as it is.")
    if isinstance(way, CopiedTrack) and way.left_out:
        note(f"{len(way.left_out)} damaged packets of {way.label} in {way.source.path.name} are left out.")


def _problem(way: OutputTrack, container: Container) -> str:
    """Write a track alone; returns what the container has against it, or an empty text."""
    num_packets = 0
    try:
        with ffmpeg_messages() as messages, av.open(NullFile(), "w", format=container.name) as output:
            packets = way.attach(output)
            output.start_encoding()
            for _, packet in packets:
                num_packets += 1
                ordinal: Any = packet.opaque
                try:
                    output.mux(packet)
                except av.FFmpegError:
                    if not isinstance(way, CopiedTrack):
                        raise
                    way.left_out.add(ordinal)
                    if len(way.left_out) > _SMALLEST_SHARE_WHOLE * max(num_packets, 20):
                        raise
    except (av.FFmpegError, ValueError) as error:
        return reason(error, messages)
    return ""
