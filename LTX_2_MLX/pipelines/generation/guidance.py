"""Guidance of both streams, settled from the options and the checkpoint's defaults."""

from collections.abc import Callable

from LTX_2_MLX.checkpoints.recognise import config_of
from LTX_2_MLX.diffusion.guidance import Guidance, passes
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.options import flag_of
from LTX_2_MLX.shapes import StreamName

_AUDIO_OPTIONS = ("audio_cfg", "audio_stg_blocks", "modality_scale")


def settled_guidance(
    options: Options,
    models: Models,
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
    if not has_audio:
        _refuse_audio_options(options, models)
    defaults = models.defaults
    stg_scale = _given(options.stg_scale, 0.0 if models.distilled else defaults.stg_scale)
    blocks = _blocks(options.stg_blocks, "--stg-blocks", config.num_layers) or defaults.stg_blocks(config.num_layers)
    audio_blocks = _blocks(options.audio_stg_blocks, "--audio-stg-blocks", config.num_layers) or blocks
    scale = _video_scale(options, models, note)
    modality_scale = _given(options.modality_scale, 1.0 if models.distilled else defaults.modality_scale)
    video = Guidance(
        guidance_scale=scale,
        guidance_rescale=_given(options.guidance_rescale, 0.0 if models.distilled else defaults.guidance_rescale),
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


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _refuse_audio_options(options: Options, models: Models) -> None:
    for name in _AUDIO_OPTIONS:
        if getattr(options, name) is not None:
            flag = flag_of(name)
            file = models.weights.path.name
            raise RequestError(f"{flag} is given, but {file} has no audio stream. Leave {flag} out.")


def _blocks(blocks: tuple[int, ...] | None, flag: str, num_layers: int) -> tuple[int, ...]:
    for block in blocks or ():
        if not 0 <= block < num_layers:
            raise RequestError(f"{flag} is {block}, but this checkpoint has blocks 0 to {num_layers - 1}.")
    return blocks or ()


def _video_scale(options: Options, models: Models, note: Callable[[str], None]) -> float:
    scale = options.cfg if options.cfg_stage1 is None else options.cfg_stage1
    if scale is None:
        return 1.0 if models.distilled else models.defaults.cfg
    if scale > 1 and models.distilled:
        note(
            f"Guidance {scale:g} with a distilled checkpoint costs twice the time and tends to harsh colours: "
            f"it was made for --cfg 1."
        )
    return scale


def _audio_scale(options: Options, models: Models, video_scale: float) -> float:
    """That of the video where the generation has none of its own, and where it is turned off."""
    if options.audio_cfg is not None:
        return options.audio_cfg
    own = models.defaults.audio_cfg
    return video_scale if own is None or models.distilled or video_scale == 1 else own


def _audio_rescale(options: Options, models: Models, video: Guidance) -> float:
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
