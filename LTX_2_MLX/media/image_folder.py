"""Folders of images: which files are images, and several of one size as the frames of a clip."""

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.frames import FrameStream, observed
from LTX_2_MLX.media.image import image_size, read_image, to_8_bit


def image_paths(folder: str | Path) -> tuple[list[Path], dict[Path, str]]:
    """List the images of a folder by their content, in natural order (2 before 10, ignoring case).

    Returns:
        The images, and why each of the other files is left out. Hidden files and folders are not listed.

    Raises:
        MediaError: If there is no such folder or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder.")
    images = []
    left_out = {}
    for path in sorted(folder.iterdir(), key=_natural):
        if path.name.startswith(".") or not path.is_file():
            continue
        try:
            image_size(path)
            images.append(path)
        except MediaError as error:
            left_out[path] = str(error)
    if not images:
        others = f" Left out: {', '.join(path.name for path in left_out)}." if left_out else ""
        raise MediaError(f"{folder} contains no image.{others}")
    return images, left_out


def read_folder(folder: str | Path, frame_rate: Fraction = Fraction(24)) -> FrameStream:
    """Open the images of a folder as the frames of a clip, in natural order; alpha is ignored.

    Raises:
        MediaError: If there is none; while they are read, if one differs in size or cannot be read.
    """
    images, left_out = image_paths(folder)
    stream = read_images(images, frame_rate)
    if not left_out:
        return stream
    names = ", ".join(path.name for path in left_out)
    return stream.replace(notes=(f"Left out of {Path(folder).name}, since they are no still images: {names}.",))


def read_images(paths: list[Path], frame_rate: Fraction = Fraction(24)) -> FrameStream:
    """Open image files of one size as the frames of a clip, in the given order; alpha is ignored.

    Raises:
        MediaError: While they are read, if one differs in size or cannot be read.
    """
    height, width = image_size(paths[0])
    stream = FrameStream(
        chunks=_frames(paths, (height, width)),
        height=height,
        width=width,
        frame_rate=frame_rate,
        num_frames=len(paths),
    )
    return observed(stream)


def _frames(paths: list[Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    for path in paths:
        image = to_8_bit(read_image(path))
        if image.pixels.shape[:2] != size:
            raise MediaError(
                f"{path} is {image.pixels.shape[1]}×{image.pixels.shape[0]}, the first image of its folder "
                f"{size[1]}×{size[0]}. Resize them to one size."
            )
        yield image.pixels[None]


def _natural(path: Path) -> list[tuple[int, int | str]]:
    pieces = re.split(r"(\d+)", path.name.lower())
    return [(0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces]
