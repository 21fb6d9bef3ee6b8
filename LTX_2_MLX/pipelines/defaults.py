"""What holds where the user says nothing: set by the checkpoint's generation, or by the model itself."""

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from LTX_2_MLX.diffusion import schedule
from LTX_2_MLX.diffusion.guidance import Guidance
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.pipelines.stages import SamplerName

NEGATIVE_PROMPT = (
    "subtitles, blurred picture, out of focus, too bright, too dark, low contrast, washed out colours, noise, grain, "
    "flicker, smeared motion, wrong proportions, deformed face, extra limbs, deformed hands, garbled lettering, "
    "inconsistent perspective, shaking camera, cluttered background, harsh shadows, colour banding, cartoon look, "
    "computer-generated look, unnatural skin, jerky movement, sudden cuts, muffled sound, distorted voice, echo, "
    "background noise, sound out of step with the picture"
)
DISTILLED_STEPS = len(schedule.DISTILLED) - 1

# Since which model_version: the CRF of image conditioning, the block that spatio-temporal guidance bypasses in a
# network of 48, the sampler of distilled stage 1 (Lightricks/LTX-2, packages/ltx-pipelines/src/ltx_pipelines/
# utils/constants.py and distilled.py at 400fd31).
_GENERATIONS: tuple[tuple[tuple[int, ...], int, int, SamplerName], ...] = (
    ((2, 5), 18, 28, "ancestral"),
    ((2, 4), 18, 28, "euler"),
    ((2, 3), 33, 28, "euler"),
    ((), 33, 29, "euler"),
)
_PUBLISHED_BLOCKS = 48


@dataclass(frozen=True)
class ModelDefaults:
    """What one checkpoint implies.

    Attributes:
        height, width: Pixels of a one-stage film, and of stage 1 in two stages.
        num_frames: Length of a film.
        frame_rate: Frames per second.
        steps: Of one stage; stage 1 of two has ``steps_stage1``, its refinement ``steps_stage2``.
        refinement: Noise levels of stage 2, from the one that stage 1's latent is taken to, to 0.
        cfg: Guidance scale of a dev checkpoint.
        negative_prompt: What guidance leads away from.
        image_crf: Compression that image conditioning goes through.
        stg_block: Which of 48 blocks spatio-temporal guidance bypasses.
        distilled_sampler: How a distilled checkpoint samples its first stage.
        notice: What a user of this model has to know.
    """

    image_crf: int
    stg_block: int
    distilled_sampler: SamplerName
    height: int = 480
    width: int = 704
    num_frames: int = 97
    frame_rate: Fraction = Fraction(24)
    steps: int = 30
    steps_stage1: int = 15
    steps_stage2: int = 3
    refinement: tuple[float, ...] = schedule.REFINEMENT
    cfg: float = 5.0
    negative_prompt: str = NEGATIVE_PROMPT
    notice: str = ""

    @classmethod
    def from_header(cls, header: Header) -> "ModelDefaults":
        """By ``model_version`` in the file's metadata, and by ``defaults`` there, a JSON object of our own.

        ``defaults`` may hold any of this class's fields from ``height`` on; ``frame_rate`` may be text such as
        "24000/1001". A model that is small, or not yet trained, says so in ``notice``.

        Raises:
            CheckpointError: If ``defaults`` is not such an object.
        """
        version = version_of(header)
        crf, block, sampler = next(rest for since, *rest in _GENERATIONS if version >= since)
        own = {"image_crf": crf, "stg_block": block, "distilled_sampler": sampler}
        return cls(**own, **_own_defaults(header.metadata.get("defaults", "{}")))

    def stg_blocks(self, num_layers: int) -> tuple[int, ...]:
        """The bypassed block in a network of ``num_layers``: at the same share of its depth."""
        return (self.stg_block * num_layers // _PUBLISHED_BLOCKS,)


def version_of(header: Header) -> tuple[int, ...]:
    """``model_version`` as numbers, (2, 4) for "2.4-rc2"; () where it is missing or unreadable, before all others."""
    found = re.match(r"\d+(\.\d+)*", header.metadata.get("model_version", ""))
    return tuple(map(int, found.group().split("."))) if found else ()


def _own_defaults(text: str) -> dict:
    readers = dict.fromkeys(("height", "width", "num_frames", "steps", "steps_stage1", "steps_stage2"), int)
    readers |= {"refinement": _falling}
    readers |= {"frame_rate": lambda rate: Fraction(str(rate)), "cfg": float, "negative_prompt": str, "notice": str}
    try:
        given = dict(json.loads(text).items())
        found = {name: read(given[name]) for name, read in readers.items() if name in given}
    except (AttributeError, ValueError, TypeError, ZeroDivisionError, RecursionError) as error:
        raise CheckpointError(f"The checkpoint's own defaults cannot be read: {text:.60} ({error}).") from error
    if any(value <= 0 for value in found.values() if not isinstance(value, (str, tuple))):
        raise CheckpointError(f"The checkpoint's own defaults cannot be right: {text:.60}.")
    return found


def _falling(values: list[float]) -> tuple[float, ...]:
    """Noise levels as they have to be: falling, from at most 1 to 0."""
    sigmas = tuple(float(value) for value in values)
    if not (len(sigmas) > 1 and sigmas[0] <= 1 and sigmas[-1] == 0 and all(a > b for a, b in pairwise(sigmas))):
        raise ValueError("noise levels that do not fall from at most 1 to 0")
    return sigmas


def stage_sigmas(steps: int | None, guidance: Guidance, *, distilled: bool, usual: int) -> tuple[float, ...]:
    """The schedule of a one-stage film, or of stage 1.

    A distilled checkpoint without guidance takes the list it was made for, stretched where ``steps`` is not its 8;
    everything else the shifted schedule, in ``usual`` steps unless told.
    """
    if distilled and guidance == Guidance():
        return _stretched(schedule.DISTILLED, steps or DISTILLED_STEPS)
    return tuple(schedule.ltx2_schedule(usual if steps is None else steps).tolist())


def refinement_sigmas(sigmas: tuple[float, ...], steps: int) -> tuple[float, ...]:
    """The schedule of stage 2, stretched where ``steps`` is not its own."""
    return _stretched(sigmas, steps)


def _stretched(sigmas: tuple[float, ...], steps: int) -> tuple[float, ...]:
    return sigmas if steps == len(sigmas) - 1 else tuple(schedule.resampled(sigmas, steps).tolist())
