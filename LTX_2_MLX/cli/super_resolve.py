"""Enlarge and restore a video with FlashVSR."""

import os
from collections import deque
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from LTX_2_MLX.cli.command import command, plan_text, report, tell_machines
from LTX_2_MLX.cli.echo import echo
from LTX_2_MLX.cli.options import BitDepth, Deinterlacing, ExactSize, KeepMetadata, PlanOptions, Repair
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.pipelines.options import Opt
from LTX_2_MLX.pipelines.requests import MEMORY_GROUP, MemoryLimit, SuperResolveRequest
from LTX_2_MLX.runtime import launch

if TYPE_CHECKING:
    from LTX_2_MLX.media.frames import FrameStream
    from LTX_2_MLX.planning.fit import Fitted
    from LTX_2_MLX.runtime.progress import Progress
    from LTX_2_MLX.runtime.runner import StageRunner


@dataclass(frozen=True, kw_only=True)
class SuperResolveOptions(PlanOptions):
    """Options of the command beside those of the library call."""

    input: Annotated[
        Path,
        Opt("Video, folder of images, or image.", group="Input", flags=("--input", "-i"), metavar="PATH", is_file=True),
    ]
    output: Annotated[
        Path,
        Opt(
            "File to write, or folder for it.",
            group="Output",
            flags=("--output", "-o"),
            metavar="PATH",
            is_output=True,
        ),
    ] = Path("results")
    keep_audio: Annotated[bool, Opt("Copy the audio.", group="Output")] = True
    quality: Annotated[float, Opt("Quality of the video file; 10 is best.", group="Output", min=1, max=10)] = 6
    fps: Annotated[
        Fraction | str,
        Opt(
            "Frames per second of images, and of a video without a rate, such as 30000/1001.",
            group="Input",
            metavar="RATE",
            is_rate=True,
        ),
    ] = "30"
    repair: Repair = False
    metadata: KeepMetadata = True
    exact_size: ExactSize = False
    deinterlace: Deinterlacing = None
    bit_depth: BitDepth = 8
    memory_limit_gb: MemoryLimit = None
    fit: Annotated[bool, Opt("Adjust tiling and precision until the run fits in memory.", group=MEMORY_GROUP)] = False


def super_resolve(typed: dict[str, Any], own: SuperResolveOptions) -> None:
    """Write INPUT at SCALE times its size, with as many frames and its audio."""
    request = SuperResolveRequest(**typed)
    from LTX_2_MLX.files import free_bytes, made_folder
    from LTX_2_MLX.media.frames import validated
    from LTX_2_MLX.media.writer import run_record
    from LTX_2_MLX.pipelines import super_resolve as pipeline
    from LTX_2_MLX.pipelines.sharing import with_least_memory
    from LTX_2_MLX.runtime.spool import spool_folder
    from LTX_2_MLX.runtime.this_machine import budget_bytes

    target = _output_path(own.input, own.output, request)
    folder = nullcontext() if own.dry_run else made_folder(target.parent)
    checked = None if own.dry_run else target
    reports: dict[str, Any] = {"quiet": own.quiet, "progress": own.progress, "yes": own.yes, "page": own.report}
    with folder, report(checked, source=own.input, **reports) as runner:
        stream = _read_clip(own)
        budget = budget_bytes(with_least_memory(own).memory_limit_gb)
        _check_kind(target, stream, request, own)
        disk = free_bytes(spool_folder())
        refuse = not (own.dry_run or own.force)
        ready = pipeline.prepare(stream, request, budget, disk, fit=own.fit, refuse=refuse)
        request = ready.options
        if own.dry_run:
            echo(plan_text(ready.plan, as_json=own.json))
            tell_machines(own)
            raise typer.Exit
        _agree(request, own)
        _tell(ready, runner)
        stream = stream if own.keep_audio else stream.replace(audio=None)
        video = pipeline.super_resolve(stream, request, runner)
        note = runner.progress.note
        tags = run_record("super_resolve", asdict(request), beside=video.metadata, note=note) if own.metadata else {}
        video = video.replace(metadata=tags)
        video = video if own.allow_blank else validated(video)
        _write(video, target, own, runner.progress)


