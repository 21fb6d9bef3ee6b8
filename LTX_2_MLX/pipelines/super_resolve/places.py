"""Where the clip of a command comes from, and where the super-resolved one goes."""

from fractions import Fraction
from pathlib import Path

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.image import IMAGE_SUFFIXES, read_folder, read_pictures
from LTX_2_MLX.media.video import read_video
from LTX_2_MLX.pipelines.super_resolve.request import Request


def read_clip(source: Path, frame_rate: Fraction) -> FrameStream:
    """A video, the pictures of a folder at ``frame_rate``, or one picture as a clip of one frame.

    Raises:
        MediaError: If it cannot be read.
    """
    if source.is_dir():
        return read_folder(source, frame_rate)
    return read_pictures([source], frame_rate) if _is_picture(source) else read_video(source)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def output_path(source: Path, output: Path, request: Request) -> Path:
    """``output`` itself where it names a file, else a file in that folder named after the source and the request."""
    if output.suffix and not output.is_dir():
        return output
    suffix = ".png" if _is_picture(source) else ".mp4"
    return output / f"FlashVSR_{request.mode}_{source.stem}_x{request.scale:g}_seed{request.seed}{suffix}"


def make_folder(target: Path) -> None:
    """Make the folder of ``target`` where it is missing; the one above it has to be there.

    Raises:
        MediaError: If it cannot be made.
    """
    try:
        target.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise MediaError(f"The folder {target.parent} cannot be made: {error.strerror}.") from error
