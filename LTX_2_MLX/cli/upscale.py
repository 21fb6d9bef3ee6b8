"""Upscale an image, a folder of images or a video with Real-ESRGAN."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

from LTX_2_MLX.cli.command import command
from LTX_2_MLX.cli.options import Crf, PlanOptions, Repair
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.pipelines.options import Opt
from LTX_2_MLX.pipelines.requests import UpscaleRequest


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


def upscale(typed: dict[str, Any], own: UpscaleOptions) -> None:
    """Write SOURCE at SCALE times its size to OUTPUT; the images of a folder keep their names."""
    request = UpscaleRequest(**typed)
    from LTX_2_MLX.cli.reporting import preflight, report, write_result
    from LTX_2_MLX.media.image import IMAGE_SUFFIXES
    from LTX_2_MLX.media.video import read_video
    from LTX_2_MLX.pipelines import upscale as pipeline

    is_folder = own.source.is_dir()
    is_image = is_folder or own.source.suffix.lower() in IMAGE_SUFFIXES
    target = None if is_folder else own.output
    advice = "Pass a smaller --tile-size, --fp16, or a smaller image."
    with report(target, source=own.source, quiet=own.quiet, progress=own.progress, yes=own.yes) as runner:
        if is_image:
            pairs = folder_pairs(own.source, own.output) if is_folder else [(own.source, own.output)]
            preflight(pipeline.plan_for(*largest_size(pairs), request), own, advice)
            upscale_files(pairs, request, runner)
            return
        stream = read_video(own.source, repair=own.repair)
        preflight(pipeline.plan_for(stream.height, stream.width, request), own, advice)
        write_result(pipeline.upscale(stream, request, runner), request, "upscale", own, runner)


def folder_pairs(source: Path, output: Path) -> list[tuple[Path, Path]]:
    """Each image of a folder with its path in another folder."""
    from LTX_2_MLX.media.image import image_paths

    paths = image_paths(source)
    if output.exists() and output.samefile(source):
        raise MediaError(f"{output} is the input itself. Give --output another folder.")
    return [(path, output / path.name) for path in paths]


def largest_size(pairs: list[tuple[Path, Path]]) -> tuple[int, int]:
    """Height and width of the largest image; all of them are opened before the first is upscaled."""
    from LTX_2_MLX.media.image import check_image_name, image_size

    for _, target in pairs:
        check_image_name(target)
    return max((image_size(path) for path, _ in pairs), key=prod)


def upscale_files(pairs: list[tuple[Path, Path]], request: UpscaleRequest, runner: Any) -> None:
    """Upscale image files one after another."""
    from LTX_2_MLX.media.image import read_image, write_image
    from LTX_2_MLX.media.output import made_folder
    from LTX_2_MLX.pipelines.upscale import upscale_images

    larger = upscale_images((read_image(path) for path, _ in pairs), request, runner)
    with made_folder(pairs[0][1].parent):
        for (_, target), image in zip(pairs, larger, strict=True):
            write_image(image, target)


main = command("upscale", upscale, UpscaleOptions, UpscaleRequest)
