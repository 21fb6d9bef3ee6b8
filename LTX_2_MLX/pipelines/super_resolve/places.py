"""Where the clip of a command comes from, and where the super-resolved one goes."""

import os
from fractions import Fraction
from pathlib import Path

from LTX_2_MLX.errors import MediaError, RequestError
from LTX_2_MLX.media.encoder import choose_encoding
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.image import IMAGE_SUFFIXES, read_folder, read_images
from LTX_2_MLX.media.video import read_video
from LTX_2_MLX.pipelines.super_resolve.areas import areas_of
from LTX_2_MLX.pipelines.super_resolve.request import Request


def read_clip(source: Path, frame_rate: str) -> FrameStream:
    """A video, the pictures of a folder, or one picture as a clip of one frame.

    Args:
        source: The file or folder.
        frame_rate: Of pictures and of a video that has none, as a user writes it: 30 or 30000/1001.

    Raises:
        RequestError: If the rate is no number above 0.
        MediaError: If the clip cannot be read.
    """
    try:
        rate = Fraction(frame_rate)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise RequestError(f"fps is {frame_rate}, which is not a frame rate. Write 30 or 30000/1001.")
    if source.is_dir():
        return read_folder(source, rate)
    return read_images([source], rate) if _is_picture(source) else read_video(source, unknown_rate=rate)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not os.path.isdir(path)


def output_path(source: Path, output: Path, request: Request) -> Path:
    """``output`` itself where it names a file, else a file in that folder named after the source and the request."""
    # That of pathlib raises where a name is too long.
    if output.suffix and not os.path.isdir(output):
        return output
    suffix = ".png" if _is_picture(source) else ".mp4"
    return output / f"FlashVSR_{request.mode}_{source.stem}_x{request.scale:g}_seed{request.seed}{suffix}"


def check_kind(target: Path, stream: FrameStream, request: Request, crf: float) -> None:
    """Raise ``MediaError`` unless ``target`` is a name for what comes of ``stream``: a film, or one picture."""
    if not _is_picture(target):
        choose_encoding(target, areas_of(stream.height, stream.width, request).output, crf=crf)
    elif stream.num_frames != 1:
        count = "several" if stream.num_frames is None else stream.num_frames
        raise MediaError(f"{target} is a picture's name, but the clip has {count} frames. Let it end in .mp4 or .mkv.")
