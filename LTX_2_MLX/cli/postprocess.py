"""Interpolate and upscale a video in one run, with RIFE and Real-ESRGAN."""

from typing import Any

from LTX_2_MLX.cli.command import command, preflight, report, write_result
from LTX_2_MLX.cli.options import VideoOptions
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.requests import PostprocessRequest
from LTX_2_MLX.runtime import launch


def postprocess(typed: dict[str, Any], own: VideoOptions) -> None:
    """Interpolate or upscale VIDEO, or both, and write it to OUTPUT; its audio stays as it is."""
    request = PostprocessRequest(**typed)
    if not request.anything:
        raise RequestError("Nothing is enabled. Pass --enable-frame-interpolation, --enable-upscaling or both.")
    from LTX_2_MLX.media.video import read_video
    from LTX_2_MLX.pipelines import postprocess as pipeline
    from LTX_2_MLX.pipelines.sharing import agree, with_least_memory

    with report(
        own.output, source=own.video, quiet=own.quiet, progress=own.progress, yes=own.yes, page=own.report
    ) as runner:
        shared = request if launch.RANK is None else with_least_memory(request)
        stream = read_video(own.video, repair=own.repair, deinterlace=own.deinterlace, bit_depth=own.bit_depth)
        preflight(
            pipeline.plan_for(stream, shared),
            own,
            "Run interpolate and upscale one after the other, or pass a smaller video.",
            runner,
        )
        if launch.RANK is not None:
            agree(request, own.video, pipeline.weight_files(request))
        write_result(pipeline.postprocess(stream, shared, runner), request, "postprocess", own, runner)


main = command("postprocess", postprocess, VideoOptions, PostprocessRequest)
