"""Still images: files to upright RGB arrays with their alpha, 8 or 16 bit, and back."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from LTX_2_MLX.errors import LTXError, MediaError
from LTX_2_MLX.files import failure, replaced_when_complete
from LTX_2_MLX.media import png16
from LTX_2_MLX.media.heif import HeifImage, heif_size, is_heif, read_heif
from LTX_2_MLX.media.image_formats import (
    IMAGE_SUFFIXES,
    ImageFormat,
    check_image_output,
    format_of,
    is_motion_jpeg,
    open_image,
    silent_pillow,
)
from LTX_2_MLX.media.source import Orientation, check_image

# EXIF tags that describe the photo. Others describe how its file stores it, or belong to the thumbnail.
_EXIF_TAGS = frozenset(
    getattr(ExifTags.Base, name).value
    for name in (
        "ImageDescription", "Make", "Model", "XResolution", "YResolution", "ResolutionUnit", "Software", "DateTime",
        "Artist", "HostComputer", "Copyright", "Rating", "RatingPercent", "XPTitle", "XPComment", "XPAuthor",
        "XPKeywords", "XPSubject",
    )
) | {ExifTags.IFD.Exif.value, ExifTags.IFD.GPSInfo.value}  # fmt: skip
_MAX_DPI = 1e6
_SIZE_TAGS = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)


@dataclass(frozen=True)
class StillImage:
    """One still image, upright.

    Attributes:
        pixels: ``(H, W, 3)`` RGB, uint8 or uint16; of a grey image three equal channels.
        alpha: ``(H, W)`` in the same dtype, the largest value is opaque; None without transparency.
        icc_profile: The colour profile that the pixels are in, as the file holds it; None: sRGB.
        grey: Whether the image is grey, and is written as grey.
        exif: As the file holds it, without orientation and thumbnail.
        dpi: Resolution for printing, horizontal and vertical.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    grey: bool = False
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None

    def without_metadata(self) -> "StillImage":
        """The same image without EXIF and resolution; the colour profile belongs to the pixels."""
        return replace(self, exif=None, dpi=None)


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image file before its pixels are decoded: upright size, and whether it has transparency."""

    height: int
    width: int
    alpha: bool


def read_image(path: str | Path) -> StillImage:
    """Read an image file with its EXIF orientation applied; its content tells the format, not its name.

    Palette and CMYK images become RGB, the latter by their own profile.

    Raises:
        MediaError: If the file is missing, animated, damaged, or not an image of 8 or 16 bits, or if its colour
            profile cannot be read.
    """
    path = _existing(path)
    if is_heif(path):
        check_image(path, *heif_size(path))
        with _refused(path):
            heif = read_heif(path)
            _check_profile(heif.icc_profile, path)
            return _from_heif(heif)
    with _opened(path) as opened:
        check_image(path, opened.height, opened.width)
        layers = png16.decode(path.read_bytes()) if opened.format == "PNG" else None
        profile = opened.info.get("icc_profile") or None
        _check_profile(profile, path)
        if layers is None:
            layers, profile = _layers(opened, profile, path)
        # Read after the pixels: Pillow applies the orientation of a TIFF while it loads it, and drops the tag.
        orientation = _orientation(opened)
        image = _from_layers(orientation.apply(layers), profile)
        return replace(image, exif=_described(opened.getexif()), dpi=_dpi(opened))


def read_header(path: str | Path) -> ImageHeader:
    """Read the size of an image file, without decoding its pixels.

    Raises:
        MediaError: If the file is missing, animated, or no image.
    """
    path = _existing(path)
    if is_heif(path):
        return ImageHeader(*heif_size(path), alpha=False)
    with _opened(path) as opened:
        height, width = opened.height, opened.width
        # Pillow gives the upright size of a TIFF.
        if opened.format != "TIFF":
            height, width = _orientation(opened).size(height, width)
        return ImageHeader(height, width, alpha=opened.has_transparency_data)


def image_size(path: str | Path) -> tuple[int, int]:
    """Read the upright height and width of an image file; errors as ``read_header``."""
    header = read_header(path)
    return header.height, header.width


def is_image(path: str | Path) -> bool:
    """Whether a file is to be read as a still image: by its content, or by the suffix of a damaged one."""
    path = Path(path)
    if not os.path.isfile(path):
        return False
    if path.suffix.lower() in IMAGE_SUFFIXES or is_heif(path):
        return True
    try:
        read_header(path)
    except MediaError:
        return False
    return not is_motion_jpeg(path)


def _existing(path: str | Path) -> Path:
    if os.path.isdir(path):
        raise MediaError(f"{path} is a folder. Give an image file.")
    if not os.path.isfile(path):
        raise MediaError(f"{path} does not exist. Give an image file.")
    return Path(path)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with _refused(path), open_image(path) as opened:
        _refuse_animated(opened, path)
        yield opened


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn whatever reading the image raises into one MediaError."""
    try:
        with silent_pillow():
            yield
    except UnidentifiedImageError as error:
        raise MediaError(f"{path} is not a readable image. Convert it to PNG or JPEG.") from error
    except LTXError:
        raise
    # Pillow and its codecs raise whatever a damaged file makes them run into.
    except Exception as error:
        raise MediaError(f"{path} cannot be read: {failure(error)}.") from error


