"""Make a picture, a folder of pictures or a video larger, by Real-ESRGAN."""

from dataclasses import asdict
from math import prod
from pathlib import Path

from LTX_2_MLX import cli, read_video, write_video
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.encoder import CRF
from LTX_2_MLX.media.image import IMAGE_SUFFIXES, check_image_name, image_paths, image_size, read_image, write_image
from LTX_2_MLX.media.output import made_folder
from LTX_2_MLX.media.record import run_record
from LTX_2_MLX.media.validate import validated
from LTX_2_MLX.pipelines.upscale import Request, plan, upscale, upscale_pictures
from LTX_2_MLX.runtime.runner import StageRunner


def main(
    source: cli.InputPictures,
    output: cli.OutputPictures,
    scale: cli.Scale = Request.scale,
    model_path: cli.UpscalerModel = Request.model_path,
    tile_size: cli.UpscalerTileSize = Request.tile_size,
    tile_overlap: cli.UpscalerTileOverlap = Request.tile_overlap,
    denoise_strength: cli.DenoiseStrength = Request.denoise_strength,
    weak_model_path: cli.WeakModel = Request.weak_model_path,
    fp16: cli.Fp16 = False,
    fp32: cli.Fp32 = False,
    crf: cli.Crf = CRF,
    memory_limit_gb: cli.MemoryLimit = Request.memory_limit_gb,
    dry_run: cli.DryRun = False,
    json: cli.JsonPlan = False,
    force: cli.Force = False,
    quiet: cli.Quiet = False,
    progress: cli.ProgressOption = cli.ProgressKind.bar,
) -> None:
    """Write SOURCE at SCALE times its size to OUTPUT; a folder's pictures go into a folder under their own names."""
    given = {name: value for name, value in locals().items() if name in Request.__dataclass_fields__}
    folder = source.is_dir()
    with cli.report(None if folder else output, source=source, quiet=quiet, progress=progress) as runner:
        request = Request(**given, precision=cli.precision(fp16=fp16, bf16=False, fp32=fp32))
        pairs = in_folder(source, output) if folder else [(source, output)]
        still = folder or source.suffix.lower() in IMAGE_SUFFIXES
        stream = None if still else read_video(source)
        size = largest(pairs) if still else (stream.height, stream.width)
        intended = plan(*size, request)
        cure = "Pass a smaller --tile-size, --fp16, or a smaller picture."
        cli.preflight(intended, dry_run=dry_run, as_json=json, force=force, cure=cure)
        if still:
            return pictures(pairs, request, runner)
        film = upscale(stream, request, runner)
        film = film.replace(metadata=film.metadata | run_record("upscale", asdict(request)))
        write_video(film if force else validated(film), output, crf=crf, progress=runner.progress)


def in_folder(source: Path, output: Path) -> list[tuple[Path, Path]]:
    """Each picture of a folder and its place in another."""
    paths = image_paths(source)
    if output.exists() and output.samefile(source):
        raise MediaError(f"{output} is the input itself. Give --output another folder.")
    return [(path, output / path.name) for path in paths]


def largest(pairs: list[tuple[Path, Path]]) -> tuple[int, int]:
    """Height and width of the largest picture, every one of them looked at before the first is upscaled."""
    for _, target in pairs:
        check_image_name(target)
    return max((image_size(path) for path, _ in pairs), key=prod)


def pictures(pairs: list[tuple[Path, Path]], request: Request, runner: StageRunner) -> None:
    """Upscale picture files one after another."""
    larger = upscale_pictures((read_image(path) for path, _ in pairs), request, runner)
    with made_folder(pairs[0][1].parent):
        for (_, target), picture in zip(pairs, larger, strict=True):
            write_image(picture, target)


if __name__ == "__main__":
    cli.run(main)
