"""Generation request: options with every size, rate and default settled, and every file opened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.diffusion.dfr_layout import even_slots
from LTX_2_MLX.diffusion.dfr_rendering import Rendering
from LTX_2_MLX.diffusion.sampler import UNGUIDED, Guidance, passes
from LTX_2_MLX.diffusion.state import VideoGrid
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.ltx.config import TransformerConfig
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.generation.companion_files import upscaler_config
from LTX_2_MLX.pipelines.generation.files import Models, asks_duration_head, open_models, version_of
from LTX_2_MLX.pipelines.generation.given import Given, given_by
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace, image_places
from LTX_2_MLX.pipelines.generation.option_groups.guidance import TWO_STAGES
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.state import SamplerName
from LTX_2_MLX.pipelines.options import flag_of
from LTX_2_MLX.shapes import StreamName, VideoShape, check_size, frames_lasting

if TYPE_CHECKING:
    from LTX_2_MLX.pipelines.generation.control import Control
    from LTX_2_MLX.pipelines.generation.preview import Previews

AttentionMode = Literal["chunked", "combined"]
SPATIAL_FLAG = "--spatial-upscaler-weights"
# What guidance a distilled checkpoint does without, whatever its generation.
_UNGUIDED: dict[str, Any] = {"cfg": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
_AUDIO_OPTIONS = ("audio_cfg", "audio_stg_blocks", "modality_scale")


@dataclass(frozen=True)
class DurationLimits:
    """Seconds between which a duration head decides."""

    min_seconds: float = 1.0
    max_seconds: float = 20.0


@dataclass(frozen=True)
class Request:
    """A video to generate.

    Attributes:
        two_stages: Denoise at a low resolution, upscale the latent and refine it; otherwise denoise in one stage.
        models: The files.
        prompt: Text prompt.
        negative_prompt: Negative prompt for classifier-free guidance.
        num_frames: Pixel frames before the frame rate is doubled; the most that there may be, with ``duration``.
        frame_rate: Frames per second, likewise.
        duration: Limits of the length that the duration head has yet to decide; None: ``num_frames`` is settled.
        motion_speed: Times of the video's positions are multiplied by it; audio and playback keep theirs.
        slots: Pixel frames of the keyframes generated in the first stage.
        height, width: Pixels of the first stage; of the output in detail-fidelity rendering.
        steps: Of the first stage; None: the checkpoint's default.
        steps_stage2: Of the second stage, likewise.
        sampler: Of the first stage, with the high-quality pipeline of both; None: the pipeline's.
        guidance: Of each stream in the first stage. The second one is not guided.
        guided_share: From where to where in the first stage's steps it is guided, in [0, 1].
        step_cache: Change of the first stage's input below which its steps reuse block outputs; None: none does.
        seed: Of all noise.
        images: Conditioning images.
        control: Reference video of an IC-LoRA.
        audio: Decode the sound, too.
        temporal_upscale: Double the frame rate in latent space before decoding.
        decoder_attention: ``chunked`` or ``combined``, of the diffusion decoder.
        tile_size: Side of the decoder's tiles in pixels; None: whole frames wherever memory allows.
        decode_dtype: ``float32``, or None: that of the networks.
        memory_limit_gb: Memory limit in GiB; None: detected.
        cache: Take the prompt's contexts from the cache, and keep new ones there.
        embeddings: File with the prompt's contexts, instead of the text encoder.
        save_embeddings: Where to write the contexts.
        rendering: Detail-fidelity rendering instead of one stage or two.
        spatial_doubling: Its last stage, which doubles the size.
        enhancer: Folder of the chat model that rewrites the prompt first; None: the prompt is as it stays.
        previews: Contact sheets of the clean estimate during denoising; None: none.
        given: Sound that the video follows, or a clip; None: only the prompt and images are given.
        prompts: Texts to encode: the negative prompt only where guidance uses it.
        grid: Latent grid of the first stage.
        output_grid: Latent grid of the last denoising stage; that of the finished video in detail-fidelity rendering.
        output_shape: Size of the decoded video, its frame rate doubled if so requested.
        output_rate: Frames per second of the decoded video.
    """

    two_stages: bool
    models: Models
    prompt: str
    negative_prompt: str
    num_frames: int
    frame_rate: Fraction
    height: int
    width: int
    motion_speed: float = 1.0
    slots: tuple[int, ...] = ()
    steps: int | None = None
    steps_stage2: int | None = None
    sampler: SamplerName | None = None
    guidance: Mapping[StreamName, Guidance] = field(default_factory=UNGUIDED.copy)
    guided_share: tuple[float, float] = (0.0, 1.0)
    step_cache: float | None = None
    seed: int = 0
    images: tuple[ImagePlace, ...] = ()
    control: "Control | None" = None
    audio: bool = False
    temporal_upscale: bool = False
    duration: DurationLimits | None = None
    decoder_attention: AttentionMode = "chunked"
    tile_size: int | None = None
    decode_dtype: Literal["float32"] | None = None
    memory_limit_gb: float | None = None
    cache: bool = False
    embeddings: Path | None = None
    save_embeddings: Path | None = None
    rendering: Rendering | None = None
    spatial_doubling: bool = False
    enhancer: Path | None = None
    previews: "Previews | None" = None
    given: Given | None = None
    prompts: tuple[str, ...] = field(init=False)
    grid: VideoGrid = field(init=False)
    output_grid: VideoGrid = field(init=False)
    output_shape: VideoShape = field(init=False)
    output_rate: Fraction = field(init=False)

    def __post_init__(self) -> None:
        """Validate the fields, and settle what follows from them; raises RequestError."""
        self._check()
        has_negative = "negative" in passes(self.guidance)
        compression = self.models.compression
        shape = VideoShape(self.num_frames, self.height, self.width).latent(compression)
        grid = output_grid = VideoGrid(shape, compression, self.frame_rate)
        rate = self.frame_rate * (2 if self.temporal_upscale else 1)
        if self.rendering is not None:
            output_grid = replace(grid, shape=replace(shape, num_frames=self.rendering.final_latents))
            rate = self.frame_rate * 2**self.rendering.rounds
        elif self.two_stages and self.models.spatial_upscaler is not None:
            config = upscaler_config(self.models.spatial_upscaler, temporal=False, flag=SPATIAL_FLAG)
            output_grid = replace(grid, shape=config.output_shape(shape))
        output_shape = output_grid.shape.pixels(compression)
        if self.rendering is None and self.given is not None and self.given.clip is not None:
            output_shape = self.given.clip.shape
        elif self.rendering is None and self.temporal_upscale:
            output_shape = replace(output_shape, num_frames=2 * output_shape.num_frames - 1)
        settled = {
            "prompts": (self.prompt, self.negative_prompt) if has_negative else (self.prompt,),
            "grid": grid,
            "output_grid": output_grid,
            "output_shape": output_shape,
            "output_rate": rate,
        }
        for name, value in settled.items():
            # Frozen from here on.
            object.__setattr__(self, name, value)

    def _check(self) -> None:
        if not self.prompt.strip():
            raise RequestError("The prompt is empty. Describe the video.")
        if not 0 < self.frame_rate <= 1000:
            raise RequestError(f"The frame rate is {float(self.frame_rate):g}, expected above 0 up to 1000.")
        if self.guided_share != (0.0, 1.0) and len(passes(self.guidance)) == 1:
            raise RequestError(
                f"--guidance-start and --guidance-end choose the steps that are guided, but with "
                f"{self.models.weights.path.name} and these options none is. Leave them out, or pass --cfg above 1."
            )
        if self.two_stages and self.models.spatial_upscaler is None:
            raise RequestError(f"Two-stage pipeline requires {SPATIAL_FLAG}")
        if self.two_stages and not self.models.distilled and self.models.distilled_lora is None:
            raise RequestError(
                f"Stage 2 with the dev checkpoint {self.models.weights.path.name} needs --distilled-lora "
                f"(ltx-2-19b-distilled-lora-384.safetensors for LTX-2 19B). If the checkpoint is a distilled one, "
                f"pass --model-variant distilled."
            )


def request_for(options: Options, note: Callable[[str], None] = lambda text: None) -> Request:
    """The request that the options make. ``note`` gets a line on each automatic choice.

    Raises:
        RequestError: If the options cannot be carried out as given.
        CheckpointError: If a file is missing, or is not what its flag says.
    """
    models = open_models(options, note)
    defaults = models.defaults
    if defaults.notice:
        note(defaults.notice)
    given = None
    if options.audio_input is not None or options.has_clip:
        options, given = given_by(options, models, note)
    frame_rate = defaults.frame_rate if options.fps is None else Fraction(options.fps)
    num_frames, duration = _length(options, models, frame_rate, note)
    return Request(
        two_stages=options.pipeline in TWO_STAGES,
        models=models,
        prompt=options.prompt,
        negative_prompt=defaults.negative_prompt if options.negative_prompt is None else options.negative_prompt,
        num_frames=num_frames,
        frame_rate=frame_rate,
        duration=duration,
        height=_side(options, models, "height"),
        width=_side(options, models, "width"),
        motion_speed=options.motion_speed,
        steps=options.steps_stage1 if options.pipeline in TWO_STAGES else options.steps,
        steps_stage2=options.steps_stage2,
        sampler=options.sampler,
        guidance=settled_guidance(options, models, note, frozen_audio=given is not None and given.frozen_audio),
        guided_share=(options.guidance_start, options.guidance_end),
        seed=options.seed,
        audio=(given is None or given.written is None) and _has_audio(options, models, num_frames, note),
        temporal_upscale=options.temporal_upscale,
        tile_size=options.tile_size,
        decode_dtype=options.decode_dtype,
        memory_limit_gb=options.memory_limit_gb,
        cache=options.cache,
        embeddings=Path(options.embeddings) if options.embeddings else None,
        save_embeddings=Path(options.save_embeddings) if options.save_embeddings else None,
        spatial_doubling=options.spatial_doubling,
        given=given,
        **_asked_for(options, models, num_frames, frame_rate, duration, note),
    )


def _asked_for(
    options: Options,
    models: Models,
    num_frames: int,
    frame_rate: Fraction,
    duration: DurationLimits | None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Parts of a request that a plain run lacks."""
    parts: dict[str, Any] = {}
    if options.step_cache is not None:
        if models.distilled:
            raise RequestError(
                f"--step-cache needs close steps, but {models.weights.path.name} is distilled: its few steps lie far "
                f"apart. Leave it out."
            )
        parts["step_cache"] = options.step_cache
    if options.keyframes:
        parts["slots"] = _slots(options, models, num_frames)
    if options.image is not None:
        parts["images"] = _images(options, num_frames, duration)
    if options.control is not None:
        parts["control"] = _control(options, models, num_frames, frame_rate, note)
    if options.decoder_attention is not None:
        parts["decoder_attention"] = _decoder_attention(options, models)
    if options.pipeline == "dfr":
        parts["rendering"] = _rendering(options, models, num_frames, frame_rate)
    if options.enhance_prompt:
        parts["enhancer"] = _enhancer(models)
    if options.preview is not None:
        parts["previews"] = _previews(Path(options.preview), options, models, note)
    return parts


