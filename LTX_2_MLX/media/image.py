"""Image files to upright RGB arrays with their alpha, 8 or 16 bit, and back; a folder of them as a stream."""

import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.display import Orientation
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.output import replaced_when_complete

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
_WITHOUT_ALPHA = ("JPEG", "BMP")
_EXIF_ORIENTATION = 274
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Channels of a PNG by its colour type; type 3 is a palette, always 8 bit.
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


@dataclass(frozen=True)
class StillImage:
    """One still image, upright.

    Attributes:
        pixels: ``(H, W, 3)`` RGB, uint8 or uint16.
        alpha: ``(H, W)`` in the same dtype, the largest value is opaque; None without transparency.
        icc_profile: The colour profile as the file holds it.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None


def read_image(path: str | Path) -> StillImage:
    """Read an image file with its EXIF orientation applied; grey and palette images become RGB.

    Raises:
        MediaError: If the file is missing, animated, damaged, or not an image of 8 or 16 bits.
    """
    path = Path(path)
    with _opened(path) as opened:
        profile = opened.info.get("icc_profile")
        layers = _png_16_bit(path) if opened.format == "PNG" else None
        layers = layers if layers is not None else _layers(opened, path)
        # Read after the pixels: Pillow applies the orientation of a TIFF while it loads it, and drops the tag.
        orientation = _orientation(opened)
    return _from_layers(orientation.apply(layers), profile)


def image_size(path: str | Path) -> tuple[int, int]:
    """Read the upright height and width of an image file, in most formats from its header alone.

    Raises:
        MediaError: If the file is missing, animated, or no image.
    """
    with _opened(Path(path)) as opened:
        if opened.format == "TIFF":
            # Pillow applies the orientation while it loads the file, and drops the tag.
            opened.load()
        return _orientation(opened).size(opened.height, opened.width)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if os.path.isdir(path):
        raise MediaError(f"{path} is a folder. Give an image file.")
    if not os.path.isfile(path):
        raise MediaError(f"{path} does not exist. Give an image file.")
    try:
        with Image.open(path) as opened:
            _refuse_animated(opened, path)
            yield opened
    except UnidentifiedImageError as error:
        raise MediaError(f"{path} is not a readable image. Convert it to PNG or JPEG.") from error
    except (OSError, SyntaxError, ValueError, zlib.error, av.FFmpegError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read: {error}.") from error


def _orientation(opened: Image.Image) -> Orientation:
    return Orientation.from_exif(opened.getexif().get(_EXIF_ORIENTATION, 1))


def check_image_name(path: str | Path) -> None:
    """Raise ``MediaError`` unless the suffix is that of a supported image format."""
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise MediaError(f"Unsupported image format {Path(path).suffix!r} of {path}. Use {', '.join(IMAGE_SUFFIXES)}.")


def write_image(image: StillImage, path: str | Path) -> Path:
    """Write an image; 16 bits are kept in PNG and rounded to 8 in other formats.

    Raises:
        MediaError: If the suffix is unknown, the format has no transparency, or the folder is unsuitable.
    """
    path = Path(path)
    check_image_name(path)
    suffix = path.suffix.lower()
    if image.alpha is not None and _FORMATS.get(suffix) in _WITHOUT_ALPHA:
        raise MediaError(f"{path} cannot hold transparency. Write .png instead.")
    with replaced_when_complete(path) as temporary:
        if suffix == ".png" and image.pixels.dtype == np.uint16:
            temporary.write_bytes(_encode_png_16_bit(image))
        else:
            options = {"quality": 95} if suffix in (".jpg", ".jpeg", ".webp") else {}
            encoded = Image.fromarray(_stacked(_as_8_bit(image)))
            encoded.save(temporary, format=_FORMATS.get(suffix, "PNG"), icc_profile=image.icc_profile, **options)
    return path


def image_paths(folder: str | Path) -> list[Path]:
    """List the images of a folder in natural order (2 before 10, ignoring case).

    Raises:
        MediaError: If there is no such folder or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder.")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
    if not paths:
        raise MediaError(f"{folder} contains no image ({', '.join(IMAGE_SUFFIXES)}).")
    return sorted(paths, key=_natural)


def read_folder(folder: str | Path, frame_rate: Fraction = Fraction(24)) -> FrameStream:
    """Open the images of a folder as the frames of a clip, in natural order; alpha is ignored.

    Raises:
        MediaError: If there is none; while they are read, if one differs in size or cannot be read.
    """
    return read_images(image_paths(folder), frame_rate)


