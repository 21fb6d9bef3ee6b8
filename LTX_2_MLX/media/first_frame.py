"""A picture to the frame that a film begins with."""

import math
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.frames import to_signed
from LTX_2_MLX.media.image import h264_roundtrip, read_image
from LTX_2_MLX.ops.resize import resize


def read_first_frame(path: str | Path, crf: float) -> np.ndarray:
    """A picture file as ``(H, W, 3)`` uint8, compressed once as film at ``crf``; transparency is left aside.

    The networks know only compressed film: a pristine picture tends to stand still.

    Raises:
        MediaError: If the file is missing, not a picture, or smaller than 2x2 pixels.
    """
    pixels = read_image(path).pixels
    if min(pixels.shape[:2]) < 2:
        raise MediaError(f"{path} has {pixels.shape[1]}x{pixels.shape[0]} pixels. Give a picture of at least 2x2.")
    if pixels.dtype == np.uint16:
        pixels = np.round(pixels / 257).astype(np.uint8)
    return h264_roundtrip(pixels, crf)


def resize_and_crop(picture: np.ndarray, height: int, width: int) -> mx.array:
    """``picture`` ``(H, W, 3)`` uint8 resized bilinearly until it covers the film, and cut at the centre.

    Returns:
        ``(1, 1, height, width, 3)`` in [-1, 1].
    """
    old_height, old_width = picture.shape[:2]
    scale = max(height / old_height, width / old_width)
    tall, wide = math.ceil(old_height * scale), math.ceil(old_width * scale)
    covering = resize(to_signed(picture)[None], tall, wide)
    top, left = (tall - height) // 2, (wide - width) // 2
    return covering[:, None, top : top + height, left : left + width]
