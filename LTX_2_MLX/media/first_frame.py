"""An image file to the frame that a film begins with.

The encoder was trained on compressed film, so a picture goes through H.264 once before it is used; a pristine one
tends to stand still in the result.
"""

import io
import math
from pathlib import Path

import av
import mlx.core as mx
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.frames import to_signed
from LTX_2_MLX.ops.resize import resize


def read_picture(path: str | Path) -> np.ndarray:
    """An image file as ``(H, W, 3)`` uint8 RGB, upright; transparency is dropped, 16 bits are rounded to 8.

    Raises:
        MediaError: If the file is missing or not an image.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I") or image.mode == "F":
                levels = np.asarray(image, dtype=np.float32) / (257 if image.mode.startswith("I") else 1)
                return np.repeat(np.clip(np.round(levels), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise MediaError(f"{path} does not exist. Give --image the path of a picture.") from error
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read as a picture ({error}). Give --image a PNG or JPEG file.") from error


def as_film(picture: np.ndarray, crf: int) -> np.ndarray:
    """``picture`` ``(H, W, 3)`` uint8 as it comes back from H.264 at ``crf``; an odd last row or column is cut.

    Source: Lightricks/LTX-2, packages/ltx-pipelines/src/ltx_pipelines/utils/media_io/decode.py at 400fd31.

    Raises:
        MediaError: If the picture is too small, or this PyAV has no libx264.
    """
    height, width = (size // 2 * 2 for size in picture.shape[:2])
    if min(height, width) < 2:
        raise MediaError(f"The picture has {picture.shape[1]}x{picture.shape[0]} pixels. Give one of at least 2x2.")
    try:
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as output:
            stream = output.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            output.mux(stream.encode(frame))
            output.mux(stream.encode())
        file.seek(0)
        with av.open(file) as source:
            return next(source.decode(video=0)).to_ndarray(format="rgb24")
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(
            f"The picture cannot be compressed with libx264 ({error}). Reinstall PyAV: pip install av"
        ) from error


def first_frame(picture: np.ndarray, height: int, width: int) -> mx.array:
    """``picture`` ``(H, W, 3)`` uint8 resized to cover the film's size and cut at the centre.

    Returns:
        ``(1, 1, height, width, 3)`` in [-1, 1].
    """
    old_height, old_width = picture.shape[:2]
    scale = max(height / old_height, width / old_width)
    tall, wide = math.ceil(old_height * scale), math.ceil(old_width * scale)
    covering = resize(to_signed(picture)[None], tall, wide)
    top, left = (tall - height) // 2, (wide - width) // 2
    return covering[:, None, top : top + height, left : left + width]
