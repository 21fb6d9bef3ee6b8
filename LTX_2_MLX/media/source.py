"""Opening video and audio files; what FFmpeg reports becomes one MediaError."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from PIL import Image, UnidentifiedImageError

from LTX_2_MLX.errors import MediaError


def refuse_images(path: Path) -> None:
    """Raise ``MediaError`` if the file is missing, no regular file, empty, or a still or animated image."""
    if path.is_dir():
        raise MediaError(f"{path} is a folder. Give a video file.")
    if not path.is_file():
        raise MediaError(f"{path} {'is not a file' if path.exists() else 'does not exist'}. Give a video file.")
    if not path.stat().st_size:
        raise MediaError(f"{path} is empty, it has 0 bytes. Give a video file.")
    try:
        with Image.open(path) as image:
            animated = getattr(image, "is_animated", False)
            kind = image.format
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return
    if animated:
        raise MediaError(
            f"{path} is an animated image ({kind}), not a video. Convert it first: ffmpeg -i {path.name} video.mp4"
        )
    # Pillow recognises MPEG program streams by their first bytes.
    if kind != "MPEG":
        raise MediaError(f"{path} is a still image ({kind}), not a video.")


@contextmanager
def open_media(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a file for reading; FFmpeg's errors become one ``MediaError``."""
    try:
        # Absolute, since FFmpeg takes a relative "a:b.mp4" for a protocol.
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be read as video: {reason(error)}.") from error


def reason(error: Exception) -> str:
    """Return the message of a system or FFmpeg error."""
    text = getattr(error, "strerror", None) or str(error)
    if getattr(error, "errno", None) == errno.ENOSPC:
        return "the disk is full"
    return text[:1].lower() + text[1:].rstrip(".")


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """Return the first video stream that is not a cover image or thumbnail."""
    for stream in container.streams.video:
        if not stream.disposition & (av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails):
            if stream.codec_context is None:
                raise MediaError(f"{path} holds video of a kind that FFmpeg cannot decode. Re-encode it as H.264.")
            return stream
    kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
    raise MediaError(f"{path} holds no video, only {' and '.join(kinds)}.")
