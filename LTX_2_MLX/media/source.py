"""Opening video and audio files; what FFmpeg reports becomes one MediaError."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from PIL import Image, UnidentifiedImageError

from LTX_2_MLX.errors import MediaError

# Demuxers of containers that hold their own frames. Playlists (concat, hls, dash, ...) would open other files.
_FORMATS = frozenset(
    (
        "3gp", "aac", "ac3", "aiff", "amr", "asf", "av1", "avi", "caf", "dts", "dv", "eac3", "flac", "flv", "gxf",
        "h264", "hevc", "ivf", "m4v", "matroska", "mjpeg", "mov", "mp3", "mp4", "mpeg", "mpegts", "mpegvideo", "mxf",
        "nut", "obu", "ogg", "rm", "tta", "vc1", "vvc", "w64", "wav", "webm", "wtv", "wv", "yuv4mpegpipe",
    )
)  # fmt: skip
_COVER = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails


@contextmanager
def open_media(path: Path, action: str = "read as video") -> Iterator[av.container.InputContainer]:
    """Open a file for reading; FFmpeg's errors become one ``MediaError``.

    Raises:
        MediaError: If FFmpeg cannot open or read it, or if it is a playlist, which would open other files.
    """
    options = {"format_whitelist": ",".join(sorted(_FORMATS))}
    try:
        with ffmpeg_messages() as messages:
            # Absolute, since FFmpeg takes a relative "a:b.mp4" for a protocol.
            container = av.open(str(path.absolute()), metadata_errors="replace", container_options=options)
    except (av.FFmpegError, OSError) as error:
        if any("whitelist" in line for line in messages):
            raise MediaError(f"{path} is not a video: it is a playlist, or of a kind that is not supported.") from error
        raise MediaError(f"{path} cannot be {action}: {reason(error, messages)}.") from error
    with container:
        try:
            yield container
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"{path} cannot be {action}: {reason(error)}.") from error


@contextmanager
def ffmpeg_messages() -> Iterator[list[str]]:
    """Collect the errors that FFmpeg logs in this thread while the block runs.

    Not for blocks that decode: FFmpeg's threads would wait for Python's lock.
    """
    messages: list[str] = []
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as logs:
            try:
                yield messages
            finally:
                messages += [text.strip() for _, _, text in logs]
    finally:
        av.logging.set_level(level)


def reason(error: Exception, messages: list[str] | None = None) -> str:
    """Return the message of a system or FFmpeg error, with FFmpeg's own last line where it logged one."""
    if getattr(error, "errno", None) == errno.ENOSPC:
        return "the disk is full"
    text = getattr(error, "strerror", None) or str(error)
    text = text[:1].lower() + text[1:].rstrip(".")
    lines = [line for line in messages or () if line]
    return f"{text} ({lines[-1].rstrip('.')})" if lines else text


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
    # Pillow recognises MPEG program streams by their first bytes, and the first frame of raw MJPEG as a JPEG.
    if kind == "MPEG" or (kind in ("JPEG", "MPO") and _is_motion_jpeg(path)):
        return
    if animated:
        raise MediaError(
            f"{path} is an animated image ({kind}), not a video. Convert it first: ffmpeg -i {path.name} video.mp4"
        )
    raise MediaError(f"{path} is a still image ({kind}), not a video.")


def _is_motion_jpeg(path: Path) -> bool:
    try:
        with av.open(str(path.absolute())) as container:
            if container.format.name != "mjpeg":
                return False
            num_frames = 0
            for packet in container.demux(video=0):
                num_frames += packet.size > 0
                if num_frames > 1:
                    return True
    except (av.FFmpegError, OSError):
        pass
    return False


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """Return the first video stream that is not a cover image or thumbnail."""
    for stream in container.streams.video:
        if not stream.disposition & _COVER:
            if stream.codec_context is None:
                raise MediaError(f"{path} holds video of a kind that FFmpeg cannot decode. Re-encode it as H.264.")
            return stream
    kinds: list[str] = sorted({stream.type for stream in container.streams}) or ["nothing"]
    raise MediaError(f"{path} holds no video, only {' and '.join(kinds)}.")


def is_cover(stream: av.VideoStream) -> bool:
    """Whether a video stream is a cover image."""
    return bool(stream.disposition & _COVER)
