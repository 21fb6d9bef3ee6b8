"""Default settings of a checkpoint, by its generation and by what its own file says."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from LTX_2_MLX.diffusion.sampler import REFINEMENT
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.outside import fraction, parse_object
from LTX_2_MLX.pipelines.generation.state import SamplerName

NEGATIVE_PROMPT = (
    "subtitles, blurred picture, out of focus, too bright, too dark, low contrast, washed out colours, noise, grain, "
    "flicker, smeared motion, wrong proportions, deformed face, extra limbs, deformed hands, garbled lettering, "
    "inconsistent perspective, shaking camera, cluttered background, harsh shadows, colour banding, cartoon look, "
    "computer-generated look, unnatural skin, jerky movement, sudden cuts, muffled sound, distorted voice, echo, "
    "background noise, sound out of step with the picture"
)
# Since which model_version, what differs from 2.0: the CRF of image conditioning, the block that spatio-temporal
# guidance bypasses in a network of 48, the sampler of distilled stage 1, steps and guidance (Lightricks/LTX-2,
# packages/ltx-pipelines/src/ltx_pipelines/utils/constants.py and distilled.py at 400fd31).
_SINCE_2_3: dict[str, Any] = {
    "stg_block": 28,
    "steps_stage1": 30,
    "cfg": 3.0,
    "audio_cfg": 7.0,
    "stg_scale": 1.0,
    "modality_scale": 3.0,
    "guidance_rescale": 0.7,
}
_GENERATIONS: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 5), _SINCE_2_3 | {"image_crf": 18, "distilled_sampler": "ancestral"}),
    ((2, 4), _SINCE_2_3 | {"image_crf": 18}),
    ((2, 3), _SINCE_2_3),
    ((), {}),
)
# The high-quality pipeline, for every generation (utils/constants.py, ti2vid_two_stages_hq.py).
HIGH_QUALITY: dict[str, Any] = {
    "steps_stage1": 15,
    "cfg": 3.0,
    "audio_cfg": 7.0,
    "stg_scale": 0.0,
    "modality_scale": 3.0,
    "guidance_rescale": 0.45,
    "audio_rescale": 1.0,
}
_PUBLISHED_BLOCKS = 48


@dataclass(frozen=True)
class ModelDefaults:
    """Default settings of one checkpoint.

    Attributes:
        image_crf: Compression that image conditioning goes through.
        stg_block: The block of 48 that spatio-temporal guidance bypasses.
        distilled_sampler: Sampler of a distilled checkpoint's first stage.
        height, width: Pixels of a one-stage video, and of stage 1 in two stages.
        num_frames: Length of a video.
        frame_rate: Frames per second.
        steps: Of one stage; stage 1 of two has ``steps_stage1``, its refinement ``steps_stage2``.
        refinement: Noise levels of stage 2, from the one that stage 1's latent is taken to, to 0.
        cfg: Guidance scale of a dev checkpoint; likewise all the following.
        audio_cfg: That of the audio stream; None: as the video's.
        stg_scale: Spatio-temporal guidance of both streams.
        modality_scale: Guidance between the streams.
        guidance_rescale: Rescale after guidance.
        audio_rescale: That of the audio stream; None: as the video's.
        negative_prompt: Negative prompt for classifier-free guidance.
        notice: A line for users of this model.
    """

    image_crf: int = 33
    stg_block: int = 29
    distilled_sampler: SamplerName = "euler"
    height: int = 480
    width: int = 704
    num_frames: int = 97
    frame_rate: Fraction = Fraction(24)
    steps: int = 30
    steps_stage1: int = 15
    steps_stage2: int = 3
    refinement: tuple[float, ...] = REFINEMENT
    cfg: float = 5.0
    audio_cfg: float | None = None
    stg_scale: float = 0.0
    modality_scale: float = 1.0
    guidance_rescale: float = 0.0
    audio_rescale: float | None = None
    negative_prompt: str = NEGATIVE_PROMPT
    notice: str = ""

    @classmethod
    def from_header(cls, header: Header) -> "ModelDefaults":
        """By ``model_version`` in the file's metadata, and by ``defaults`` there, a JSON object of our own.

        ``defaults`` may hold sizes, steps, ``refinement``, ``cfg``, ``audio_cfg`` and texts; ``frame_rate`` may be text
        such as "24000/1001".

        Raises:
            CheckpointError: If ``defaults`` is not such an object.
        """
        version = version_of(header)
        for generation in _GENERATIONS:
            if version >= generation[0]:
                break
        own = _own_defaults(header.metadata.get("defaults", "{}"))
        return cls(**generation[1] | own)

    def stg_blocks(self, num_layers: int) -> tuple[int, ...]:
        """The bypassed block in a network of ``num_layers``: at the same share of its depth."""
        return (self.stg_block * num_layers // _PUBLISHED_BLOCKS,)


def version_of(header: Header) -> tuple[int, ...]:
    """``model_version`` as numbers, (2, 4) for "2.4-rc2"; () where it is missing or unreadable, before all others."""
    match = re.match(r"\d+(\.\d+)*", header.metadata.get("model_version", ""))
    return tuple(map(int, match.group().split("."))) if match else ()


def _own_defaults(text: str) -> dict[str, Any]:
    own: dict[str, Any] = {}
    try:
        settings = parse_object(text)
        for name in settings.keys() & _READERS.keys():
            own[name] = _READERS[name](settings[name])
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f"The checkpoint's own defaults cannot be read: {text:.60} ({error}).") from error
    for value in own.values():
        if not isinstance(value, str | tuple) and value <= 0:
            raise CheckpointError(f"The checkpoint's own defaults are out of range: {text:.60}.")
    return own


def _read_rate(rate: float | str) -> Fraction:
    return fraction(str(rate))


def _read_sigmas(values: list[float]) -> tuple[float, ...]:
    """Noise levels that fall from at most 1 to 0."""
    sigmas = tuple(map(float, values))
    falls = list(sigmas) == sorted(set(sigmas), reverse=True)
    if len(sigmas) < 2 or sigmas[0] > 1 or sigmas[-1] != 0 or not falls:
        raise ValueError("noise levels that do not fall from at most 1 to 0")
    return sigmas


_READERS: dict[str, Callable[[Any], Any]] = {
    "height": int,
    "width": int,
    "num_frames": int,
    "frame_rate": _read_rate,
    "steps": int,
    "steps_stage1": int,
    "steps_stage2": int,
    "refinement": _read_sigmas,
    "cfg": float,
    "audio_cfg": float,
    "negative_prompt": str,
    "notice": str,
}
