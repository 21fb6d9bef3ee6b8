"""Files taken apart into the pieces that their format has, and put together again: what structured damage works on.

A file is a list of pieces; a piece has a kind and either content or pieces of its own. Sizes and checksums are computed
anew when a file is put together, so that a reader gets past them to what the damage has changed.
"""

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

# Boxes and chunks that hold others, with the bytes of their own before those.
_BOX_PARENTS = {
    b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"udta": 0, b"edts": 0, b"dinf": 0, b"moof": 0,
    b"traf": 0, b"mvex": 0, b"ilst": 0, b"iprp": 0, b"ipco": 0, b"jp2h": 0, b"meta": 4, b"stsd": 8, b"dref": 8,
    b"iinf": 6, b"iref": 4,
}  # fmt: skip
_RIFF_PARENTS = (b"RIFF", b"LIST")
# Segment, tracks, chapters, tags, cues and the like of Matroska, by their ids.
_EBML_PARENTS = frozenset(
    bytes.fromhex(number)
    for number in (
        "1a45dfa3", "18538067", "1549a966", "1654ae6b", "ae", "e0", "e1", "1f43b675", "a0", "1c53bb6b", "bb", "b7",
        "1254c367", "7373", "63c0", "67c8", "1043a770", "45b9", "b6", "80", "1941a469", "61a7", "114d9b74", "4dbb",
        "6d80", "6240", "5034",
    )
)  # fmt: skip
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TS_PACKET = 188


@dataclass
class Piece:
    """One box, chunk, segment or packet.

    Attributes:
        kind: Its name in the format.
        content: Its bytes, or those before its inner pieces.
        inner: The pieces inside; None: there cannot be any.
        claimed: Added to the size that is written for it.
    """

    kind: bytes
    content: bytes = b""
    inner: "list[Piece] | None" = None
    claimed: int = 0


@dataclass(frozen=True)
class Format:
    """How files of a format are taken apart and put together."""

    apart: Callable[[bytes], list[Piece]]
    together: Callable[[list[Piece]], bytes]


@dataclass
class _Bytes:
    """Bytes that are read from front to back."""

    data: bytes
    at: int = field(default=0)

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        self.at += count
        return piece

    @property
    def left(self) -> int:
        return len(self.data) - self.at


def _boxes(data: bytes) -> list[Piece]:
    source, pieces = _Bytes(data), []
    while source.left >= 8:
        length, kind = struct.unpack(">I4s", source.take(8))
        body = source.take(length - 8 if length >= 8 else source.left)
        if kind in _BOX_PARENTS:
            own = _BOX_PARENTS[kind]
            pieces.append(Piece(kind, body[:own], _boxes(body[own:])))
        else:
            pieces.append(Piece(kind, body))
    return pieces


def _from_boxes(pieces: list[Piece]) -> bytes:
    written = b""
    for piece in pieces:
        body = piece.content + _from_boxes(piece.inner or [])
        written += struct.pack(">I", (8 + len(body) + piece.claimed) % 2**32) + piece.kind[:4].ljust(4) + body
    return written


def _chunks(data: bytes) -> list[Piece]:
    """RIFF: AVI and WebP."""
    source, pieces = _Bytes(data), []
    while source.left >= 8:
        kind, length = struct.unpack("<4sI", source.take(8))
        body = source.take(length)
        source.take(length & 1)
        if kind in _RIFF_PARENTS and body[:4] != b"movi":
            pieces.append(Piece(kind, body[:4], _chunks(body[4:])))
        else:
            pieces.append(Piece(kind, body))
    return pieces


def _from_chunks(pieces: list[Piece]) -> bytes:
    written = b""
    for piece in pieces:
        body = piece.content + _from_chunks(piece.inner or [])
        written += piece.kind[:4].ljust(4) + struct.pack("<I", (len(body) + piece.claimed) % 2**32) + body
        written += bytes(len(body) & 1)
    return written


def _elements(data: bytes) -> list[Piece]:
    """EBML: Matroska and WebM."""
    source, pieces = _Bytes(data), []
    while source.left >= 2:
        first = source.data[source.at]
        kind = source.take(9 - first.bit_length() if first else 1)
        size_byte = source.data[source.at] if source.left else 0
        width = 9 - size_byte.bit_length() if size_byte else 8
        size = int.from_bytes(source.take(width)) & ((1 << 7 * width) - 1)
        body = source.take(min(size, source.left))
        inner = _elements(body) if kind in _EBML_PARENTS else None
        pieces.append(Piece(kind, b"" if inner is not None else body, inner))
    return pieces