def _rendering(options: Options, models: Models, num_frames: int, frame_rate: Fraction) -> Rendering:
    if options.spatial_doubling and models.decodes_by_diffusion:
        raise RequestError(
            f"--spatial-doubling needs the convolutional decoder, but {models.video_vae.path.name} holds the diffusion "
            f"decoder. Give --video-vae the other file."
        )
    from LTX_2_MLX.pipelines.generation.rendering_request import rendering_for

    return rendering_for(options, models, num_frames, frame_rate)


def _length(
    options: Options, models: Models, frame_rate: Fraction, note: Callable[[str], None]
) -> tuple[int, DurationLimits | None]:
    """Number of frames, and the limits of the duration head where it has yet to decide: then it is the longest.

    Without a head it is the model's usual one, and a line says so where a head would decide.
    """
    if options.frames is not None:
        return options.frames, None
    if options.duration is not None:
        return frames_lasting(Fraction(str(options.duration)), frame_rate, models.compression), None
    if models.duration_head is None:
        for name in ("min_duration", "max_duration"):
            if getattr(options, name) is not None:
                raise RequestError(
                    f"{flag_of(name)} needs a duration head, but there is none. Give its file with --duration-head, or "
                    f"the length with --frames or --duration."
                )
        usual = models.defaults.num_frames
        if asks_duration_head(options, models.weights):
            note(f"Without a duration head the video has {usual} frames. Give --duration-head FILE, or --frames.")
        return usual, None
    from LTX_2_MLX.models.ltx.duration_head import longest_answer

    limits = DurationLimits(
        min_seconds=DurationLimits.min_seconds if options.min_duration is None else options.min_duration,
        max_seconds=DurationLimits.max_seconds if options.max_duration is None else options.max_duration,
    )
    return longest_answer(limits.min_seconds, limits.max_seconds, frame_rate), limits


