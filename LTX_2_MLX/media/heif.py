"""HEIC photos, single or in tiles as phones store them: boxes read here, HEVC decoded by FFmpeg.

Source: ISO/IEC 23008-12 (HEIF) and ISO/IEC 14496-12 (boxes, ``iloc``, ``iref``).
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.source import Orientation, RgbReader

_BRANDS = (b"heic", b"heix", b"heim", b"heis")
_ALPHA_TYPES = (b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha")
_MAX_META_BYTES = 2**24
# Pillow's own limit for other formats: 2 * Image.MAX_IMAGE_PIXELS.
_MAX_PIXELS = 178_956_970
_BT601, _UNSPECIFIED = 6, 2


@dataclass
class Item:
    """One item of the file: an image, a tile of one, or metadata.

    Attributes:
        kind: ``hvc1``, ``grid``, ``Exif`` and others.
        in_meta: Whether extents count from the start of the ``idat`` box instead of the file.
        extents: Offset and length of each piece of its data.
        properties: Kind and payload of each property, in the order in which transforms apply.
        references: Items that it refers to, by kind of reference.
    """

    kind: bytes = b""
    in_meta: bool = False
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    references: dict[bytes, list[int]] = field(default_factory=dict)

    def get(self, kind: bytes) -> bytes | None:
        """Payload of the first property of a kind."""
        return next((payload for name, payload in self.properties if name == kind), None)


@dataclass(frozen=True)
class HeifImage:
    """A decoded photo, upright: ``(H, W, 3)`` uint8, alpha ``(H, W)``, colour profile and EXIF (or None)."""

    pixels: np.ndarray
    alpha: np.ndarray | None
    icc_profile: bytes | None
    exif: bytes | None


def is_heif(path: Path) -> bool:
    """Whether a file is HEIC, by the brands in its first bytes."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4]), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end, 4))]
    return any(brand in _BRANDS for brand in brands)


def heif_size(path: Path) -> tuple[int, int]:
    """Upright height and width of the photo, from its boxes alone.

    Raises:
        MediaError: If the boxes are damaged or of a kind that is not supported.
    """
    with _opened(path) as file:
        return file.upright_size(file.primary)


def read_heif(path: Path) -> HeifImage:
    """Decode the photo.

    Raises:
        MediaError: If it is damaged or of a kind that is not supported.
    """
    with _opened(path) as file:
        primary = file.items[file.primary]
        return HeifImage(file.upright_pixels(file.primary), file.alpha(), _profile(primary), file.exif())