def read_images(paths: list[Path], frame_rate: Fraction = Fraction(24)) -> FrameStream:
    """Open image files of one size as the frames of a clip, in the given order; alpha is ignored.

    Raises:
        MediaError: While they are read, if one differs in size or cannot be read.
    """
    height, width = read_image(paths[0]).pixels.shape[:2]
    return FrameStream(
        chunks=_folder_frames(paths, (height, width)),
        height=height,
        width=width,
        frame_rate=frame_rate,
        num_frames=len(paths),
    )


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


def _refuse_animated(opened: Image.Image, path: Path) -> None:
    # A phone's JPEG may carry a second, smaller image (MPO): it is not animated.
    count = getattr(opened, "n_frames", 1)
    if opened.format != "MPO" and count > 1:
        raise MediaError(
            f"{path} contains {count} images ({opened.format}). Use a still image, or convert it to a video."
        )


def _layers(opened: Image.Image, path: Path) -> np.ndarray:
    """``(H, W, 1 to 4)``: grey, grey and alpha, RGB, or RGB and alpha."""
    if opened.mode.startswith("I;16"):
        return np.asarray(opened).astype(np.uint16)[..., None]
    if opened.mode in ("I", "F"):
        raise MediaError(f"{path} has 32 bits per channel. Convert it to 8 or 16 bits.")
    transparent = opened.has_transparency_data
    return np.asarray(opened.convert("RGBA" if transparent else "RGB"))


def _from_layers(layers: np.ndarray, profile: bytes | None) -> StillImage:
    channels = layers.shape[2]
    alpha = np.ascontiguousarray(layers[..., -1]) if channels in (2, 4) else None
    colour = layers[..., :3] if channels > 2 else np.repeat(layers[..., :1], 3, axis=2)
    return StillImage(pixels=np.ascontiguousarray(colour), alpha=alpha, icc_profile=profile)


def _stacked(image: StillImage) -> np.ndarray:
    return image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])


def _as_8_bit(image: StillImage) -> StillImage:
    if image.pixels.dtype == np.uint8:
        return image
    alpha = None if image.alpha is None else _to_8_bit(image.alpha)
    return replace(image, pixels=_to_8_bit(image.pixels), alpha=alpha)


def _to_8_bit(levels: np.ndarray) -> np.ndarray:
    # 257 * level is the same brightness in 16 bits.
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _png_16_bit(path: Path) -> np.ndarray | None:
    """Decode a PNG with 16 bits per channel to uint16; None for other PNGs. Pillow reduces it to 8 bits."""
    data = path.read_bytes()
    depth, colour_type = data[24], data[25]
    if depth != 16:
        return None
    decoder = av.CodecContext.create("png", "r")
    frames = [frame for packet in (av.Packet(data), None) for frame in decoder.decode(packet)]
    if not frames:
        raise MediaError(f"{path} is truncated or damaged.")
    plane, channels = frames[0].planes[0], _PNG_CHANNELS[colour_type]
    values: np.ndarray = np.frombuffer(memoryview(plane), dtype=">u2")
    rows = values.reshape(plane.height, -1)[:, : plane.width * channels]
    return rows.reshape(plane.height, plane.width, -1).astype(np.uint16)[..., :channels]


def _encode_png_16_bit(image: StillImage) -> bytes:
    layers = _stacked(image)
    layout = "rgb48be" if layers.shape[2] == 3 else "rgba64be"
    encoder = av.CodecContext.create("png", "w")
    encoder.height = layers.shape[0]
    encoder.width = layers.shape[1]
    encoder.pix_fmt = layout
    encoder.time_base = Fraction(1)
    frame = av.VideoFrame(layers.shape[1], layers.shape[0], layout)
    plane = frame.planes[0]
    rows = np.zeros((plane.height, plane.line_size // 2), dtype=">u2")
    rows[:, : layers.shape[1] * layers.shape[2]] = layers.reshape(plane.height, -1)
    plane.update(rows.tobytes())
    data = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    return _with_profile(data, image.icc_profile) if image.icc_profile else data


def _with_profile(png: bytes, profile: bytes) -> bytes:
    body = b"iCCP" + b"ICC\0\0" + zlib.compress(profile)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    # The header chunk always ends at byte 33, and the profile comes before the pixels.
    after_header = len(_PNG_SIGNATURE) + 25
    return png[:after_header] + chunk + png[after_header:]


def _folder_frames(paths: list[Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    for path in paths:
        image = _as_8_bit(read_image(path))
        if image.pixels.shape[:2] != size:
            raise MediaError(
                f"{path} is {image.pixels.shape[1]}×{image.pixels.shape[0]}, the first image of its folder "
                f"{size[1]}×{size[0]}. Resize them to one size."
            )
        yield image.pixels[None]


def _natural(path: Path) -> list[tuple[int, int | str]]:
    pieces = re.split(r"(\d+)", path.name.lower())
    return [(0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces]
