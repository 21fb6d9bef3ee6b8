"""Decoded video frames to upright RGB arrays, and RGB arrays to the YUV formats of encoders.

Matrix and range follow the file's own tags (ITU-T H.273 code points); the output is always bt709, limited range.
Transfer curve and primaries are not converted: they travel as tags (``media.display.Display``).
"""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.display import Orientation

_FULL_RANGE, _LIMITED_RANGE = 2, 1
_BT709 = 1
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


class RgbReader:
    """Converts decoded frames to ``(H, W, 3)`` uint8 RGB, upright."""

    def __init__(self, orientation: Orientation):
        """``orientation`` is applied to every frame."""
        self.orientation = orientation
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert one frame; matrix and range come from its own tags."""
        matrix, full_range = source_matrix(frame)
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=_FULL_RANGE if full_range else _LIMITED_RANGE,
            dst_color_range=_FULL_RANGE,
            interpolation=_SCALING,
        )
        return self.orientation.apply(rgb.to_ndarray())


class YuvWriter:
    """Converts ``(H, W, 3)`` uint8 RGB to frames of ``pixel_format``, bt709, limited range."""

    def __init__(self, pixel_format: str):
        """``pixel_format`` is FFmpeg's name; RGB formats are not converted."""
        self.pixel_format = pixel_format
        self._reformatter = VideoReformatter()

    def __call__(self, image: np.ndarray) -> av.VideoFrame:
        """Convert one image ``(H, W, 3)`` to a frame without a time stamp."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        is_rgb = av.VideoFormat(self.pixel_format).is_rgb
        return self._reformatter.reformat(
            frame,
            format=self.pixel_format,
            src_colorspace=_BT709,
            dst_colorspace=_BT709,
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
