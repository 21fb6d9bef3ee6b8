"""Detail-fidelity rendering as the options ask for it: sizes, length and rounds, checked."""

from fractions import Fraction
from typing import Literal

from LTX_2_MLX.diffusion.dfr_rendering import Rendering
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.shapes import check_size

# Stage 1 is half as high and wide as stage 2, which is half as high and wide as a spatial doubling's result.
_HALVED = 2


def rendering_for(options: Options, models: Models, num_frames: int, frame_rate: Fraction) -> Rendering:
    """The rendering of ``num_frames`` pixel frames before the rounds double the frame rate.

    Raises:
        RequestError: If a size or the number of frames is not legal.
    """
    compression = models.compression
    check_size("num_frames", num_frames, compression.time, first=1)
    if num_frames == 1:
        raise RequestError(
            f"--pipeline dfr generates keyframes along a video, so it takes {compression.time + 1} frames or more. "
            f"Use --pipeline two-stage for a still image."
        )
    doubling = _HALVED if options.spatial_doubling else 1
    return Rendering(
        num_frames=num_frames,
        frame_rate=frame_rate,
        height=output_side(options, models, "height") // (doubling * compression.height),
        width=output_side(options, models, "width") // (doubling * compression.width),
        compression=compression,
        rounds=options.rounds,
        newer=options.reference is None,
    )


def output_side(options: Options, models: Models, name: Literal["height", "width"]) -> int:
    """Pixels of the output along one axis; where no size is given, stage 1 has the model's own.

    Raises:
        RequestError: If it is not legal; the message names the nearest ones.
    """
    smaller = _HALVED * (_HALVED if options.spatial_doubling else 1)
    for field in (f"output_{name}", name):
        side: int | None = getattr(options, field)
        if side is not None:
            check_size(f"--{field.replace('_', '-')}", side, smaller * getattr(models.compression, name))
            return side
    own: int = getattr(models.defaults, name)
    return smaller * own