def _decoder_attention(options: Options, models: Models) -> AttentionMode:
    if not models.decodes_by_diffusion:
        raise RequestError(
            f"--decoder-attention belongs to the diffusion decoder, but {models.video_vae.path.name} holds the "
            f"convolutional one. Leave it out."
        )
    assert options.decoder_attention is not None
    return options.decoder_attention


def _enhancer(models: Models) -> Path:
    from LTX_2_MLX.pipelines.generation.enhance import chat_model

    return chat_model(models)


def _previews(folder: Path, options: Options, models: Models, note: Callable[[str], None]) -> "Previews":
    from LTX_2_MLX.pipelines.generation.preview import Previews

    return Previews.of(folder, options.preview_every, models, note)


def _images(options: Options, num_frames: int, duration: DurationLimits | None) -> tuple[ImagePlace, ...]:
    """Conditioning images at their frames.

    Raises:
        RequestError: If a frame other than the first is asked for before the length is known.
    """
    given = options.image if isinstance(options.image, tuple) else (options.image,)
    images = image_places([str(each) for each in given], num_frames, options.image_strength)
    if duration is not None and any(image.frame for image in images):
        raise RequestError("--image after the first frame needs the video's length. Give --frames or --duration.")
    return images


def _control(
    options: Options, models: Models, num_frames: int, frame_rate: Fraction, note: Callable[[str], None]
) -> "Control":
    from LTX_2_MLX.pipelines.generation.control import control_for

    shape = VideoShape(num_frames, _side(options, models, "height"), _side(options, models, "width"))
    return control_for(options, models, shape, frame_rate, note)


