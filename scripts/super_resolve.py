"""Make a video sharper and larger, by FlashVSR."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import typer

from LTX_2_MLX import cli, write_video
from LTX_2_MLX.media.encoder import crf_of_quality
from LTX_2_MLX.media.image import IMAGE_SUFFIXES, StillImage, write_image
from LTX_2_MLX.media.output import free_bytes, made_folder
from LTX_2_MLX.media.record import run_record
from LTX_2_MLX.media.validate import validated
from LTX_2_MLX.pipelines.super_resolve import Request, advice, prepare, super_resolve
from LTX_2_MLX.pipelines.super_resolve.places import check_kind, output_path, read_clip
from LTX_2_MLX.runtime.memory import budget_bytes
from LTX_2_MLX.runtime.spool import spool_folder


def main(
    input: cli.InputClip,
    output: cli.OutputClip = Path("results"),
    mode: cli.Mode = cli.SuperResolutionMode.tiny,
    vae_type: cli.VaeType = Request.vae_type,
    vae_path: cli.VaePath = Request.vae_path,
    weights: cli.SuperResolutionWeights = Request.weights,
    version: cli.VersionOption = cli.SuperResolutionVersion.v1_1,
    scale: cli.SuperResolutionScale = Request.scale,
    attention: cli.AttentionOption = cli.SparseAttention.block,
    keep_audio: cli.KeepAudio = True,
    color_fix: cli.ColorFixOption = cli.ColorFix.wavelet,
    tile_dit: cli.TileDit = Request.tile_dit,
    tile_vae: cli.TileVae = Request.tile_vae,
    tile_size: cli.SuperResolutionTileSize = Request.tile_size,
    overlap: cli.Overlap = Request.overlap,
    sparse_ratio: cli.SparseRatio = Request.sparse_ratio,
    kv_ratio: cli.KvRatio = Request.kv_ratio,
    local_range: cli.LocalRange = Request.local_range,
    quality: cli.Quality = 6,
    fps: cli.FolderFps = "30",
    dtype: cli.DtypeOption = Request.dtype,
    unload_dit: cli.UnloadDit = Request.unload_dit,
    seed: cli.Seed = Request.seed,
    borders: cli.Borders = cli.PictureBorders.pad,
    resize: cli.Resize = cli.PictureResize.floats,
    memory_limit_gb: cli.MemoryLimit = None,
    fit: cli.FitMemory = False,
    dry_run: cli.DryRun = False,
    json: cli.JsonPlan = False,
    force: cli.Force = False,
    quiet: cli.Quiet = False,
    progress: cli.ProgressOption = cli.ProgressKind.bar,
) -> None:
    """Write INPUT at SCALE times its size, with as many frames and its sound."""
    given = {name: value for name, value in locals().items() if name in Request.__dataclass_fields__}
    request = Request(**{name: getattr(value, "value", value) for name, value in given.items()})
    target = output_path(input, output, request)
    place = nullcontext() if dry_run else made_folder(target.parent)
    with place, cli.report(None if dry_run else target, source=input, quiet=quiet, progress=progress) as runner:
        stream = read_clip(input, fps)
        crf, budget = crf_of_quality(quality), budget_bytes(memory_limit_gb)
        check_kind(target, stream, request, crf)
        disk, refuse = free_bytes(spool_folder()), not (dry_run or force)
        ready = prepare(stream, request, budget, disk, fit=fit, refuse=refuse)
        request = ready.request
        if dry_run:
            typer.echo(cli.told(ready.plan, as_json=json))
            if not json:
                typer.echo(advice(stream, request, ready.plan, budget))
            raise typer.Exit
        if ready.flags:
            runner.progress.note(f"Fitted into memory by {ready.flags}.")
        for line in ready.plan.rows():
            runner.progress.note(line)
        film = super_resolve(stream if keep_audio else stream.replace(audio=None), request, runner)
        film = film.replace(metadata=film.metadata | run_record("super_resolve", asdict(request)))
        film = film if force else validated(film)
        if target.suffix.lower() in IMAGE_SUFFIXES:
            write_image(StillImage(film.array()[0]), target)
        else:
            write_video(film, target, crf=crf, progress=runner.progress)


if __name__ == "__main__":
    cli.run(main)
