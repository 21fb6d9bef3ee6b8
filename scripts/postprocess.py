"""Make a video smoother and larger in one run, by RIFE and Real-ESRGAN."""

from dataclasses import asdict

from LTX_2_MLX import cli, read_video, write_video
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.encoder import CRF
from LTX_2_MLX.media.record import run_record
from LTX_2_MLX.media.validate import validated
from LTX_2_MLX.pipelines.postprocess import Request, plan, postprocess


def main(
    video: cli.InputVideo,
    output: cli.Output,
    enable_frame_interpolation: cli.EnableFrameInterpolation = False,
    frame_interpolation_exp: cli.FrameInterpolationExp = Request.frame_interpolation_exp,
    frame_interpolation_scale: cli.FrameInterpolationScale = Request.frame_interpolation_scale,
    frame_interpolation_model_path: cli.FrameInterpolationModel = Request.frame_interpolation_model_path,
    enable_upscaling: cli.EnableUpscaling = False,
    upscaling_scale: cli.UpscalingScale = Request.upscaling_scale,
    upscaling_model_path: cli.UpscalingModel = Request.upscaling_model_path,
    order: cli.PostprocessingOrder = cli.Order.interpolate_first,
    crf: cli.Crf = CRF,
    memory_limit_gb: cli.MemoryLimit = Request.memory_limit_gb,
    dry_run: cli.DryRun = False,
    json: cli.JsonPlan = False,
    force: cli.Force = False,
    quiet: cli.Quiet = False,
    progress: cli.ProgressOption = cli.ProgressKind.bar,
) -> None:
    """Write VIDEO to OUTPUT with what is enabled done to it; its sound stays as it is."""
    given = {name: value for name, value in locals().items() if name in Request.__dataclass_fields__}
    with cli.report(output, source=video, quiet=quiet, progress=progress) as runner:
        request = Request(**given | {"order": order.value})
        if not request.anything:
            raise RequestError("Nothing is enabled. Pass --enable-frame-interpolation, --enable-upscaling or both.")
        stream = read_video(video)
        intended = plan(stream, request)
        cure = "Run interpolate.py and upscale.py one after the other, or pass a smaller video."
        cli.preflight(intended, dry_run=dry_run, as_json=json, force=force, cure=cure)
        film = postprocess(stream, request, runner)
        film = film.replace(metadata=film.metadata | run_record("postprocess", asdict(request)))
        write_video(film if force else validated(film), output, crf=crf, progress=runner.progress)


if __name__ == "__main__":
    cli.run(main)