def _agree(request: SuperResolveRequest, own: SuperResolveOptions) -> None:
    """Compare the run with those of the other machines."""
    from LTX_2_MLX.pipelines.sharing import agree
    from LTX_2_MLX.pipelines.super_resolve import weight_files

    agree(request, own.input, weight_files(request))


def _tell(ready: "Fitted[SuperResolveRequest]", runner: "StageRunner") -> None:
    """Show the plan, and tell the runner of it."""
    runner.facts |= {"command": "super_resolve", "settings": asdict(ready.options), "plan": ready.plan}
    if ready.flags:
        runner.progress.note(f"Fitted into memory by {' '.join(ready.flags)}.")
    for line in ready.plan.lines():
        runner.progress.note(line)


def _write(video: "FrameStream", target: Path, own: SuperResolveOptions, progress: "Progress") -> None:
    """Write a video, or the only frame of one as an image."""
    from LTX_2_MLX.media.encoder import crf_of_quality
    from LTX_2_MLX.media.image import StillImage, write_image
    from LTX_2_MLX.media.video import write_video

    if launch.FOLLOWS:
        # The first machine has the frames.
        deque(video, maxlen=0)
    elif _is_image(target):
        write_image(StillImage(video.array()[0]), target)
    else:
        write_video(video, target, crf=crf_of_quality(own.quality), exact_size=own.exact_size, progress=progress)


def _read_clip(own: SuperResolveOptions) -> "FrameStream":
    """A video, the images of a folder, or one image as a clip of one frame."""
    from LTX_2_MLX.media.image import is_image
    from LTX_2_MLX.media.image_folder import read_folder, read_images
    from LTX_2_MLX.media.video import read_video

    frame_rate = Fraction(own.fps)
    if own.input.is_dir() or is_image(own.input):
        _refuse_for_images(own)
        return read_folder(own.input, frame_rate) if own.input.is_dir() else read_images([own.input], frame_rate)
    return read_video(
        own.input,
        unknown_rate=frame_rate,
        repair=own.repair,
        deinterlace=own.deinterlace,
        bit_depth=own.bit_depth,
    )


def _refuse_for_images(own: SuperResolveOptions) -> None:
    """Raise ``MediaError`` for options that only a video has."""
    if own.deinterlace is not None:
        raise MediaError(f"--deinterlace is for videos, {own.input} holds images. Leave it out.")
    if own.bit_depth != 8:
        raise MediaError(f"--bit-depth 10 is for videos, images are read with 8 bits. Leave it out for {own.input}.")


def _is_image(path: Path) -> bool:
    from LTX_2_MLX.media.image_formats import IMAGE_SUFFIXES

    # Path.is_dir raises where a name is too long.
    return path.suffix.lower() in IMAGE_SUFFIXES and not os.path.isdir(path)


def _output_path(source: Path, output: Path, request: SuperResolveRequest) -> Path:
    """``output`` itself if it names a file, else a file in that folder named after the source and the request."""
    if output.suffix and not os.path.isdir(output):
        return output
    from LTX_2_MLX.media.image import is_image

    suffix = ".png" if is_image(source) else ".mp4"
    return output / f"FlashVSR_{request.mode}_{source.stem}_x{request.scale:g}_seed{request.seed}{suffix}"


def _check_kind(target: Path, stream: "FrameStream", request: SuperResolveRequest, own: SuperResolveOptions) -> None:
    """Raise ``MediaError`` unless ``target`` can hold the result: a video, or one image."""
    from LTX_2_MLX.media.encoder import choose_encoding, crf_of_quality
    from LTX_2_MLX.pipelines.super_resolve.tiles import layout_of

    if not _is_image(target):
        choose_encoding(
            target,
            layout_of(stream.height, stream.width, request).output,
            crf=crf_of_quality(own.quality),
            exact_size=own.exact_size,
            bit_depth=own.bit_depth,
        )
    elif stream.num_frames != 1:
        count = "several" if stream.num_frames is None else stream.num_frames
        raise MediaError(f"{target} is an image, but the clip has {count} frames. Use a name ending in .mp4 or .mkv.")


main = command("super_resolve", super_resolve, SuperResolveOptions, SuperResolveRequest)
