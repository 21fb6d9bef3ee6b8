"""Videos as HTML, for notebooks: a saved file, and a stream whose frames are kept once they are shown."""

import base64
import html
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from LTX_2_MLX.media.writer import FrameSource, write_video

# Larger files would make the notebook too large to open.
_MOST_FILE_BYTES = 64 << 20
# Frames that a stream keeps so that it can be read after it was shown.
_MOST_FRAME_BYTES = 1 << 30
_CRF = 23
_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm"}
_IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
_STYLE = "max-width: 100%; border-radius: 6px"
# The controls would cover a smaller video.
_VIDEO_STYLE = f"min-width: min(100%, 320px); {_STYLE}"


class SavedVideo(type(Path())):  # type: ignore[misc]
    """The path of a file that was written; a notebook plays it."""

    def __repr__(self) -> str:
        """As a plain path."""
        return f"SavedVideo({str(self)!r})"

    def _repr_html_(self) -> str:
        """The video or image, if browsers show its format and it is not too large; else its name and size."""
        kind = _TYPES.get(self.suffix.lower()) or _IMAGE_TYPES.get(self.suffix.lower())
        kind = "image/gif" if self.suffix.lower() == ".gif" else kind
        name = html.escape(self.name)
        num_bytes = self.stat().st_size if self.is_file() else 0
        if kind is None or not num_bytes or num_bytes > _MOST_FILE_BYTES:
            size = f", {num_bytes / 2**20:.1f} MiB" if num_bytes else " is not there any more"
            return f"<p>{name}{size}</p>"
        return _element(kind, self.read_bytes(), name)


class _Stream(FrameSource, Protocol):
    """The fields and methods of ``media.frames.FrameStream`` that showing a stream takes."""

    chunks: Iterable[np.ndarray]

    def __iter__(self) -> Iterator[np.ndarray]: ...

    def replace(self, **changes: Any) -> Any: ...


def stream_html(stream: _Stream) -> str:
    """The video of a stream; its frames are computed, and kept in the stream, which can be read again.

    Streams of unknown or great length are described, and not read.
    """
    facts = f"{stream.width}×{stream.height}, {stream.num_frames or 'unknown number of'} frames"
    facts += f", {float(stream.frame_rate):.6g} fps"
    item_bytes = 1 if stream.bit_depth == 8 else 2
    num_bytes = 3 * item_bytes * stream.height * stream.width * (stream.num_frames or _MOST_FRAME_BYTES)
    if num_bytes > _MOST_FRAME_BYTES:
        return f"<p>{facts}: <code>.save(path)</code> writes it.</p>"
    chunks: list[np.ndarray] = list(stream)
    stream.chunks = chunks
    if not chunks:
        return f"<p>{facts}; it has been read already.</p>"
    with tempfile.TemporaryDirectory() as folder:
        # Ten bits would be written as H.265, which few browsers play.
        shown = [chunk if stream.bit_depth == 8 else (chunk >> 8).astype(np.uint8) for chunk in chunks]
        copy = stream.replace(chunks=shown, bit_depth=8, notes=(), source_check=None)
        path = write_video(copy, Path(folder) / "shown.mp4", crf=_CRF)
        return f"{_element('video/mp4', path.read_bytes(), facts)}<p>{facts}</p>"


def _element(kind: str, content: bytes, words: str) -> str:
    source = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    if kind.startswith("image"):
        return f'<img src="{source}" alt="{words}" style="{_STYLE}">'
    return f'<video src="{source}" controls loop aria-label="{words}" style="{_VIDEO_STYLE}"></video>'