def _refuse_animated(opened: Image.Image, path: Path) -> None:
    # A phone's JPEG may carry a second, smaller image (MPO): it is not animated.
    count = getattr(opened, "n_frames", 1)
    if opened.format != "MPO" and count > 1:
        raise MediaError(
            f"{path} contains {count} images ({opened.format}). Use a still image, or convert it to a video."
        )


def _check_profile(profile: bytes | None, path: Path) -> None:
    """Raise ``MediaError`` for a colour profile that is none: it would be handed on to the files that are written."""
    if profile is None:
        return
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (ImageCms.PyCMSError, OSError) as error:
        raise MediaError(
            f"{path} has a colour profile that cannot be read. Save the image without it, or as PNG in sRGB."
        ) from error


def _orientation(opened: Image.Image) -> Orientation:
    return Orientation.from_exif(opened.getexif().get(ExifTags.Base.Orientation, 1))


def _described(exif: Image.Exif) -> bytes | None:
    """EXIF with the tags that describe the photo alone."""
    described = Image.Exif()
    for tag, value in exif.items():
        if tag in _EXIF_TAGS:
            described[tag] = value
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if ifd in exif:
            described[ifd] = exif.get_ifd(ifd)
    return described.tobytes() if len(described) else None


def _dpi(opened: Image.Image) -> tuple[float, float] | None:
    dpi = opened.info.get("dpi")
    # A stored resolution may be anything, NaN too.
    if not dpi or not all(0 < value < _MAX_DPI for value in dpi):
        return None
    return float(dpi[0]), float(dpi[1])


def _from_heif(heif: HeifImage) -> StillImage:
    exif = Image.Exif()
    if heif.exif is not None:
        exif.load(heif.exif)
    return StillImage(heif.pixels, heif.alpha, heif.icc_profile, exif=_described(exif))


def _layers(opened: Image.Image, profile: bytes | None, path: Path) -> tuple[np.ndarray, bytes | None]:
    """``(H, W, 1 to 4)``: grey, grey and alpha, RGB, or RGB and alpha; and the profile that fits them."""
    if opened.mode.startswith("I;16"):
        return np.asarray(opened).astype(np.uint16)[..., None], profile
    if opened.mode in ("I", "F"):
        raise MediaError(f"{path} has 32 bits per channel. Convert it to 8 or 16 bits.")
    if opened.mode in ("CMYK", "LAB"):
        return np.asarray(_converted(opened, profile)), None
    is_grey = opened.mode in ("1", "L", "LA", "La")
    transparent = opened.has_transparency_data
    mode = {(True, True): "LA", (True, False): "L", (False, True): "RGBA", (False, False): "RGB"}[is_grey, transparent]
    layers = np.asarray(opened.convert(mode))
    return layers if layers.ndim == 3 else layers[..., None], profile


def _profile_space(profile: bytes) -> str:
    """Colour space of a profile, ``RGB``, ``GRAY``, ``CMYK`` or ``LAB``, from its header."""
    return profile[16:20].decode("latin-1").strip().upper()


