"""Enlarge and restore a video with FlashVSR."""

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from LTX_2_MLX.cli.command import command
from LTX_2_MLX.cli.options import PlanOptions
from LTX_2_MLX.pipelines.options import Opt
from LTX_2_MLX.pipelines.requests import MEMORY_GROUP, MemoryLimit, SuperResolveRequest


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
    memory_limit_gb: MemoryLimit = None
    fit: Annotated[bool, Opt("Adjust tiling and precision until the run fits in memory.", group=MEMORY_GROUP)] = False


def super_resolve(typed: dict[str, Any], own: SuperResolveOptions) -> None:
    """Write INPUT at SCALE times its size, with as many frames and its audio."""
    request = SuperResolveRequest(**typed)
    from LTX_2_MLX.cli.reporting import plan_text, report
    from LTX_2_MLX.media.encoder import crf_of_quality
    from LTX_2_MLX.media.image import IMAGE_SUFFIXES, StillImage, write_image
    from LTX_2_MLX.media.output import free_bytes, made_folder
    from LTX_2_MLX.media.record import run_record
    from LTX_2_MLX.media.validate import validated
    from LTX_2_MLX.media.video import write_video
    from LTX_2_MLX.pipelines import super_resolve as pipeline
    from LTX_2_MLX.pipelines.super_resolve.places import check_kind, output_path, read_clip
    from LTX_2_MLX.runtime.memory import budget_bytes
    from LTX_2_MLX.runtime.spool import spool_folder

    target = output_path(own.input, own.output, request)
    folder = nullcontext() if own.dry_run else made_folder(target.parent)
    checked = None if own.dry_run else target
    with folder, report(checked, source=own.input, quiet=own.quiet, progress=own.progress, yes=own.yes) as runner:
        stream = read_clip(own.input, str(own.fps))
        crf = crf_of_quality(own.quality)
        budget = budget_bytes(own.memory_limit_gb)
        check_kind(target, stream, request, crf)
        disk = free_bytes(spool_folder())
        refuse = not (own.dry_run or own.force)
        ready = pipeline.prepare(stream, request, budget, disk, fit=own.fit, refuse=refuse)
        request = ready.request
        if own.dry_run:
            typer.echo(plan_text(ready.plan, as_json=own.json))
            if not own.json:
                typer.echo(pipeline.advice(stream, request, ready.plan, budget))
            raise typer.Exit
        if ready.flags:
            runner.progress.note(f"Fitted into memory by {ready.flags}.")
        for line in ready.plan.rows():
            runner.progress.note(line)
        stream = stream if own.keep_audio else stream.replace(audio=None)
        video = pipeline.super_resolve(stream, request, runner)
        video = video.replace(metadata=video.metadata | run_record("super_resolve", asdict(request)))
        video = video if own.allow_blank else validated(video)
        if target.suffix.lower() in IMAGE_SUFFIXES:
            write_image(StillImage(video.array()[0]), target)
        else:
            write_video(video, target, crf=crf, progress=runner.progress)


main = command("super_resolve", super_resolve, SuperResolveOptions, SuperResolveRequest)
