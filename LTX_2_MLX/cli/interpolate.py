"""Interpolate the frames of a video with RIFE."""

from typing import Any

from LTX_2_MLX.cli.command import command, preflight, report, write_result
from LTX_2_MLX.cli.options import VideoOptions
from LTX_2_MLX.pipelines.requests import InterpolateRequest
from LTX_2_MLX.runtime import launch


def interpolate(typed: dict[str, Any], own: VideoOptions) -> None:
    """Write VIDEO to OUTPUT with (N - 1) * 2 ** exp + 1 frames for N; its own frames and its audio stay as they are."""
    request = InterpolateRequest(**typed)
    from LTX_2_MLX.media.video import read_video
    from LTX_2_MLX.pipelines import interpolate as pipeline
    from LTX_2_MLX.pipelines.sharing import agree, with_least_memory

    with report(
        own.output, source=own.video, quiet=own.quiet, progress=own.progress, yes=own.yes, page=own.report
    ) as runner:
        shared = request if launch.RANK is None else with_least_memory(request)
        stream = read_video(own.video, repair=own.repair, deinterlace=own.deinterlace, bit_depth=own.bit_depth)
        preflight(pipeline.plan_for(stream, shared), own, "Pass --scale 0.5, --fp16, or a smaller video.", runner)
        if launch.RANK is not None:
            agree(request, own.video, pipeline.weight_files(request))
        write_result(pipeline.interpolate(stream, shared, runner), request, "interpolate", own, runner)


main = command("interpolate", interpolate, VideoOptions, InterpolateRequest)