def _converted(opened: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to sRGB by the image's own profile; without a fitting one by Pillow's formula."""
    if profile is None or _profile_space(profile) != opened.mode:
        return opened.convert("RGB")
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(opened, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None
    return converted


def _from_layers(layers: np.ndarray, profile: bytes | None) -> StillImage:
    channels = layers.shape[2]
    alpha = np.ascontiguousarray(layers[..., -1]) if channels in (2, 4) else None
    colour = np.repeat(layers[..., :1], 3, axis=2) if channels < 3 else layers[..., :3]
    space = _profile_space(profile) if profile is not None else ""
    # Grey levels with an RGB profile are colours of that profile.
    grey = channels < 3 and space != "RGB"
    if space in ("CMYK", "LAB") or (space == "GRAY" and not grey):
        profile = None
    return StillImage(pixels=np.ascontiguousarray(colour), alpha=alpha, icc_profile=profile, grey=grey)


def to_srgb(image: StillImage) -> StillImage:
    """Convert the colours of an 8-bit image from its own profile to sRGB; an unusable profile is dropped."""
    if image.icc_profile is None:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(image.icc_profile))
        pixels = Image.fromarray(image.pixels[..., 0] if image.grey else image.pixels)
        converted = ImageCms.profileToProfile(pixels, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return replace(image, icc_profile=None)
    return replace(image, pixels=np.asarray(converted), icc_profile=None)


def to_8_bit(image: StillImage) -> StillImage:
    """Round an image of 16 bits per channel to 8."""
    if image.pixels.dtype == np.uint8:
        return image
    alpha = None if image.alpha is None else _to_8_bit(image.alpha)
    return replace(image, pixels=_to_8_bit(image.pixels), alpha=alpha)


def _to_8_bit(levels: np.ndarray) -> np.ndarray:
    # 257 * level is the same brightness in 16 bits.
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def write_image(image: StillImage, path: str | Path) -> Path:
    """Write an image; 16 bits are kept in PNG and rounded to 8 in other formats.

    Colours are converted to sRGB where the format holds no colour profile, or none for grey.

    Raises:
        MediaError: If the suffix is unknown, the format has no transparency or no such size, or the folder is
            unsuitable.
    """
    path = Path(path)
    height, width = image.pixels.shape[:2]
    check_image_output(path, height, width, alpha=image.alpha is not None)
    image_format = format_of(path)
    image = _suited(image, image_format)
    exif = _sized_exif(image.exif, height, width)
    with replaced_when_complete(path) as temporary:
        if image.pixels.dtype == np.uint16:
            temporary.write_bytes(png16.encode(_stacked(image), image.icc_profile, exif, image.dpi))
        else:
            _save(image, exif, image_format, temporary)
    return path


def _suited(image: StillImage, image_format: ImageFormat) -> StillImage:
    """The image as far as a format holds it."""
    if not image_format.sixteen_bit:
        image = to_8_bit(image)
    if not image_format.profile or (image.grey and not image_format.grey):
        image = to_srgb(image)
    return replace(
        image,
        grey=image.grey and image_format.grey,
        exif=image.exif if image_format.exif else None,
        dpi=image.dpi if image_format.dpi else None,
    )


def _save(image: StillImage, exif: bytes | None, image_format: ImageFormat, file: Path) -> None:
    layers = _stacked(image)
    options: dict[str, Any] = {
        "icc_profile": image.icc_profile,
        "exif": exif,
        "dpi": image.dpi,
        "quality": image_format.quality,
    }
    options = {name: value for name, value in options.items() if value is not None}
    pixels = Image.fromarray(layers[..., 0] if layers.shape[2] == 1 else layers)
    pixels.save(file, format=image_format.name, **options)


def _sized_exif(data: bytes | None, height: int, width: int) -> bytes | None:
    """EXIF with the size of the written image."""
    if data is None:
        return None
    exif = Image.Exif()
    exif.load(data)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, value in zip(_SIZE_TAGS, (width, height), strict=True):
        if tag in details:
            details[tag] = value
    return exif.tobytes()


def _stacked(image: StillImage) -> np.ndarray:
    """``(H, W, 1 to 4)``: grey or RGB, and alpha."""
    colour = image.pixels[..., :1] if image.grey else image.pixels
    return colour if image.alpha is None else np.dstack([colour, image.alpha])