class _HeifFile:
    """The items of an open file."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._idat = b""
        self.items: dict[int, Item] = {}
        self.primary = 0

    def read_boxes(self) -> None:
        """Read the ``meta`` box."""
        boxes = dict(_boxes(self._meta()[4:]))
        self._idat = boxes.get(b"idat", b"")
        self.primary = _primary(boxes[b"pitm"])
        _read_kinds(boxes[b"iinf"], self.items)
        _read_extents(boxes[b"iloc"], self.items)
        _read_properties(boxes[b"iprp"], self.items)
        _read_references(boxes.get(b"iref", bytes(4)), self.items)

    def _meta(self) -> bytes:
        while header := self._file.read(8):
            length, kind = struct.unpack(">I4s", header)
            payload = length - 8
            if length == 1:
                payload = struct.unpack(">Q", self._file.read(8))[0] - 16
            if kind == b"meta" and 0 < payload <= _MAX_META_BYTES:
                return self._file.read(payload)
            if payload < 0:
                break
            self._file.seek(payload, 1)
        raise ValueError("it has no description of its images")

    def data(self, number: int) -> bytes:
        """The data of an item."""
        item = self.items[number]
        pieces = []
        for offset, length in item.extents:
            if item.in_meta:
                piece = self._idat[offset : offset + length]
            else:
                self._file.seek(offset)
                piece = self._file.read(length)
            if len(piece) < length:
                raise ValueError("it is cut short")
            pieces.append(piece)
        return b"".join(pieces)

    def upright_size(self, number: int) -> tuple[int, int]:
        """Height and width of an image after its crop and rotation."""
        height, width = _stored_size(self.items[number])
        probe = np.broadcast_to(np.uint8(0), (height, width))
        height, width = _transformed(probe, self.items[number]).shape
        return height, width

    def upright_pixels(self, number: int) -> np.ndarray:
        """An image ``(H, W, 3)`` uint8 after its crop and rotation."""
        height, width = _stored_size(self.items[number])
        stored = self._stored_pixels(number)[:height, :width]
        return np.ascontiguousarray(_transformed(stored, self.items[number]))

    def _stored_pixels(self, number: int) -> np.ndarray:
        item = self.items[number]
        if item.kind == b"hvc1":
            return self._decoded(number)
        if item.kind != b"grid":
            raise ValueError(f"it holds {item.kind.decode('latin-1')} instead of HEVC")
        return self._joined(number)

    def _joined(self, number: int) -> np.ndarray:
        """The tiles of a grid, row by row."""
        more_rows, more_columns = self.data(number)[2:4]
        tiles = self.items[number].references[b"dimg"]
        rows, columns = more_rows + 1, more_columns + 1
        if len(tiles) != rows * columns:
            raise ValueError(f"it has {len(tiles)} tiles instead of {rows * columns}")
        height, width = _stored_size(self.items[number])
        joined = np.zeros((height, width, 3), np.uint8)
        for index, tile in enumerate(tiles):
            if self.items[tile].kind != b"hvc1":
                raise ValueError("its tiles are not HEVC")
            pixels = self._decoded(tile)
            top, left = index // columns * pixels.shape[0], index % columns * pixels.shape[1]
            target = joined[top : top + pixels.shape[0], left : left + pixels.shape[1]]
            target[:] = pixels[: target.shape[0], : target.shape[1]]
        return joined

    def _decoded(self, number: int) -> np.ndarray:
        """An HEVC image as it is stored."""
        item = self.items[number]
        decoder: Any = av.CodecContext.create("hevc", "r")
        decoder.extradata = item.get(b"hvcC")
        packets = (av.Packet(self.data(number)), None)
        frames = [frame for packet in packets for frame in decoder.decode(packet)]
        if not frames:
            raise ValueError("an image in it cannot be decoded")
        frame = frames[0]
        _tag(frame, item.get(b"colr") or self.items[self.primary].get(b"colr"))
        height, width = _stored_size(item)
        return RgbReader(Orientation())(frame)[:height, :width]

    def alpha(self) -> np.ndarray | None:
        """Transparency ``(H, W)`` of the photo; None without."""
        for number, item in self.items.items():
            kind = (item.get(b"auxC") or b"")[4:].split(b"\0")[0]
            if kind in _ALPHA_TYPES and self.primary in item.references.get(b"auxl", ()):
                return self.upright_pixels(number)[..., 0]
        return None

    def exif(self) -> bytes | None:
        """EXIF of the photo, as TIFF data."""
        for number, item in self.items.items():
            if item.kind == b"Exif" and self.primary in item.references.get(b"cdsc", ()):
                data = self.data(number)
                return data[4 + int.from_bytes(data[:4]) :]
        return None


@contextmanager
def _opened(path: Path) -> Iterator[_HeifFile]:
    """Open a file; any damage in it becomes one MediaError."""
    try:
        with path.open("rb") as file:
            opened = _HeifFile(file)
            opened.read_boxes()
            yield opened
    except (ValueError, LookupError, struct.error, ZeroDivisionError, OverflowError, av.FFmpegError) as error:
        why = str(error) if type(error) is ValueError else "its boxes are damaged"
        raise MediaError(
            f"{path} is a HEIC photo that cannot be read: {why}. Convert it first: "
            f"sips -s format jpeg {path.name} --out {path.stem}.jpg"
        ) from error


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and payload of each box."""
    start = 0
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        length = length or len(data) - start
        if length < head:
            raise ValueError("its boxes are damaged")
        yield kind, data[start + head : start + length]
        start += length


class _Reader:
    """Big-endian numbers of a box, one after another."""

    def __init__(self, data: bytes, start: int = 0):
        self._data = data
        self._at = start

    def number(self, size: int) -> int:
        """The next ``size`` bytes."""
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise ValueError("its boxes are damaged")
        self._at += size
        return int.from_bytes(piece)


def _primary(box: bytes) -> int:
    return _Reader(box, 4).number(2 if box[0] == 0 else 4)


def _read_kinds(box: bytes, items: dict[int, Item]) -> None:
    """``iinf``: number and kind of each item."""
    for kind, entry in _boxes(box[6 if box[0] == 0 else 8 :]):
        if kind == b"infe" and entry[0] >= 2:
            size = 2 if entry[0] == 2 else 4
            number = _Reader(entry, 4).number(size)
            items[number] = Item(kind=entry[6 + size : 10 + size])


