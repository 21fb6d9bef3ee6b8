"""A finished clip to a smoother and larger one: RIFE and Real-ESRGAN in one run.

Both work frame by frame on the same stream, so neither holds the clip, and their order does not matter for memory.
"""

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.pipelines import interpolate, upscale
from LTX_2_MLX.pipelines.requests import PostprocessRequest as Request
from LTX_2_MLX.planning.plan import Plan, count_streams_together
from LTX_2_MLX.runtime.memory import budget_bytes
from LTX_2_MLX.runtime.runner import StageRunner


def plan(stream: FrameStream, request: Request) -> Plan:
    """What the run does, in its order.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit it.
    """
    interpolation, upscaling = request.interpolation, request.upscaling
    height, width = stream.height, stream.width
    if request.order == "upscale-first":
        larger = request.size(height, width)
        stream = stream.replace(height=larger[0], width=larger[1])
    plans = [interpolate.plan(stream, interpolation)] if interpolation else []
    plans += [upscale.plan(height, width, upscaling)] if upscaling else []
    plans = plans[::-1] if request.order == "upscale-first" else plans
    return Plan(
        sizes=tuple(line for each in plans for line in each.sizes),
        stages=count_streams_together([stage for each in plans for stage in each.stages]),
        budget_bytes=budget_bytes(request.memory_limit_gb),
    )


def postprocess(stream: FrameStream, request: Request, runner: StageRunner | None = None) -> FrameStream:
    """The clip with everything done to it that ``request`` enables; with nothing enabled, the clip itself.

    Raises:
        CheckpointError: If a file is missing or of another network. What reading the clip tells is raised then.
    """
    runner = runner or StageRunner()
    steps = []
    if (interpolation := request.interpolation) is not None:
        steps.append(lambda clip: interpolate.interpolate(clip, interpolation, runner))
    if (upscaling := request.upscaling) is not None:
        steps.append(lambda clip: upscale.upscale(clip, upscaling, runner))
    for step in steps[::-1] if request.order == "upscale-first" else steps:
        stream = step(stream)
    return stream
