"""Double a video's frame rate in latent space, with LTX-2's video autoencoder and temporal upscaler."""

from dataclasses import asdict

from LTX_2_MLX import cli, read_video, write_video
from LTX_2_MLX.media.encoder import CRF
from LTX_2_MLX.media.record import run_record
from LTX_2_MLX.media.validate import validated
from LTX_2_MLX.pipelines.upscale_temporal import Request, plan, upscale_temporal


def main(
    video: cli.InputVideo,
    output: cli.Output,
    weights: cli.Weights = Request.weights,
    temporal_weights: cli.TemporalWeights = Request.temporal_weights,
    fp16: cli.Fp16 = False,
    bf16: cli.Bf16 = False,
    fp32: cli.Fp32 = False,
    tile_size: cli.TileSize = Request.tile_size,
    seed: cli.Seed = Request.seed,
    crf: cli.Crf = CRF,
    memory_limit_gb: cli.MemoryLimit = Request.memory_limit_gb,
    dry_run: cli.DryRun = False,
    json: cli.JsonPlan = False,
    force: cli.Force = False,
    quiet: cli.Quiet = False,
    progress: cli.ProgressOption = cli.ProgressKind.bar,
) -> None:
    """Write VIDEO with twice the frame rate to OUTPUT: 2 N - 1 frames for N, same duration, same sound."""
    with cli.report(output, source=video, quiet=quiet, progress=progress) as runner:
        request = Request(
            weights=weights,
            temporal_weights=temporal_weights,
            precision=cli.precision(fp16=fp16, bf16=bf16, fp32=fp32),
            tile_size=tile_size,
            seed=seed,
            memory_limit_gb=memory_limit_gb,
        )
        stream = read_video(video)
        run = plan(stream, request)
        cure = "Pass a smaller --tile-size, --fp16, or a smaller video."
        cli.preflight(run, dry_run=dry_run, as_json=json, force=force, cure=cure)
        film = upscale_temporal(stream, request, runner)
        film = film.replace(metadata=film.metadata | run_record("upscale_temporal", asdict(request)))
        write_video(film if force else validated(film), output, crf=crf, progress=runner.progress)


if __name__ == "__main__":
    cli.run(main)