def _slots(options: Options, models: Models, num_frames: int) -> tuple[int, ...]:
    if not config_of(Transformer, models.weights).keyframe_embedding:
        raise RequestError(f"{models.weights.path.name} generates no keyframes. Leave out --keyframes, or use LTX-2.5.")
    if options.keyframes > num_frames - 2:
        raise RequestError(
            f"--keyframes is {options.keyframes}, but {num_frames} frames have room for {max(num_frames - 2, 0)}."
        )
    return tuple(even_slots(options.keyframes, num_frames))


def _has_audio(options: Options, models: Models, num_frames: int, note: Callable[[str], None]) -> bool:
    """Whether the video gets sound; a single frame is a still image and has none."""
    if options.audio is False:
        return False
    if models.has_sound and num_frames > 1:
        return True
    if options.save_audio is not None or (options.audio and num_frames > 1):
        flag = "--save-audio" if options.save_audio is not None else "--audio"
        reason = f"a single frame has no sound. Leave {flag} out"
        if not models.has_sound:
            reason = (
                f"{models.weights.path.name} has no audio VAE and vocoder. Give --audio-vae FILE, or leave {flag} out"
            )
        raise RequestError(f"{flag} is given, but {reason}.")
    if num_frames > 1 and version_of(models.weights.header) >= (2, 5):
        note("The video has no sound: its networks are in a file of their own. Give it with --audio-vae.")
    return False


def _side(options: Options, models: Models, name: Literal["height", "width"]) -> int:
    """Pixels of the first stage along one axis; of the output in detail-fidelity rendering."""
    if options.pipeline == "dfr":
        from LTX_2_MLX.pipelines.generation.rendering_request import output_side

        return output_side(options, models, name)
    cell = getattr(models.compression, name)
    output = getattr(options, f"output_{name}")
    if output is not None:
        scale = Fraction(1)
        if options.pipeline in TWO_STAGES and models.spatial_upscaler is not None:
            scale = upscaler_config(models.spatial_upscaler, temporal=False, flag=SPATIAL_FLAG).scale
        # Output sizes that a whole number of stage-1 cells leads to.
        check_size(f"--output-{name}", output, scale.numerator * cell)
        return int(output / scale)
    side = getattr(options, name)
    if side is None:
        side = getattr(models.defaults, name)
    check_size(f"--{name}", side, cell)
    return side


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
