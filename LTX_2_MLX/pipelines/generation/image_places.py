"""Places of conditioning images: ``PATH[:FRAME[:STRENGTH]]`` to a file, a pixel frame and a strength."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.files import exists

_PLACE = re.compile(
    r"(?P<path>.+?):(?P<frame>-?[0-9]{1,6}|[0-9]{1,3}(\.[0-9]{1,6})?%)(:(?P<strength>[0-9]{0,6}\.?[0-9]{1,6}))?"
)


@dataclass(frozen=True)
class ImagePlace:
    """A conditioning image: its file, its pixel frame in the video, and its strength from 0 to 1."""

    path: Path
    frame: int = 0
    strength: float = 1.0


def image_file(text: str) -> str:
    """The path in ``PATH[:FRAME[:STRENGTH]]``; a file of that whole name comes first."""
    match = _PLACE.fullmatch(text)
    return text if match is None or exists(os.path.expanduser(text)) else match["path"]


def image_places(texts: Sequence[str], num_frames: int, strength: float) -> tuple[ImagePlace, ...]:
    """The places of images in a video.

    Args:
        texts: ``PATH[:FRAME[:STRENGTH]]`` each. Negative frames count from the end, ``50%`` is a share of the way from
            the first frame to the last; frame 0 unless given.
        num_frames: Pixel frames of the video.
        strength: Of images that have none of their own.

    Raises:
        RequestError: If a frame or strength is out of range, or two images share a frame.
    """
    places: list[ImagePlace] = []
    for text in texts:
        place = _place(text, num_frames, strength)
        if any(place.frame == other.frame for other in places):
            raise RequestError(f"--image {text} is the second image of frame {place.frame}. Leave one out.")
        places.append(place)
    return tuple(places)


def _place(text: str, num_frames: int, strength: float) -> ImagePlace:
    path = image_file(text)
    match = _PLACE.fullmatch(text)
    if path == text or match is None:
        return ImagePlace(Path(text).expanduser(), 0, strength)
    if match["strength"]:
        strength = float(match["strength"])
    if not 0 <= strength <= 1:
        raise RequestError(f"--image {text} has the strength {strength:g}, expected 0 to 1.")
    return ImagePlace(Path(path).expanduser(), _frame(text, match["frame"], num_frames), strength)


def _frame(text: str, frame: str, num_frames: int) -> int:
    last = num_frames - 1
    if frame.endswith("%"):
        number = round(float(frame.removesuffix("%")) / 100 * last)
    else:
        number = int(frame)
        number += num_frames if number < 0 else 0
    if not 0 <= number <= last:
        raise RequestError(
            f"--image {text} is at frame {frame}, but the video has frames 0 to {last}, or -{num_frames} to -1 from "
            f"the end, or 0% to 100%."
        )
    return number
