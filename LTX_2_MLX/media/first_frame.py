"""Conditioning images: reading a file, and resizing it to the video's size."""

import math
from fractions import Fraction
from pathlib import Path

import av
import mlx.core as mx
import numpy as np
from PIL import Image

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.frames import to_signed
from LTX_2_MLX.media.image import read_image, to_8_bit, to_srgb
from LTX_2_MLX.ops.sampling import resize

# Larger images gain nothing: videos have a quarter of it.
_MAX_SIDE = 8192


def read_first_frame(path: str | Path, crf: float) -> np.ndarray:
    """Read an image file as ``(H, W, 3)`` uint8 and compress it once with H.264 at ``crf``; alpha is ignored.

    The networks were trained on compressed video: an uncompressed image tends to give a static one.

    Raises:
        MediaError: If the file is missing, not an image, or smaller than 2x2 pixels.
    """
    image = to_srgb(to_8_bit(read_image(path)))
    pixels = image.pixels
    if min(pixels.shape[:2]) < 2:
        raise MediaError(f"{path} has {pixels.shape[1]}x{pixels.shape[0]} pixels. Use an image of at least 2x2.")
    return h264_roundtrip(_at_most(pixels, _MAX_SIDE), crf)


def _at_most(pixels: np.ndarray, side: int) -> np.ndarray:
    """Make an image smaller that is larger than any video here, and than H.264 may be."""
    height, width = pixels.shape[:2]
    if max(height, width) <= side:
        return pixels
    scale = side / max(height, width)
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


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


def h264_roundtrip(image: np.ndarray, crf: float) -> np.ndarray:
    """Compress an image with H.264 at ``crf`` and decode it: video models are trained on compressed frames.

    Args:
        image: ``(H, W, 3)`` uint8. An odd last row or column is cut off, since 4:2:0 requires even sizes.
        crf: x264's scale; 0 returns the image unchanged.

    Returns:
        ``(H // 2 * 2, W // 2 * 2, 3)`` uint8.

    Source: Lightricks/LTX-2, packages/ltx-pipelines, utils/media_io.py. One thread instead of one slice for each
    core, so that every machine gives the same.
    """
    if crf == 0:
        return image
    if "libx264" not in av.codecs_available:
        raise MediaError("This PyAV has no encoder libx264. Install the wheel from PyPI: pip install -U av")
    height, width = (side // 2 * 2 for side in image.shape[:2])
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height = height
    encoder.width = width
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1)
    encoder.framerate = Fraction(1)
    encoder.thread_count = 1
    encoder.options = {"crf": str(crf), "preset": "veryfast"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
    # The published procedure uses swscale's default matrix and filter in both directions.
    packets = [*encoder.encode(frame.reformat(format="yuv420p")), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    decoded = [out for packet in [*packets, None] for out in decoder.decode(packet)]
    return decoded[0].to_ndarray(format="rgb24")
