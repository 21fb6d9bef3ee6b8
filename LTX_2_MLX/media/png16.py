"""PNG with 16 bits per channel, which Pillow reduces to 8, through FFmpeg."""

import struct
import zlib
from fractions import Fraction
from typing import Any

import av
import numpy as np

from LTX_2_MLX.errors import MediaError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Channels by colour type; type 3 is a palette, always 8 bit.
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_FORMATS = {1: "gray16be", 2: "ya16be", 3: "rgb48be", 4: "rgba64be"}
_INCHES_PER_METRE = 39.3701


def decode(data: bytes) -> np.ndarray | None:
    """Decode a PNG to ``(H, W, 1 to 4)`` uint16; None if it has not 16 bits per channel.

    Raises:
        MediaError: If it is truncated or damaged.
    """
    if data[24] != 16:
        return None
    channels = _CHANNELS[data[25]]
    decoder: Any = av.CodecContext.create("png", "r")
    frames = [frame for packet in (av.Packet(data), None) for frame in decoder.decode(packet)]
    if not frames:
        raise MediaError("it is truncated or damaged")
    plane = frames[0].planes[0]
    rows = np.frombuffer(bytes(plane), dtype=">u2").reshape(plane.height, -1)[:, : plane.width * channels]
    layers: np.ndarray = rows.reshape(plane.height, plane.width, -1).astype(np.uint16)
    return layers[..., :channels]


def encode(layers: np.ndarray, profile: bytes | None, exif: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """Encode ``(H, W, 1 to 4)`` uint16 as PNG with what belongs to it."""
    height, width, channels = layers.shape
    layout = _FORMATS[channels]
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.height = height
    encoder.width = width
    encoder.pix_fmt = layout
    encoder.time_base = Fraction(1)
    frame = av.VideoFrame(width, height, layout)
    plane = frame.planes[0]
    rows = np.zeros((height, plane.line_size // 2), dtype=">u2")
    rows[:, : width * channels] = layers.reshape(height, -1)
    plane.update(rows.tobytes())
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    return _with_chunks(b"".join(bytes(packet) for packet in packets), profile, exif, dpi)


def _with_chunks(png: bytes, profile: bytes | None, exif: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    chunks = b""
    if profile:
        chunks += _chunk(b"iCCP", b"ICC\0\0" + zlib.compress(profile))
    if dpi:
        per_metre = [round(value * _INCHES_PER_METRE) for value in dpi]
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if exif:
        chunks += _chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    # The header chunk always ends at byte 33, and these chunks come before the pixels.
    after_header = len(_SIGNATURE) + 25
    whole = png[:after_header] + chunks + png[after_header:]
    return _without_second_phys(whole) if dpi else whole


def _without_second_phys(png: bytes) -> bytes:
    """Drop the second pHYs chunk, which FFmpeg's encoder writes for square pixels."""
    first = png.find(b"pHYs")
    second = png.find(b"pHYs", first + 4)
    return png if second < 0 else png[: second - 4] + png[second + 17 :]


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
