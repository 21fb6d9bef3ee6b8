"""Compare two or three videos in one video or on one page. Entry point for the CLI, notebooks and library users."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from LTX_2_MLX.files import check_writable, write_file
from LTX_2_MLX.media import comparison
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.panels import scaled
from LTX_2_MLX.media.quality import psnr, ssim
from LTX_2_MLX.media.video import write_video
from LTX_2_MLX.pages.comparison import ComparedVideo, comparison_page
from LTX_2_MLX.runtime.progress import Progress, SilentProgress

# Finer than usual: the copies are looked at pixel by pixel.
_PAGE_CRF = 12


def compare(
    streams: Sequence[FrameStream], labels: Sequence[str], *, wipe: bool = False, height: int | None = None
) -> FrameStream:
    """The same moments of two or three videos side by side, with the sound of the first.

    Args:
        streams: The videos. Smaller ones are enlarged to the largest height, bicubic.
        labels: Shown above each.
        wipe: Show two videos in one place instead, left and right of a line that moves.
        height: Rows of each video, instead of the largest height.

    Raises:
        RequestError: If the videos cannot be shown so.
    """
    panels = comparison.panels_for(streams, height)
    arrange = comparison.wipe if wipe else comparison.side_by_side
    stream = arrange(streams, labels, panels)
    return stream.replace(notes=(*stream.notes, *comparison.differences(streams, labels)))


def write_comparison_page(
    streams: Sequence[FrameStream],
    labels: Sequence[str],
    path: str | Path,
    *,
    height: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a page that compares the videos, with PSNR and SSIM of each frame against the first video.

    Videos of another size than the first are scaled to its size for these, bicubic with antialiasing.

    Raises:
        RequestError: If the videos cannot be compared.
        MediaError: If a video cannot be read or the page not be written.
    """
    path = check_writable(path)
    progress = progress or SilentProgress()
    panels = comparison.panels_for(streams, height)
    for line in comparison.differences(streams, labels):
        progress.note(line)
    figures: list[list[tuple[float, float]]] = [[] for _ in streams[1:]]

    def measure(frames: list[np.ndarray]) -> None:
        for values, frame in zip(figures, frames[1:], strict=True):
            values.append(_quality(frames[0], frame, (streams[0].height, streams[0].width)))

    with tempfile.TemporaryDirectory() as folder:
        strip = comparison.strip(streams, panels, measure)
        encoded = write_video(strip, Path(folder) / "strip.mp4", crf=_PAGE_CRF, progress=progress).read_bytes()
    videos = []
    for stream, label, width, values in zip(streams, labels, panels.widths, [[], *figures], strict=True):
        decibels = tuple(each[0] for each in values)
        similarities = tuple(each[1] for each in values)
        videos.append(ComparedVideo(label, _facts(stream), width, decibels, similarities))
    page = comparison_page(
        videos, encoded, height=panels.height, frame_rate=panels.frame_rate, num_frames=panels.num_frames
    )
    write_file(path, page)
    return path


def _quality(first: np.ndarray, other: np.ndarray, size: tuple[int, int]) -> tuple[float, float]:
    """PSNR and SSIM of two frames at the first video's size."""
    first, other = scaled(first, *size), scaled(other, *size)
    return psnr(first, other), ssim(first, other)


def _facts(stream: FrameStream) -> str:
    seconds = stream.duration_seconds
    assert seconds is not None, "panels have been planned from it"
    rate = f"{float(stream.frame_rate):.6g} fps"
    return f"{stream.width}×{stream.height}, {stream.num_frames} frames, {rate}, {float(seconds):.2f} s"
