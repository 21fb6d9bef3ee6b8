"""Default settings of a checkpoint, by its generation and by its own file, and guidance settled from them."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.diffusion.sampler import REFINEMENT, Guidance, passes
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.files import fraction, parse_object
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config import TransformerConfig
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.state import SamplerName
from LTX_2_MLX.pipelines.options import flag_of
from LTX_2_MLX.shapes import StreamName

if TYPE_CHECKING:
    from LTX_2_MLX.pipelines.generation.files import Models

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
# What guidance a distilled checkpoint does without, whatever its generation.
_UNGUIDED: dict[str, Any] = {"cfg": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
_PUBLISHED_BLOCKS = 48
_AUDIO_OPTIONS = ("audio_cfg", "audio_stg_blocks", "modality_scale")


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
        text = header.metadata.get("defaults", "{}")
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
        return cls(**generation[1] | own)

    def stg_blocks(self, num_layers: int) -> tuple[int, ...]:
        """The bypassed block in a network of ``num_layers``: at the same share of its depth."""
        return (self.stg_block * num_layers // _PUBLISHED_BLOCKS,)


def version_of(header: Header) -> tuple[int, ...]:
    """``model_version`` as numbers, (2, 4) for "2.4-rc2"; () where it is missing or unreadable, before all others."""
    match = re.match(r"\d+(\.\d+)*", header.metadata.get("model_version", ""))
    return tuple(map(int, match.group().split("."))) if match else ()


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
    "frame_rate": fraction,
    "steps": int,
    "steps_stage1": int,
    "steps_stage2": int,
    "refinement": _read_sigmas,
    "cfg": float,
    "audio_cfg": float,
    "negative_prompt": str,
    "notice": str,
}


def settled_guidance(
    options: Options,
    models: "Models",
    note: Callable[[str], None] = lambda text: None,
    *,
    frozen_audio: bool = False,
) -> dict[StreamName, Guidance]:
    """Guidance of each stream of the checkpoint. A distilled checkpoint has none unless it is asked for.

    Args:
        options: As given.
        models: The checkpoint.
        note: Callback for a line on what was taken.
        frozen_audio: The audio stream is given and only attended to: it is not guided.

    Raises:
        RequestError: If the checkpoint has no such block, or no audio stream to guide.
    """
    config = config_of(Transformer, models.weights)
    has_audio = config.audio is not None
    _check_guidance(options, config, models.weights.path.name)
    defaults = replace(models.defaults, **_UNGUIDED) if models.distilled else models.defaults
    stg_scale = defaults.stg_scale if options.stg_scale is None else options.stg_scale
    rescale = defaults.guidance_rescale if options.guidance_rescale is None else options.guidance_rescale
    modality_scale = defaults.modality_scale if options.modality_scale is None else options.modality_scale
    blocks = options.stg_blocks or defaults.stg_blocks(config.num_layers)
    audio_blocks = options.audio_stg_blocks or blocks
    asked = options.cfg if options.cfg_stage1 is None else options.cfg_stage1
    scale = defaults.cfg if asked is None else asked
    if scale > 1 and models.distilled:
        note(
            f"Guidance {scale:g} with a distilled checkpoint costs twice the time and tends to harsh colours: "
            f"it was made for --cfg 1."
        )
    video = Guidance(
        guidance_scale=scale,
        guidance_rescale=rescale,
        stg_scale=stg_scale,
        stg_blocks=blocks if stg_scale else (),
        modality_scale=modality_scale if has_audio else 1.0,
    )
    guidance: dict[StreamName, Guidance] = {"video": video}
    if frozen_audio:
        guidance["audio"] = Guidance()
    elif has_audio:
        guidance["audio"] = Guidance(
            guidance_scale=_audio_scale(options, models, scale),
            guidance_rescale=_audio_rescale(options, models, video),
            stg_scale=stg_scale,
            stg_blocks=audio_blocks if stg_scale else (),
            modality_scale=modality_scale,
        )
    if passes(guidance) != ["conditional"]:
        note(_described(guidance))
    return guidance


def _check_guidance(options: Options, config: TransformerConfig, file: str) -> None:
    """Refuse options of an audio stream that the network lacks, and numbers of blocks that it does not have."""
    for name in _AUDIO_OPTIONS:
        if config.audio is None and getattr(options, name) is not None:
            flag = flag_of(name)
            raise RequestError(f"{flag} is given, but {file} has no audio stream. Leave {flag} out.")
    for name in ("stg_blocks", "audio_stg_blocks"):
        for block in getattr(options, name) or ():
            if not 0 <= block < config.num_layers:
                last = config.num_layers - 1
                raise RequestError(f"{flag_of(name)} is {block}, but this checkpoint has blocks 0 to {last}.")


def _audio_scale(options: Options, models: "Models", video_scale: float) -> float:
    """That of the video where the generation has none of its own, and where it is turned off."""
    if options.audio_cfg is not None:
        return options.audio_cfg
    own = models.defaults.audio_cfg
    return video_scale if own is None or models.distilled or video_scale == 1 else own


def _audio_rescale(options: Options, models: "Models", video: Guidance) -> float:
    own = models.defaults.audio_rescale
    return video.guidance_rescale if own is None or options.guidance_rescale is not None else own


def _described(guidance: dict[StreamName, Guidance]) -> str:
    """``Guidance: --cfg 3 --audio-cfg 7 …``, what is off left out."""
    video = guidance["video"]
    audio = guidance.get("audio", video)
    if audio == Guidance():
        # It is off, or has no part in it.
        audio = video
    parts = [f"--cfg {video.guidance_scale:g}"]
    if audio.guidance_scale != video.guidance_scale:
        parts.append(f"--audio-cfg {audio.guidance_scale:g}")
    if video.stg_scale:
        parts.append(f"--stg-scale {video.stg_scale:g}")
        parts += [f"--stg-blocks {block}" for block in video.stg_blocks]
        if audio.stg_blocks != video.stg_blocks:
            parts += [f"--audio-stg-blocks {block}" for block in audio.stg_blocks]
    if video.modality_scale != 1:
        parts.append(f"--modality-scale {video.modality_scale:g}")
    if video.guidance_rescale:
        parts.append(f"--guidance-rescale {video.guidance_rescale:g}")
    return f"Guidance: {' '.join(parts)}"
