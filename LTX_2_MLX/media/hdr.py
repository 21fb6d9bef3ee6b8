"""Mastering display and content light of HDR video, from a decoded frame to an encoder's options."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

# FFmpeg's AVMasteringDisplayMetadata: ten fractions of two 32-bit numbers, then whether each half is filled in.
_MASTERING = struct.Struct("=20i2i")
_LIGHT = struct.Struct("=2I")
# Units of the SEI messages: chromaticities in 0.00002, luminances in 0.0001 cd/m².
_PER_CHROMATICITY = 50_000
_PER_LUMINANCE = 10_000


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
