"""Streams of frames as image files: one frame as PNG, JPEG and others, a short loop as WebP or GIF."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.files import check_writable, replaced_when_complete
from LTX_2_MLX.media.audio import Audio
from LTX_2_MLX.media.image import StillImage, write_image
from LTX_2_MLX.media.image_formats import DESCRIPTION, IMAGE_SUFFIXES, check_image_output
from LTX_2_MLX.media.suffixes import STILL_SUFFIXES
from LTX_2_MLX.runtime.progress import Progress

# Pillow holds every frame of a loop.
_MAX_LOOP_BYTES = 2**30
_MAX_SIDES = {".webp": 16_383, ".gif": 65_535}
_WEBP_QUALITY = 90
# Units of time of the formats in seconds.
_TICKS = {".webp": Fraction(1, 1000), ".gif": Fraction(1, 100)}
STAGE = "write"


def check_stills(path: str | Path, size: tuple[int, int], num_frames: int | None) -> None:
    """Raise ``MediaError`` unless this many frames of this height and width can be written to an image file."""
    path = Path(path)
    height, width = size
    suffix = path.suffix.lower()
    if suffix in STILL_SUFFIXES:
        check_image_output(path, height, width)
        if num_frames != 1:
            frames = "an unknown number of" if num_frames is None else num_frames
            raise MediaError(f"{path} holds one frame, the video has {frames}. Write .mp4, or .webp for a short loop.")
        return
    if max(size) > _MAX_SIDES[suffix]:
        raise MediaError(
            f"{path} cannot be written: {suffix} has at most {_MAX_SIDES[suffix]} pixels per side, this video is "
            f"{width}×{height}. Choose a smaller scale."
        )
    if num_frames is None or 3 * height * width * num_frames > _MAX_LOOP_BYTES:
        length = "of unknown length" if num_frames is None else f"of {num_frames} frames"
        raise MediaError(f"{suffix} is for short loops, {width}×{height} {length} is too much. Write .mp4 instead.")


def write_stills(
    frames: Iterator[np.ndarray],
    path: Path,
    *,
    size: tuple[int, int],
    num_frames: int | None,
    frame_rate: Fraction,
    times: tuple[Fraction, ...] | None = None,
    metadata: dict[str, str] | None = None,
    audio: Audio | None = None,
    progress: Progress,
) -> Path:
    """Write frames to an image file, with the comment of the metadata.

    Args:
        frames: ``(H, W, 3)`` uint8, one by one.
        path: With one of ``suffixes.IMAGE_OUTPUTS``.
        size: Height and width.
        num_frames: Number of frames.
        frame_rate: Frames per second.
        times: As ``FrameStream.times``.
        metadata: Tags; the comment is kept.
        audio: Is reported as not kept.
        progress: Receives notes and the number of frames written.

    Raises:
        MediaError: If the format does not hold them, frames are missing, or the folder is unsuitable.
    """
    check_stills(path, size, num_frames)
    check_writable(path)
    if audio is not None:
        progress.note(f"Not kept by {path.suffix}: the sound.")
    progress.begin(STAGE)
    images = []
    for index, frame in enumerate(frames):
        images.append(frame.copy())
        progress.advance(STAGE, index + 1, num_frames)
    progress.end(STAGE)
    if len(images) != num_frames:
        raise MediaError(f"{path} was not written: {len(images)} of {num_frames} frames arrived.")
    comment = (metadata or {}).get("comment", "")
    if num_frames == 1 and path.suffix.lower() in IMAGE_SUFFIXES:
        return write_image(StillImage(images[0], exif=_exif(comment)), path)
    starts = times or tuple(index / frame_rate for index in range(len(images) + 1))
    with replaced_when_complete(path) as temporary:
        _save_loop(images, temporary, durations(starts, _TICKS[path.suffix.lower()]), comment)
    return path


def _exif(comment: str) -> bytes | None:
    if not comment:
        return None
    exif = Image.Exif()
    exif[DESCRIPTION] = comment
    return exif.tobytes()


def durations(starts: tuple[Fraction, ...], tick: Fraction) -> list[int]:
    """Milliseconds of each frame in whole ticks of a format, so that the sum stays exact.

    Args:
        starts: Of every frame in seconds, then the end of the last.
        tick: Unit of time in seconds.
    """
    rounded = [round(start / tick) for start in starts]
    milliseconds = []
    for start, end in pairwise(rounded):
        milliseconds.append(int((end - start) * tick * 1000))
    return milliseconds


def _save_loop(images: list[np.ndarray], path: Path, milliseconds: list[int], comment: str) -> None:
    first, *others = map(Image.fromarray, images)
    if path.suffix.lower() == ".gif":
        first.save(
            path, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, comment=comment.encode()
        )
        return
    exif = _exif(comment) or b""
    first.save(
        path,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=milliseconds,
        loop=0,
        quality=_WEBP_QUALITY,
        exif=exif,
    )
