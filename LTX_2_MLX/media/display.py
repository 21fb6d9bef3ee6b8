"""Stored pixels and shown ones: orientation, pixel aspect, colour and HDR; frames of files to RGB and back.

Matrix and range follow the file's own tags (ITU-T H.273 code points); the output is always bt709, limited range.
Transfer curve and primaries are not converted: they travel as tags (``Display``).
"""

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from LTX_2_MLX.errors import MediaError

_FULL_RANGE, _LIMITED_RANGE = 2, 1
_BT709 = 1
# As primaries and as matrix (with constant luminance left out).
_BT2020 = 9
# H.273 matrix coefficients -> swscale's name of the same matrix.
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_RGB_MATRIX, _UNSPECIFIED = 0, (2, 3)
# Without these flags swscale repeats chroma samples and rounds roughly: up to 6 levels off instead of 2.
_SCALING = (
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)
# FFmpeg's AVMasteringDisplayMetadata: ten fractions of two 32-bit numbers, then whether each half is filled in.
_MASTERING = struct.Struct("=20i2i")
_LIGHT = struct.Struct("=2I")
# Units of the SEI messages: chromaticities in 0.00002, luminances in 0.0001 cd/m².
_PER_CHROMATICITY = 50_000
_PER_LUMINANCE = 10_000


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
class HDR:
    """Static HDR metadata of a video (SMPTE ST 2086 and CTA-861.3).

    Attributes:
        primaries: Chromaticities x and y of red, green and blue.
        white: Chromaticity of the white point.
        luminance: Least and largest of the mastering display, in cd/m².
        light: Largest light level of a pixel and largest mean of a frame, in cd/m²; None without.
    """

    primaries: tuple[tuple[Fraction, Fraction], ...] = ()
    white: tuple[Fraction, Fraction] | None = None
    luminance: tuple[Fraction, Fraction] | None = None
    light: tuple[int, int] | None = None

    @classmethod
    def of_frame(cls, frame: Any) -> "HDR | None":
        """The metadata that a frame carries; None if it has none."""
        mastering = frame.side_data.get("MASTERING_DISPLAY_METADATA")
        light = frame.side_data.get("CONTENT_LIGHT_LEVEL")
        if mastering is None and light is None:
            return None
        levels = None if light is None else _LIGHT.unpack(bytes(light)[: _LIGHT.size])
        if mastering is None:
            return cls(light=levels)
        *numbers, has_primaries, has_luminance = _MASTERING.unpack(bytes(mastering)[: _MASTERING.size])
        values = [Fraction(top, bottom or 1) for top, bottom in zip(numbers[::2], numbers[1::2], strict=True)]
        red, green, blue, white = ((values[index], values[index + 1]) for index in range(0, 8, 2))
        return cls(
            primaries=(red, green, blue) if has_primaries else (),
            white=white if has_primaries else None,
            luminance=(values[8], values[9]) if has_luminance else None,
            light=levels,
        )

    def x265_options(self) -> str:
        """Parameters of libx265, ``:name=value`` each; empty where nothing is complete."""
        options = ""
        if self.primaries and self.white is not None and self.luminance is not None:
            red, green, blue = (_chromaticity(each) for each in self.primaries)
            least, largest = (round(each * _PER_LUMINANCE) for each in self.luminance)
            white = _chromaticity(self.white)
            options += f":master-display=G{green}B{blue}R{red}WP{white}L({largest},{least})"
        if self.light is not None:
            options += ":max-cll={},{}".format(*self.light)
        return options


def _chromaticity(place: tuple[Fraction, Fraction]) -> str:
    x, y = (round(each * _PER_CHROMATICITY) for each in place)
    return f"({x},{y})"


@dataclass(frozen=True)
class Display:
    """Display properties of a file, carried from reader to writer and never applied to the pixels.

    Attributes:
        pixel_aspect: Width of a pixel over its height.
        primaries: ITU-T H.273 colour primaries; 1 is bt709.
        transfer: ITU-T H.273 transfer characteristics; 1 is bt709.
        hdr: Mastering display and content light; None without.
    """

    pixel_aspect: Fraction = Fraction(1)
    primaries: int = 1
    transfer: int = 1
    hdr: HDR | None = None

    def matrix(self, bit_depth: int) -> int:
        """ITU-T H.273 matrix that is written: that of the primaries for bt2020 with 10 bits, else bt709."""
        return _BT2020 if bit_depth > 8 and self.primaries == _BT2020 else _BT709


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
        """Convert one frame; matrix and range come from its own tags."""
        matrix, full_range = source_matrix(frame)
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24" if self.bit_depth == 8 else "rgb48le",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=_FULL_RANGE if full_range else _LIMITED_RANGE,
            dst_color_range=_FULL_RANGE,
            interpolation=_SCALING,
        )
        image = rgb.to_ndarray()
        return image if self.orientation == Orientation() else self.orientation.apply(image)


@dataclass(frozen=True)
class YuvWriter:
    """Converts ``(H, W, 3)`` uint8 or uint16 RGB to frames of ``pixel_format``, limited range.

    Attributes:
        pixel_format: FFmpeg's name; RGB formats are not converted.
        matrix: One of H.273.
    """

    pixel_format: str
    matrix: int = _BT709
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter)

    def __call__(self, image: np.ndarray) -> av.VideoFrame:
        """Convert one image ``(H, W, 3)`` to a frame without a time stamp."""
        stored = "rgb24" if image.dtype == np.uint8 else "rgb48le"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=stored)
        is_rgb = av.VideoFormat(self.pixel_format).is_rgb
        return self._reformatter.reformat(
            frame,
            format=self.pixel_format,
            src_colorspace=_MATRICES[self.matrix],
            dst_colorspace=_MATRICES[self.matrix],
            src_color_range=_FULL_RANGE,
            dst_color_range=_FULL_RANGE if is_rgb else _LIMITED_RANGE,
            interpolation=_SCALING,
        )


def source_matrix(frame: av.VideoFrame) -> tuple[int, bool]:
    """Return the matrix (swscale's number) and whether the range is full.

    Untagged files are interpreted as players do: bt709 from 1280 wide or 577 high on, bt601 below.

    Raises:
        MediaError: If the matrix is not supported (YCgCo, ICtCp and others).
    """
    name = frame.format.name
    if frame.format.is_rgb or frame.colorspace == _RGB_MATRIX:
        return _BT709, True
    full_range = frame.color_range == _FULL_RANGE or name.startswith("yuvj")
    if frame.colorspace in _UNSPECIFIED:
        return (1 if frame.width >= 1280 or frame.height > 576 else 5), full_range
    if frame.colorspace not in _MATRICES:
        raise MediaError(
            f"The video's colour matrix {int(frame.colorspace)} of H.273 is not supported. Re-encode it as bt709."
        )
    return _MATRICES[frame.colorspace], full_range