def _from_elements(pieces: list[Piece]) -> bytes:
    written = b""
    for piece in pieces:
        body = piece.content + _from_elements(piece.inner or [])
        size = max(0, len(body) + piece.claimed) % 2**55
        written += piece.kind + (size | 1 << 56).to_bytes(8) + body
    return written


def _png(data: bytes) -> list[Piece]:
    source, pieces = _Bytes(data), [Piece(b"", data[:8])]
    source.take(8)
    while source.left >= 12:
        length, kind = struct.unpack(">I4s", source.take(8))
        pieces.append(Piece(kind, source.take(length)))
        source.take(4)
    return pieces


def _from_png(pieces: list[Piece]) -> bytes:
    written = b""
    for piece in pieces:
        if not piece.kind:
            written += piece.content
            continue
        kind = piece.kind[:4].ljust(4)
        length = (len(piece.content) + piece.claimed) % 2**32
        written += (
            struct.pack(">I", length) + kind + piece.content + struct.pack(">I", zlib.crc32(kind + piece.content))
        )
    return written


def _jpeg(data: bytes) -> list[Piece]:
    """Segments with a length; the scan and what follows it is one piece."""
    source, pieces = _Bytes(data), [Piece(b"", data[:2])]
    source.take(2)
    while source.left >= 4 and source.data[source.at] == 0xFF:
        marker = source.take(2)
        if marker == b"\xff\xda":
            pieces.append(Piece(b"", marker + source.take(source.left)))
            break
        (length,) = struct.unpack(">H", source.take(2))
        pieces.append(Piece(marker, source.take(length - 2)))
    return pieces


def _from_jpeg(pieces: list[Piece]) -> bytes:
    written = b""
    for piece in pieces:
        if piece.kind:
            written += piece.kind[:2].ljust(2) + struct.pack(">H", (len(piece.content) + 2 + piece.claimed) % 2**16)
        written += piece.content
    return written


def _packets(data: bytes) -> list[Piece]:
    """A transport stream: packets, with their headers as kinds."""
    starts = range(0, len(data), _TS_PACKET)
    return [Piece(data[start : start + 4], data[start + 4 : start + _TS_PACKET]) for start in starts]


def _joined(pieces: list[Piece]) -> bytes:
    return b"".join(piece.kind + piece.content for piece in pieces)


def _blocks(data: bytes) -> list[Piece]:
    """A format without pieces of its own (TIFF, GIF, BMP, raw streams): its beginning in small ones, then the rest."""
    head = min(len(data) // 12 * 12, 1020)
    pieces = [Piece(b"", data[start : start + 12]) for start in range(0, head, 12)]
    return [*pieces, Piece(b"", data[head:])]


def _entries(data: bytes) -> list[Piece]:
    """A zip archive: its entries by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [Piece(name.encode(), archive.read(name)) for name in archive.namelist()]


def _from_entries(pieces: list[Piece]) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore")
        for piece in pieces:
            how = zipfile.ZIP_DEFLATED if piece.claimed else zipfile.ZIP_STORED
            # A name that occurs twice is written twice.
            info = zipfile.ZipInfo(piece.kind.decode("latin-1") or "x")
            archive.writestr(info, piece.content, how)
    return stream.getvalue()


BOXES = Format(_boxes, _from_boxes)
ZIP = Format(_entries, _from_entries)
BLOCKS = Format(_blocks, _joined)
FORMATS: dict[str, Format] = {
    ".mp4": BOXES,
    ".mov": BOXES,
    ".heic": BOXES,
    ".avif": BOXES,
    ".jp2": BOXES,
    ".avi": Format(_chunks, _from_chunks),
    ".webp": Format(_chunks, _from_chunks),
    ".mkv": Format(_elements, _from_elements),
    ".webm": Format(_elements, _from_elements),
    ".png": Format(_png, _from_png),
    ".jpg": Format(_jpeg, _from_jpeg),
    ".ts": Format(_packets, _joined),
    ".pth": ZIP,
}


def format_of(suffix: str) -> Format:
    """How to take apart a file with this ending."""
    return FORMATS.get(suffix, BLOCKS)
