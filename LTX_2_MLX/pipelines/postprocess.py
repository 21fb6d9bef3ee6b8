"""A finished clip to a smoother and larger one: RIFE and Real-ESRGAN in one run.

Both work frame by frame on the same stream, so neither holds the clip, and their order does not matter for memory.
"""

from dataclasses import dataclass, fields
from typing import Literal

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.pipelines import interpolate, upscale
from LTX_2_MLX.planning.plan import Plan, count_streams_together
from LTX_2_MLX.runtime.memory import budget_bytes
from LTX_2_MLX.runtime.runner import StageRunner

Order = Literal["interpolate-first", "upscale-first"]


@dataclass(frozen=True)
class Request:
    """What is done to a clip, under the names of the flags.

    Attributes:
        enable_frame_interpolation: Make it smoother.
        frame_interpolation_exp: Times that the number of frames is doubled.
        frame_interpolation_scale: Size at which motion is sought.
        frame_interpolation_model_path: Where RIFE's file is.
        enable_upscaling: Make it larger.
        upscaling_scale: Factor of the sides.
        upscaling_model_path: Where Real-ESRGAN's file is.
        order: What comes first. Interpolating first is cheaper, and what the networks were made for.
        memory_limit_gb: GiB that the run may use; None: what the machine lends.
    """

    enable_frame_interpolation: bool = False
    frame_interpolation_exp: int = interpolate.Request.exp
    frame_interpolation_scale: float = interpolate.Request.scale
    frame_interpolation_model_path: str = interpolate.Request.model_path
    enable_upscaling: bool = False
    upscaling_scale: float = upscale.Request.scale
    upscaling_model_path: str = upscale.Request.model_path
    order: Order = "interpolate-first"
    memory_limit_gb: float | None = None

    def __post_init__(self) -> None:
        """Raise ``RequestError`` for values that cannot be."""
        if self.order not in ("interpolate-first", "upscale-first"):
            raise RequestError(f"order is {self.order}, it can be interpolate-first or upscale-first.")
        self._refuse_unused(self.enable_frame_interpolation, "--enable-frame-interpolation", "frame_interpolation_")
        self._refuse_unused(self.enable_upscaling, "--enable-upscaling", "upscaling_")
        # Their own checks of values.
        _ = self.interpolation, self.upscaling

    def _refuse_unused(self, enabled: bool, switch: str, prefix: str) -> None:
        """An option of what is not enabled would be ignored, so it is refused."""
        for field in () if enabled else fields(self):
            if field.name.startswith(prefix) and getattr(self, field.name) != field.default:
                raise RequestError(f"--{field.name.replace('_', '-')} does nothing without {switch}. Pass both.")

    @property
    def anything(self) -> bool:
        """Whether there is anything to do."""
        return self.enable_frame_interpolation or self.enable_upscaling

    @property
    def interpolation(self) -> interpolate.Request | None:
        """What is asked of RIFE; None: nothing."""
        if not self.enable_frame_interpolation:
            return None
        return interpolate.Request(
            model_path=self.frame_interpolation_model_path,
            exp=self.frame_interpolation_exp,
            scale=self.frame_interpolation_scale,
            memory_limit_gb=self.memory_limit_gb,
        )

    @property
    def upscaling(self) -> upscale.Request | None:
        """What is asked of Real-ESRGAN; None: nothing."""
        if not self.enable_upscaling:
            return None
        return upscale.Request(
            model_path=self.upscaling_model_path, scale=self.upscaling_scale, memory_limit_gb=self.memory_limit_gb
        )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a clip when it is done."""
        upscaling = self.upscaling
        return upscale.upscaled_size(height, width, upscaling.scale) if upscaling else (height, width)

    def num_frames(self, given: int) -> int:
        """Frames of a clip when it is done."""
        return (given - 1) * 2**self.frame_interpolation_exp + 1 if self.enable_frame_interpolation else given


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