def _read_extents(box: bytes, items: dict[int, Item]) -> None:
    """``iloc``: where the data of each item lies."""
    version = box[0]
    read = _Reader(box, 4)
    sizes = read.number(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    number_size = 2 if version < 2 else 4
    for _ in range(read.number(number_size)):
        item = items[read.number(number_size)]
        method = read.number(2) & 15 if version else 0
        if method > 1 or read.number(2):
            raise ValueError("its data lies in another file or item")
        item.in_meta = method == 1
        base = read.number(base_size)
        for _ in range(read.number(2)):
            read.number(index_size if version else 0)
            offset = read.number(offset_size)
            item.extents.append((base + offset, read.number(length_size)))


def _read_properties(box: bytes, items: dict[int, Item]) -> None:
    """``iprp``: properties, and which item has which."""
    properties: list[tuple[bytes, bytes]] = []
    for kind, payload in _boxes(box):
        if kind == b"ipco":
            properties = list(_boxes(payload))
        elif kind == b"ipma":
            _associate(payload, properties, items)


def _associate(box: bytes, properties: list[tuple[bytes, bytes]], items: dict[int, Item]) -> None:
    large = box[3] & 1
    read = _Reader(box, 4)
    for _ in range(read.number(4)):
        item = items[read.number(2 if box[0] == 0 else 4)]
        for _ in range(read.number(1)):
            # The highest bit marks properties that readers must know.
            index = read.number(2) & 0x7FFF if large else read.number(1) & 0x7F
            if index:
                item.properties.append(properties[index - 1])


def _read_references(box: bytes, items: dict[int, Item]) -> None:
    """``iref``: tiles of grids, images that metadata and alpha belong to."""
    size = 2 if box[0] == 0 else 4
    for kind, entry in _boxes(box[4:]):
        read = _Reader(entry)
        item = items[read.number(size)]
        targets = [read.number(size) for _ in range(read.number(2))]
        item.references.setdefault(kind, []).extend(targets)


def _stored_size(item: Item) -> tuple[int, int]:
    """Height and width before crop and rotation."""
    box = item.get(b"ispe")
    if box is None:
        raise ValueError("an image in it has no size")
    width, height = struct.unpack_from(">II", box, 4)
    if not 0 < height * width <= _MAX_PIXELS:
        raise ValueError(f"it has {width}×{height} pixels, at most {_MAX_PIXELS} are read")
    return height, width


def _transformed(pixels: np.ndarray, item: Item) -> np.ndarray:
    """A view of ``(H, W, ...)`` after the item's crop, rotation and mirror."""
    for kind, payload in item.properties:
        if kind == b"irot":
            pixels = np.rot90(pixels, payload[0] & 3)
        elif kind == b"imir":
            pixels = pixels[:, ::-1] if payload[0] & 1 else pixels[::-1]
        elif kind == b"clap":
            pixels = _cropped(pixels, payload)
    return pixels


def _cropped(pixels: np.ndarray, clap: bytes) -> np.ndarray:
    """Cut out the clean aperture: width, height and offset of its centre, each a fraction."""
    values = struct.unpack_from(">IIIIiIiI", clap)
    width, height, right, down = (Fraction(values[index], values[index + 1]) for index in range(0, 8, 2))
    top = round((pixels.shape[0] - height) / 2 + down)
    left = round((pixels.shape[1] - width) / 2 + right)
    rows, columns = round(height), round(width)
    if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > pixels.shape[0] or left + columns > pixels.shape[1]:
        raise ValueError("its crop lies outside of the image")
    return pixels[top : top + rows, left : left + columns]


def _profile(item: Item) -> bytes | None:
    for kind, payload in item.properties:
        if kind == b"colr" and payload[:4] in (b"prof", b"rICC"):
            return payload[4:]
    return None


def _tag(frame: av.VideoFrame, colr: bytes | None) -> None:
    """Set matrix and range of a decoded image: by the file's ``colr`` box, else BT.601 as HEIF's default is."""
    if colr is not None and colr[:4] == b"nclx":
        frame.colorspace = int.from_bytes(colr[8:10])
        frame.color_range = 2 if colr[10] & 0x80 else 1
    if frame.colorspace == _UNSPECIFIED:
        frame.colorspace = _BT601
