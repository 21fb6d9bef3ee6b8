"""Display of stored pixels: orientation, pixel aspect ratio and colour tags."""

import struct
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from LTX_2_MLX.errors import MediaError


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
class Display:
    """Display properties of a file, carried from reader to writer and never applied to the pixels.

    Attributes:
        pixel_aspect: Width of a pixel over its height.
        primaries: ITU-T H.273 colour primaries; 1 is bt709.
        transfer: ITU-T H.273 transfer characteristics; 1 is bt709.
    """

    pixel_aspect: Fraction = Fraction(1)
    primaries: int = 1
    transfer: int = 1
