"""A finished video to a smoother and larger one: RIFE and Real-ESRGAN in one run.

Both work frame by frame on the same stream, so neither holds the video, and their order does not matter for memory.
"""

from pathlib import Path

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.writer import waiting_bytes
from LTX_2_MLX.pipelines import interpolate, upscale
from LTX_2_MLX.pipelines.requests import PostprocessRequest as Request
from LTX_2_MLX.pipelines.stage import Stage
from LTX_2_MLX.planning.plan import Plan, plan
from LTX_2_MLX.runtime.runner import StageRunner, run_stages
from LTX_2_MLX.runtime.this_machine import budget_bytes


def postprocess(stream: FrameStream, request: Request, runner: StageRunner | None = None) -> FrameStream:
    """The video after all that ``request`` enables; with nothing enabled, the video itself.

    Raises:
        CheckpointError: If a file is missing or of another network. Errors in the input are raised while reading.
    """
    return run_stages(stages(stream, request), runner or StageRunner(), stream)


def weight_files(request: Request) -> list[Path]:
    """Files of the networks. Raises CheckpointError if one is missing."""
    files = []
    if request.interpolation is not None:
        files += interpolate.weight_files(request.interpolation)
    if request.upscaling is not None:
        files += upscale.weight_files(request.upscaling)
    return files


def plan_for(stream: FrameStream, request: Request) -> Plan:
    """Memory of the run, stage by stage.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit it.
    """
    return plan(
        stages(stream, request),
        budget_bytes=budget_bytes(request.memory_limit_gb),
        source_bytes=stream.decoding_bytes,
        writer_bytes=waiting_bytes(*request.size(stream.height, stream.width), stream.bit_depth),
    )


def stages(stream: FrameStream, request: Request) -> list[Stage]:
    """Interpolation and upscaling of a video of this size, length and rate, in the order of ``request.order``."""
    upscales_first = request.order == "upscale-first"
    interpolation: list[Stage] = []
    if request.interpolation is not None:
        height, width = stream.height, stream.width
        if upscales_first:
            height, width = request.size(height, width)
        clip = stream.replace(chunks=(), height=height, width=width)
        interpolation += interpolate.stages(clip, request.interpolation)
    upscaling: list[Stage] = []
    if request.upscaling is not None:
        upscaling += upscale.stages(stream.height, stream.width, request.upscaling)
    return [*upscaling, *interpolation] if upscales_first else [*interpolation, *upscaling]
