"""Upscale an image, a folder of images or a video with Real-ESRGAN."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from LTX_2_MLX.cli.command import command, preflight, report, write_result
from LTX_2_MLX.cli.image_job import ImageJob
from LTX_2_MLX.cli.options import BitDepth, Crf, Deinterlacing, ExactSize, KeepMetadata, PlanOptions, Repair
from LTX_2_MLX.pipelines.options import Opt
from LTX_2_MLX.pipelines.requests import UpscaleRequest
from LTX_2_MLX.runtime import launch

if TYPE_CHECKING:
    from LTX_2_MLX.runtime.runner import StageRunner

_ADVICE = "Pass a smaller --tile-size, --fp16, or a smaller image."


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions(PlanOptions):
    """Options of the command beside those of the library call."""

    source: Annotated[Path, Opt("Image, folder of images, or video.", positional=True, metavar="SOURCE", is_file=True)]
    output: Annotated[
        Path,
        Opt(
            "File to write, or folder for a folder.",
            group="Output",
            flags=("--output", "-o"),
            metavar="PATH",
            is_output=True,
        ),
    ]
    crf: Crf = None
    repair: Repair = False
    metadata: KeepMetadata = True
    exact_size: ExactSize = False
    deinterlace: Deinterlacing = None
    bit_depth: BitDepth = 8


def upscale(typed: dict[str, Any], own: UpscaleOptions) -> None:
    """Write SOURCE at SCALE times its size to OUTPUT; the images of a folder keep their names."""
    request = UpscaleRequest(**typed)
    from LTX_2_MLX.media.image import is_image
    from LTX_2_MLX.media.video import read_video
    from LTX_2_MLX.media.writer import waiting_bytes
    from LTX_2_MLX.pipelines import upscale as pipeline
    from LTX_2_MLX.pipelines.requests import upscaled_size
    from LTX_2_MLX.pipelines.sharing import agree, with_least_memory

    is_folder = own.source.is_dir()
    target = None if is_folder else own.output
    with report(
        target, source=own.source, quiet=own.quiet, progress=own.progress, yes=own.yes, page=own.report
    ) as runner:
        shared = request if launch.RANK is None else with_least_memory(request)
        if is_folder or is_image(own.source):
            upscale_images(request, shared, own, runner)
            return
        stream = read_video(own.source, repair=own.repair, deinterlace=own.deinterlace, bit_depth=own.bit_depth)
        size = upscaled_size(stream.height, stream.width, request.scale)
        waiting = waiting_bytes(*size, stream.bit_depth)
        plan = pipeline.plan_for(stream.height, stream.width, shared, stream.decoding_bytes, waiting)
        preflight(plan, own, _ADVICE, runner)
        if launch.RANK is not None:
            agree(request, own.source, pipeline.weight_files(request))
        write_result(pipeline.upscale(stream, shared, runner), request, "upscale", own, runner)


def upscale_images(request: UpscaleRequest, shared: UpscaleRequest, own: UpscaleOptions, runner: "StageRunner") -> None:
    """Upscale an image or the images of a folder; what cannot be done is named at the end.

    Args:
        request: As given.
        shared: With the memory of the smallest of several machines.
        own: The command's options.
        runner: Runs the work.

    Raises:
        MediaError: At the end, if an image could not be done.
    """
    from LTX_2_MLX.errors import MediaError
    from LTX_2_MLX.files import made_folder
    from LTX_2_MLX.pipelines.sharing import agree
    from LTX_2_MLX.pipelines.upscale import plan_for, weight_files

    if own.bit_depth != 8 or own.deinterlace is not None:
        raise MediaError("--bit-depth and --deinterlace are for videos; images keep their own depth. Leave them out.")
    job = ImageJob.of_folder(own, request) if own.source.is_dir() else ImageJob.of_file(own, request)
    job.take_those_of_first()
    for line in job.notes:
        runner.progress.note(line)
    if job.headers:
        largest = max(job.headers, key=lambda header: header.height * header.width)
        preflight(plan_for(largest.height, largest.width, shared), own, _ADVICE, runner)
        if launch.RANK is not None:
            agree(request, own.source, weight_files(request))
        runner.facts |= {"command": "upscale", "settings": asdict(request)}
        with made_folder(job.pairs[0][1].parent):
            job.run(shared, runner)
    job.finish()


main = command("upscale", upscale, UpscaleOptions, UpscaleRequest)
