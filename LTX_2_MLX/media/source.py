"""Opening video and audio files, and the frames of a file as RGB images.

What FFmpeg reports becomes one MediaError. The memory that decoding takes is known from the header alone: it is planned
with fewer threads, or refused. Matrix and range of frames follow the file's own tags (ITU-T H.273 code points).
"""

import logging
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from LTX_2_MLX.errors import MediaError, MemoryBudgetError
from LTX_2_MLX.files import reason
from LTX_2_MLX.media.encoder import BT709, FULL_RANGE, LIMITED_RANGE, MATRICES, SCALING
from LTX_2_MLX.runtime.this_machine import GIB, budget_bytes

# First bytes of Matroska, and major brands of mp4 and mov that no image has.
_EBML = b"\x1a\x45\xdf\xa3"
_VIDEO_BRANDS = (
    b"3gp4", b"3gp5", b"M4V ", b"MSNV", b"avc1", b"dash", b"iso2", b"iso4", b"iso5", b"iso6", b"isom", b"mp41", b"mp42",
    b"qt  ",
)  # fmt: skip
# What PyAV raises for files beside FFmpeg's own errors.
_FAILURES = (MemoryError, RecursionError, UnicodeError)
# Demuxers of containers that hold their own frames. Playlists (concat, hls, dash, ...) would open other files.
_FORMATS = frozenset(
    (
        "3gp", "aac", "ac3", "aiff", "amr", "asf", "av1", "avi", "caf", "dts", "dv", "eac3", "flac", "flv", "gxf",
        "h264", "hevc", "ivf", "m4v", "matroska", "mjpeg", "mov", "mp3", "mp4", "mpeg", "mpegts", "mpegvideo", "mxf",
        "nut", "obu", "ogg", "rm", "tta", "vc1", "vvc", "w64", "wav", "webm", "wtv", "wv", "yuv4mpegpipe",
    )
)  # fmt: skip
# A disc has some dozens. FFmpeg opens a decoder for each, and each is looked through by itself.
_MOST_TRACKS = 100
# Dispositions of video streams that are cover images or thumbnails.
COVER = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
# Frames that a decoder may hold for reference and order, with the one that it decodes (FFmpeg 8.1: h264dec.h,
# hevcdec.h, vp9.h; av1 as its specification says); other codecs hold the last two.
_HELD_FRAMES = {"h264": 18, "hevc": 18, "vvc": 18, "vp9": 10, "libvpx-vp9": 10, "av1": 10, "libdav1d": 10}
_FEW_HELD_FRAMES = 4
# Frames for threads beyond the first, of which each holds about one.
_THREADS_BYTES = 64 * 2**20
# Where the header does not tell the layout: four channels of 16 bits.
_LARGEST_PIXEL_BITS = 64
_LARGEST_OPENED = 2**27
# An image as Pillow decodes it, its levels in 16 bits, and a copy of them.
_IMAGE_PIXEL_BYTES = 16
# H.273 matrix coefficients of RGB, of bt601, and of frames that do not tell.
_RGB_MATRIX, _BT601, _UNSPECIFIED = 0, 5, (2, 3)
_BUDGET: ContextVar[int | None] = ContextVar("decoding_budget", default=None)

# While one thread collects FFmpeg's messages, those of others reach Python's logging: they are not for the terminal.
logging.getLogger("libav").addHandler(logging.NullHandler())
# The level is one for all threads: for each that collects messages, the level before the first did.
_LOG_LOCK = threading.Lock()
_LEVELS: list[int | None] = []


