"""Double the frame rate of a video in latent space, with LTX-2's autoencoder and temporal upscaler."""

from typing import Any

from LTX_2_MLX.cli.command import command, preflight, report, write_result
from LTX_2_MLX.cli.options import VideoOptions
from LTX_2_MLX.pipelines.requests import UpscaleTemporalRequest
from LTX_2_MLX.runtime import launch


def upscale_temporal(typed: dict[str, Any], own: VideoOptions) -> None:
    """Write VIDEO with twice the frame rate to OUTPUT: 2 N - 1 frames for N, same duration, same audio."""
    request = UpscaleTemporalRequest(**typed)
    from LTX_2_MLX.media.video import read_video
    from LTX_2_MLX.pipelines import upscale_temporal as pipeline
    from LTX_2_MLX.pipelines.sharing import agree, with_least_memory

    with report(
        own.output, source=own.video, quiet=own.quiet, progress=own.progress, yes=own.yes, page=own.report
    ) as runner:
        shared = request if launch.RANK is None else with_least_memory(request)
        stream = read_video(own.video, repair=own.repair, deinterlace=own.deinterlace, bit_depth=own.bit_depth)
        preflight(
            pipeline.plan_for(stream, shared), own, "Pass a smaller --tile-size, --fp16, or a smaller video.", runner
        )
        if launch.RANK is not None:
            agree(request, own.video, pipeline.weight_files(stream, request))
        write_result(pipeline.upscale_temporal(stream, shared, runner), request, "upscale_temporal", own, runner)


main = command("upscale_temporal", upscale_temporal, VideoOptions, UpscaleTemporalRequest)
