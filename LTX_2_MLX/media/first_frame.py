"""Conditioning images: reading a file, and resizing it to the video's size."""

import math
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.frames import to_signed
from LTX_2_MLX.media.image import h264_roundtrip, read_image
from LTX_2_MLX.ops.resize import resize


def read_first_frame(path: str | Path, crf: float) -> np.ndarray:
    """Read an image file as ``(H, W, 3)`` uint8 and compress it once with H.264 at ``crf``; alpha is ignored.

    The networks were trained on compressed video: an uncompressed image tends to give a static one.

    Raises:
        MediaError: If the file is missing, not an image, or smaller than 2x2 pixels.
    """
    pixels = read_image(path).pixels
    if min(pixels.shape[:2]) < 2:
        raise MediaError(f"{path} has {pixels.shape[1]}x{pixels.shape[0]} pixels. Use an image of at least 2x2.")
    if pixels.dtype == np.uint16:
        pixels = np.round(pixels / 257).astype(np.uint8)
    return h264_roundtrip(pixels, crf)


def resize_and_crop(image: np.ndarray, height: int, width: int) -> mx.array:
    """Resize ``image`` ``(H, W, 3)`` uint8 bilinearly until it covers ``height`` x ``width``, and crop the centre.

    Returns:
        ``(1, 1, height, width, 3)`` in [-1, 1].
    """
    old_height, old_width = image.shape[:2]
    scale = max(height / old_height, width / old_width)
    new_height = math.ceil(old_height * scale)
    new_width = math.ceil(old_width * scale)
    resized = resize(to_signed(image)[None], new_height, new_width)
    top = (new_height - height) // 2
    left = (new_width - width) // 2
    return resized[:, None, top : top + height, left : left + width]
