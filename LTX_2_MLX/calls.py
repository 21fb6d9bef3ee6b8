"""The public calls that take a film: options under the commands' names in, a ``FrameStream`` out.

They print nothing; frames are made as they are read, or written by ``.save(path)``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.image import read_folder
from LTX_2_MLX.media.video import read_video
from LTX_2_MLX.pipelines import interpolate as rife
from LTX_2_MLX.pipelines import super_resolve as flashvsr
from LTX_2_MLX.pipelines import upscale as esrgan
from LTX_2_MLX.pipelines import upscale_temporal as latent
from LTX_2_MLX.pipelines.options import options_of
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner

# A clip that is open already, a video file, or a folder of pictures.
Source = FrameStream | str | Path


def upscale_temporal(video: Source, *, progress: Progress | None = None, **options: Any) -> FrameStream:
    """``video`` with twice the frame rate, made in LTX-2's latent space: 2 N - 1 frames for N.

    Args:
        video: A clip, a video file or a folder of pictures.
        progress: Told of stages and steps; see ``runtime.progress``.
        **options: Fields of ``pipelines.upscale_temporal.Request``.
    """
    return _made(latent.upscale_temporal, latent.Request, video, progress, options)


def interpolate(video: Source, *, progress: Progress | None = None, **options: Any) -> FrameStream:
    """``video`` with new frames between its own, made by RIFE.

    Args:
        video: A clip, a video file or a folder of pictures.
        progress: Told of stages and steps; see ``runtime.progress``.
        **options: Fields of ``pipelines.interpolate.Request``.
    """
    return _made(rife.interpolate, rife.Request, video, progress, options)


def upscale(video: Source, *, progress: Progress | None = None, **options: Any) -> FrameStream:
    """``video`` enlarged frame by frame by Real-ESRGAN.

    Args:
        video: A clip, a video file or a folder of pictures.
        progress: Told of stages and steps; see ``runtime.progress``.
        **options: Fields of ``pipelines.upscale.Request``.
    """
    return _made(esrgan.upscale, esrgan.Request, video, progress, options)


def super_resolve(video: Source, *, progress: Progress | None = None, **options: Any) -> FrameStream:
    """``video`` enlarged and restored by FlashVSR.

    Args:
        video: A clip, a video file or a folder of pictures.
        progress: Told of stages and steps; see ``runtime.progress``.
        **options: Fields of ``pipelines.super_resolve.Request``.
    """
    return _made(flashvsr.super_resolve, flashvsr.Request, video, progress, options)


def open_source(video: Source) -> FrameStream:
    """The clip itself, or the one in a video file or a folder of pictures."""
    if isinstance(video, FrameStream):
        return video
    return read_folder(video) if Path(video).is_dir() else read_video(video)


def _made(
    road: Callable[..., FrameStream], request: type, video: Source, progress: Progress | None, options: dict[str, Any]
) -> FrameStream:
    made = request(**options_of(request, options, road.__name__))
    return road(open_source(video), made, StageRunner(progress))