@contextmanager
def open_media(path: Path, action: str = "read as video") -> Iterator[av.container.InputContainer]:
    """Open a file for reading; FFmpeg's errors become one ``MediaError``.

    Raises:
        MediaError: If FFmpeg cannot open or read it, or if it is a playlist, which would open other files.
    """
    limits = {"format_whitelist": ",".join(sorted(_FORMATS)), "max_streams": str(_MOST_TRACKS + 1)}
    # FFmpeg may decode a frame to learn of its layout.
    most_pixels = min((_BUDGET.get() or budget_bytes()) // _LARGEST_PIXEL_BITS * 8, _LARGEST_OPENED)
    try:
        with ffmpeg_messages() as messages:
            # Absolute, since FFmpeg takes a relative "a:b.mp4" for a protocol.
            container = av.open(
                str(path.absolute()),
                metadata_errors="replace",
                options={"max_pixels": str(most_pixels)},
                container_options=limits,
            )
    except (av.FFmpegError, OSError, *_FAILURES) as error:
        if any("whitelist" in line for line in messages):
            raise MediaError(f"{path} is not a video: it is a playlist, or of a kind that is not supported.") from error
        if any("max_streams" in line for line in messages):
            raise MediaError(_many_tracks(path)) from error
        raise MediaError(f"{path} cannot be {action}: {reason(error, messages)}.") from error
    with container:
        try:
            yield container
        except (av.FFmpegError, OSError, *_FAILURES) as error:
            raise MediaError(f"{path} cannot be {action}: {reason(error)}.") from error


@contextmanager
def ffmpeg_messages() -> Iterator[list[str]]:
    """Collect the errors that FFmpeg logs in this thread while the block runs.

    Not for blocks that decode: FFmpeg's threads would wait for Python's lock.
    """
    messages: list[str] = []
    with _LOG_LOCK:
        _LEVELS.append(_LEVELS[0] if _LEVELS else av.logging.get_level())
        av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as logs:
            try:
                yield messages
            finally:
                for _, _, text in logs:
                    messages.append(text.strip())
    finally:
        with _LOG_LOCK:
            level = _LEVELS.pop()
            if not _LEVELS:
                av.logging.set_level(level)


def begins_as_video(path: Path) -> bool:
    """Whether a file begins as one of the usual containers of videos, and so is no image; False leaves it open.

    Raises:
        MediaError: If the file is missing, no regular file, or empty.
    """
    if path.is_dir():
        raise MediaError(f"{path} is a folder. Give a video file.")
    if not path.is_file():
        raise MediaError(f"{path} {'is not a file' if path.exists() else 'does not exist'}. Give a video file.")
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        raise MediaError(f"{path} is empty, it has 0 bytes. Give a video file.")
    is_avi = head[:4] == b"RIFF" and head[8:] == b"AVI "
    is_mp4 = head[4:8] == b"ftyp" and head[8:] in _VIDEO_BRANDS
    return head[:4] == _EBML or is_avi or is_mp4


def _many_tracks(path: Path) -> str:
    return f"{path} has more than {_MOST_TRACKS} tracks. Leave some out with another program first."


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """Return the first video stream that is not a cover image or thumbnail."""
    # Matroska's reader leaves out those beyond the limit, others end there.
    if len(container.streams) > _MOST_TRACKS:
        raise MediaError(_many_tracks(path))
    for stream in container.streams.video:
        if not stream.disposition & COVER:
            if stream.codec_context is None:
                raise MediaError(f"{path} holds video of a kind that FFmpeg cannot decode. Re-encode it as H.264.")
            return stream
    kinds: list[str] = sorted({stream.type for stream in container.streams}) or ["nothing"]
    raise MediaError(f"{path} holds no video, only {' and '.join(kinds)}.")


def count_packets(path: Path) -> int:
    """Count the packets of the first video stream of a file that this program wrote; each holds one frame."""
    num_packets = 0
    with open_media(path) as container:
        for packet in container.demux(video_stream(container, path)):
            num_packets += packet.size > 0
    return num_packets


@contextmanager
def decoding_budget(num_bytes: int) -> Iterator[None]:
    """Refuse videos and images that take more than this to decode; else the memory that a run may use counts."""
    token = _BUDGET.set(num_bytes)
    try:
        yield
    finally:
        _BUDGET.reset(token)


def prepare_decoder(stream: Any, path: Path, *, exact: bool = False) -> int:
    """Set the threads of a video stream's decoder; the memory in bytes that it then takes at most.

    Args:
        stream: Of an open file.
        path: Of the file, for messages.
        exact: Decode one frame after the other. Where several are decoded at once, FFmpeg may return a damaged frame
            before it has marked it.

    Raises:
        MemoryBudgetError: If that is more than there is.
    """
    context = stream.codec_context
    frame: int = context.width * context.height * _LARGEST_PIXEL_BITS // 8
    if context.format is not None:
        frame = 0
        for component in context.format.components:
            frame += component.width * component.height * (2 if component.bits > 8 else 1)
        # Decoders pad the sides of a frame.
        frame = frame * 9 // 8
    threads = max(1, min(os.cpu_count() or 1, _THREADS_BYTES // max(frame, 1)))
    context.thread_type, context.thread_count = "SLICE" if exact else "AUTO", threads
    num_bytes = frame * (_HELD_FRAMES.get(context.name, _FEW_HELD_FRAMES) + threads - 1)
    _check(path, context.height, context.width, num_bytes)
    # A stream may turn to frames that its header does not tell of; much larger ones count as damaged. Without a size in
    # the header, frames of 8K are the largest.
    pixels = max(4 * context.width * context.height, 2**20) if context.width else 2**25
    context.options = {**context.options, "max_pixels": str(pixels)}
    return num_bytes


def check_image(path: Path, height: int, width: int) -> None:
    """Raise ``MemoryBudgetError`` for an image that takes more memory to decode than there is."""
    _check(path, height, width, height * width * _IMAGE_PIXEL_BYTES)


def _check(path: Path, height: int, width: int, num_bytes: int) -> None:
    budget = _BUDGET.get() or budget_bytes()
    if num_bytes > budget:
        raise MemoryBudgetError(
            f"{path} has {width}×{height} pixels: decoding it takes up to {num_bytes / GIB:.2f} GiB, and "
            f"{budget / GIB:.2f} GiB may be used. Make it smaller with another program first."
        )


@dataclass(frozen=True)
class Orientation:
    """Transform of a stored image to the upright one: transpose first, then mirror."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def from_display_matrix(cls, data: bytes) -> "Orientation":
        """Read the nine 16.16 fixed-point numbers that mp4 and similar containers store.

        Raises:
            MediaError: If the matrix is not made of quarter turns and mirrors.
        """
        a, b, _, c, d, *_ = struct.unpack("=9i", data[:36])
        if b == c == 0 and a and d:
            return cls(mirror_x=a < 0, mirror_y=d < 0)
        if a == d == 0 and b and c:
            return cls(transpose=True, mirror_x=c < 0, mirror_y=b < 0)
        raise MediaError("The video is rotated by an angle that is not a multiple of 90°. Re-encode it upright.")

    @classmethod
    def from_exif(cls, value: int) -> "Orientation":
        """Read the value of EXIF tag 274; values other than 2 to 8 mean upright."""
        turned = {
            2: (False, True, False), 3: (False, True, True), 4: (False, False, True), 5: (True, False, False),
            6: (True, True, False), 7: (True, True, True), 8: (True, False, True),
        }  # fmt: skip
        return cls(*turned.get(value, ()))

    def apply(self, image: np.ndarray) -> np.ndarray:
        """An upright copy of a image ``(H, W)`` or ``(H, W, C)``."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        if self.mirror_x:
            image = image[:, ::-1]
        if self.mirror_y:
            image = image[::-1]
        return np.ascontiguousarray(image)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the upright height and width of a stored image."""
        return (width, height) if self.transpose else (height, width)


@dataclass(frozen=True)
class RgbReader:
    """Converts decoded frames to ``(H, W, 3)`` RGB, upright: uint8, or uint16 over its whole range.

    Attributes:
        orientation: Is applied to every frame.
        bit_depth: More than 8 bits become uint16.
    """

    orientation: Orientation
    bit_depth: int = 8
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter)

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert one frame; matrix and range come from its own tags.

        Untagged files are interpreted as players do: bt709 from 1280 wide or 577 high on, bt601 below.

        Raises:
            MediaError: If the matrix is not supported (YCgCo, ICtCp and others).
        """
        full_range = frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
        if frame.format.is_rgb or frame.colorspace == _RGB_MATRIX:
            matrix, full_range = BT709, True
        elif frame.colorspace in _UNSPECIFIED:
            matrix = MATRICES[BT709 if frame.width >= 1280 or frame.height > 576 else _BT601]
        elif frame.colorspace in MATRICES:
            matrix = MATRICES[frame.colorspace]
        else:
            raise MediaError(
                f"The video's colour matrix {int(frame.colorspace)} of H.273 is not supported. Re-encode it as bt709."
            )
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24" if self.bit_depth == 8 else "rgb48le",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=FULL_RANGE if full_range else LIMITED_RANGE,
            dst_color_range=FULL_RANGE,
            interpolation=SCALING,
        )
        image = rgb.to_ndarray()
        return image if self.orientation == Orientation() else self.orientation.apply(image)
