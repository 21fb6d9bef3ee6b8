"""Make a video smoother: new frames between its own, by RIFE."""

from dataclasses import asdict

from LTX_2_MLX import cli, read_video, write_video
from LTX_2_MLX.media.encoder import CRF
from LTX_2_MLX.media.record import run_record
from LTX_2_MLX.media.validate import validated
from LTX_2_MLX.pipelines.interpolate import Request, interpolate, plan


def main(
    video: cli.InputVideo,
    output: cli.Output,
    exp: cli.InterpolationExp = Request.exp,
    scale: cli.InterpolationScale = Request.scale,
    target_fps: cli.TargetFps = None,
    scene_threshold: cli.SceneThreshold = Request.scene_threshold,
    model_path: cli.InterpolationModel = Request.model_path,
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
    """Write VIDEO to OUTPUT with (N - 1) * 2 ** exp + 1 frames for N; its own frames and its sound stay as they are."""
    with cli.report(output, source=video, quiet=quiet, progress=progress) as runner:
        request = Request(
            model_path=model_path,
            exp=exp,
            scale=scale,
            target_fps=target_fps,
            scene_threshold=scene_threshold,
            precision=cli.precision(fp16=fp16, bf16=False, fp32=fp32),
            memory_limit_gb=memory_limit_gb,
        )
        stream = read_video(video)
        intended = plan(stream, request)
        cure = "Pass --scale 0.5, --fp16, or a smaller video."
        cli.preflight(intended, dry_run=dry_run, as_json=json, force=force, cure=cure)
        film = interpolate(stream, request, runner)
        film = film.replace(metadata=film.metadata | run_record("interpolate", asdict(request)))
        write_video(film if force else validated(film), output, crf=crf, progress=runner.progress)


if __name__ == "__main__":
    cli.run(main)
