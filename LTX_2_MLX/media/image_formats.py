"""Image formats: which ones are read and written, what each of them holds, and images that were given as videos."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from PIL import ExifTags, Image

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.heif import is_heif
from LTX_2_MLX.media.source import open_media

# Pillow's formats that are read; a JPEG of several images (MPO) counts as JPEG. Its other formats would start programs
# (EPS) or belong to no photo. Their plugins are imported by name: Pillow loads AVIF, TIFF, WebP and JPEG 2000 by itself
# only where every format may be opened.
READ_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000")
# The EXIF tag of an image's comment.
DESCRIPTION = ExifTags.Base.ImageDescription
_NO_LOG = logging.NullHandler()
_PLUGINS = ("Png", "Jpeg", "WebP", "Avif", "Tiff", "Bmp", "Gif", "Jpeg2K")


@dataclass(frozen=True)
class ImageFormat:
    """One format that is written.

    Attributes:
        name: Pillow's name.
        suffixes: Of file names, the usual one first.
        max_side: Largest width or height in pixels; None without a limit.
        alpha: Whether it holds transparency.
        grey: Whether it holds grey images as such.
        sixteen_bit: Whether 16 bits per channel are written; else they are rounded to 8.
        profile: Whether it holds an ICC profile.
        exif: Whether it holds EXIF.
        dpi: Whether it holds a resolution for printing.
        quality: Of lossy compression; None for a lossless format.
    """

    name: str
    suffixes: tuple[str, ...]
    max_side: int | None = None
    alpha: bool = True
    grey: bool = True
    sixteen_bit: bool = False
    profile: bool = True
    exif: bool = True
    dpi: bool = True
    quality: int | None = None


IMAGE_FORMATS = (
    ImageFormat("PNG", (".png",), sixteen_bit=True),
    # libjpeg's own limit.
    ImageFormat("JPEG", (".jpg", ".jpeg", ".jfif"), max_side=65_500, alpha=False, quality=95),
    ImageFormat("WEBP", (".webp",), max_side=16_383, grey=False, dpi=False, quality=95),
    ImageFormat("AVIF", (".avif",), max_side=65_536, grey=False, dpi=False, quality=90),
    ImageFormat("TIFF", (".tif", ".tiff")),
    ImageFormat("BMP", (".bmp",), alpha=False, profile=False, exif=False),
    ImageFormat("JPEG2000", (".jp2",), profile=False, exif=False, dpi=False),
)
IMAGE_SUFFIXES = tuple(suffix for image_format in IMAGE_FORMATS for suffix in image_format.suffixes)

# Other images that folders hold. HEIC and GIF are read where they are still images.
UNREAD_SUFFIXES = (
    ".heic", ".heif", ".hif", ".gif", ".jxl", ".psd", ".svg", ".eps", ".ico", ".tga", ".exr", ".hdr", ".dng", ".cr2",
    ".cr3", ".nef", ".arw", ".apng", ".avifs", ".ppm", ".pcx", ".qoi",
)  # fmt: skip


def format_of(path: str | Path) -> ImageFormat:
    """Return the format of a file name.

    Raises:
        MediaError: If the suffix is unknown.
    """
    suffix = Path(path).suffix.lower()
    for image_format in IMAGE_FORMATS:
        if suffix in image_format.suffixes:
            return image_format
    given = suffix or Path(path).name
    raise MediaError(f"Unsupported image format {given!r} of {path}. Use {', '.join(IMAGE_SUFFIXES)}.")


def check_image_output(path: str | Path, height: int, width: int, *, alpha: bool = False) -> None:
    """Raise ``MediaError`` unless an image of this size, with or without transparency, can be written to ``path``."""
    image_format = format_of(path)
    if alpha and not image_format.alpha:
        raise MediaError(f"{path} cannot hold transparency. Write .png instead.")
    limit = image_format.max_side
    if limit is not None and max(height, width) > limit:
        raise MediaError(
            f"{path} cannot be written: {image_format.name} has at most {limit} pixels per side, the result has "
            f"{width}×{height}. Write .png, or choose a smaller scale."
        )


def format_table() -> str:
    """What each written format keeps of an image, as a Markdown table."""
    lines = ["| format | transparency | grey | 16 bit | colour profile | EXIF | dpi | largest side |", "|---" * 8 + "|"]
    for each in IMAGE_FORMATS:
        held = (each.alpha, each.grey, each.sixteen_bit, each.profile, each.exif, each.dpi)
        cells = [", ".join(each.suffixes), *("yes" if yes else "no" for yes in held), str(each.max_side or "-")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file of one of the formats that are read; raises Pillow's own errors."""
    for name in _PLUGINS:
        import_module(f"PIL.{name}ImagePlugin")
    with silent_pillow(), Image.open(path, formats=READ_FORMATS) as opened:
        yield opened


@contextmanager
def silent_pillow() -> Iterator[None]:
    """Let Pillow neither warn of large images and damaged tags, nor log: its errors say what matters."""
    # With a handler, Python does not print what is logged.
    logging.getLogger("PIL").addHandler(_NO_LOG)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def refuse_images(path: Path) -> None:
    """Raise ``MediaError`` if the file is a still or animated image."""
    if is_heif(path):
        raise MediaError(f"{path} is a still image (HEIC), not a video.")
    try:
        with open_image(path) as image:
            animated = getattr(image, "is_animated", False)
            kind = image.format
    # Whatever Pillow runs into: what it cannot read is no image.
    except Exception:
        return
    # The first frame of raw MJPEG is a JPEG.
    if kind in ("JPEG", "MPO") and is_motion_jpeg(path):
        return
    if animated:
        raise MediaError(
            f"{path} is an animated image ({kind}), not a video. Convert it first: ffmpeg -i {path.name} video.mp4"
        )
    raise MediaError(f"{path} is a still image ({kind}), not a video.")


def is_motion_jpeg(path: Path) -> bool:
    """Whether a file is a raw stream of more than one JPEG."""
    try:
        with open_media(path) as container:
            if container.format.name != "mjpeg":
                return False
            num_frames = 0
            for packet in container.demux(video=0):
                num_frames += packet.size > 0
                if num_frames > 1:
                    return True
    except MediaError:
        pass
    return False


def read_comment(path: Path) -> str:
    """The comment of an image file that ``stills.write_stills`` wrote; empty without one.

    Raises:
        MediaError: If the file is no image.
    """
    try:
        with open_image(path) as opened:
            comment = opened.info.get("comment", b"") if opened.format == "GIF" else opened.getexif().get(DESCRIPTION)
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"{path} cannot be read as an image: {error}.") from error
    return comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment or "")
