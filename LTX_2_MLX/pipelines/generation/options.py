"""Options of ``generate``: one frozen dataclass under the names of the flags."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.options import AUTO, Opt, check_options, declared_options, refuse_without_effect
from LTX_2_MLX.pipelines.requests import (
    FILE_HELP,
    MEMORY_GROUP,
    AnyPrecision,
    EnableFrameInterpolation,
    EnableUpscaling,
    FrameInterpolationExp,
    FrameInterpolationModel,
    FrameInterpolationScale,
    MemoryLimit,
    PostprocessRequest,
    Precision,
    Seed,
    TileSize,
    UpscalingModel,
    UpscalingScale,
)

__all__ = ["Options", "PipelineName", "Precision"]

PipelineName = Literal["one-stage", "text-to-video", "distilled", "two-stage"]
ONE_STAGE = ("one-stage", "text-to-video", "distilled")
_VIDEO, _GUIDANCE, _MODEL, _SAVED = "Video", "Steps and guidance", "Model files", "Saved results"
_MAX_SIDE, _MAX_FRAMES = 16384, 100_001


@dataclass(frozen=True)
class Options:
    """All options of a generated video, under the names of the flags. None: the model or the pipeline decides.

    Attributes:
        prompt: Text prompt.
        pipeline: ``one-stage`` (also called ``text-to-video``), ``distilled`` or ``two-stage``.
        height, width: Pixels of stage 1 in ``two-stage``, whose output is larger; of the output otherwise.
        output_height, output_width: Pixels of the output instead.
        frames: Pixel frames, 8k + 1.
        duration: Seconds instead of frames; rounded up to 8k + 1 frames.
        fps: Frames per second.
        motion_speed: Speed of motion, 1 for the trained one; the frame rate of playback and the audio stay.
        keyframes: Keyframes that LTX-2.5 generates beside the video in its first stage; 0 for none.
        steps: Of ``one-stage`` (30) and ``distilled`` (8).
        steps_stage1, steps_stage2: Of ``two-stage`` (15, or 8 with a distilled checkpoint and no guidance; 3).
        cfg: Guidance scale, 1 for none; 5 for dev checkpoints, 1 for distilled ones.
        cfg_stage1: The same for stage 1 of ``two-stage``, instead of ``cfg``. Stage 2 is never guided.
        guidance_rescale: 0 to 1; 0.7 against oversaturation.
        stg_scale: Spatio-temporal guidance; 0 for none.
        negative_prompt: Negative prompt for classifier-free guidance.
        image: Image for the first frame.
        image_strength: Conditioning strength of ``image``.
        audio: Whether the video gets sound; by default where the checkpoint makes it.
        save_audio: Where to write the sound as a .wav file, too.
        lora: Adapters of the transformer, ``path`` or ``path:strength``.
        model_variant: ``dev`` or ``distilled``: picks the file, or says what the given one is.
        weights, video_vae, spatial_upscaler_weights, temporal_weights, distilled_lora, gemma: A path, a catalogue
            name, a repository or ``repository:file``; ``auto`` finds what is on this machine. ``weights`` may be
            several of these, or a folder with the files of a model, each recognised by what it holds.
        precision: ``fp16``, ``bf16`` or ``fp32``; the file's own 16-bit type on a GPU, float32 for small
            models and on a CPU unless given.
        quantize: 8 or 4: bits of the transformer's and the text encoder's large layers; None keeps the precision.
        low_ram: Read the blocks of both from disk while they run, instead of holding them.
        temporal_upscale: Double the frame rate in latent space before decoding.
        tile_size: Side of the decoder's tiles in pixels; whole frames wherever memory allows unless given.
        memory_limit_gb: GiB that the run may use, instead of the memory detected.
        fit: Change a plan that exceeds it to the nearest that fits, and say so.
        seed: The same seed gives the same video.
        embeddings: A file with the prompt's embeddings, instead of the text encoder.
        save_embeddings: Where to write them.
        save_latents: Folder in which every stage's result is saved.
        resume: The same folder again, to go on from the last complete stage.
        enable_frame_interpolation, frame_interpolation_exp, frame_interpolation_scale,
        frame_interpolation_model_path: Interpolate frames with RIFE; see ``pipelines.postprocess``.
        enable_upscaling, upscaling_scale, upscaling_model_path: Upscale frames with Real-ESRGAN after that.
    """

    prompt: Annotated[str, Opt("Text prompt.", positional=True, metavar="[PROMPT]", replaces=("embeddings",))]
    pipeline: Annotated[
        PipelineName, Opt("Generation pipeline; text-to-video is another name of one-stage.", group=_VIDEO)
    ] = "two-stage"
    height: Annotated[
        int | None,
        Opt(
            "Height in pixels (two-stage: of stage 1).",
            group=_VIDEO,
            default="the model's, usually 480",
            max=_MAX_SIDE,
            replaces=("output_height",),
        ),
    ] = None
    width: Annotated[
        int | None,
        Opt(
            "Width in pixels (two-stage: of stage 1).",
            group=_VIDEO,
            default="the model's, usually 704",
            max=_MAX_SIDE,
            replaces=("output_width",),
        ),
    ] = None
    output_height: Annotated[
        int | None,
        Opt("Height of the output, instead of --height.", group=_VIDEO, max=_MAX_SIDE, replaces=("height",)),
    ] = None
    output_width: Annotated[
        int | None,
        Opt("Width of the output, instead of --width.", group=_VIDEO, max=_MAX_SIDE, replaces=("width",)),
    ] = None
    frames: Annotated[
        int | None,
        Opt(
            "Number of frames, 8k + 1.",
            group=_VIDEO,
            flags=("--frames", "--num-frames"),
            default="the model's, usually 97",
            max=_MAX_FRAMES,
            replaces=("duration",),
        ),
    ] = None
    duration: Annotated[
        float | None,
        Opt(
            "Length in seconds, instead of --frames; rounded up to 8k + 1 frames.",
            group=_VIDEO,
            metavar="SECONDS",
            above=0,
            max=3600,
            replaces=("frames",),
        ),
    ] = None
    fps: Annotated[
        Fraction | float | str | None,
        Opt(
            "Frames per second, such as 24 or 24000/1001.",
            group=_VIDEO,
            flags=("--fps", "--frame-rate"),
            metavar="RATE",
            default="the model's, usually 24",
            is_rate=True,
        ),
    ] = None
    motion_speed: Annotated[
        float,
        Opt("Speed of motion at the same frame rate; 0.2 is five times slower.", group=_VIDEO, above=0, max=100),
    ] = 1.0
    keyframes: Annotated[
        int,
        Opt("Keyframes that LTX-2.5 generates beside the video, evenly spread.", group=_VIDEO, min=0, max=1000),
    ] = 0
    steps: Annotated[
        int | None,
        Opt(
            "Denoising steps of one-stage and distilled.",
            group=_GUIDANCE,
            default="30, distilled 8",
            min=1,
            max=1000,
            only_in=ONE_STAGE,
        ),
    ] = None
    steps_stage1: Annotated[
        int | None,
        Opt(
            "Denoising steps of stage 1.",
            group=_GUIDANCE,
            default="15, distilled 8",
            min=1,
            max=1000,
            only_in=("two-stage",),
        ),
    ] = None
    steps_stage2: Annotated[
        int | None,
        Opt(
            "Denoising steps of stage 2.",
            group=_GUIDANCE,
            default="3",
            min=1,
            max=1000,
            only_in=("two-stage",),
        ),
    ] = None
    cfg: Annotated[
        float | None,
        Opt(
            "Scale of classifier-free guidance; 1 disables it.",
            group=_GUIDANCE,
            default="5, distilled 1",
            min=0,
            max=100,
            replaces=("cfg_stage1",),
        ),
    ] = None
    cfg_stage1: Annotated[
        float | None,
        Opt(
            "Scale of classifier-free guidance in stage 1.",
            group=_GUIDANCE,
            default="the value of --cfg",
            min=0,
            max=100,
            only_in=("two-stage",),
            replaces=("cfg",),
        ),
    ] = None
    guidance_rescale: Annotated[
        float,
        Opt("Rescale after guidance; 0.7 against oversaturation.", group=_GUIDANCE, min=0, max=1),
    ] = 0.0
    stg_scale: Annotated[
        float,
        Opt("Scale of spatio-temporal guidance; 0 disables it.", group=_GUIDANCE, min=0, max=100),
    ] = 0.0
    negative_prompt: Annotated[
        str | None,
        Opt(
            "Negative prompt for classifier-free guidance.",
            group=_GUIDANCE,
            default="the reference's",
        ),
    ] = None
    image: Annotated[
        str | Path | None, Opt("Image for the first frame.", group=_VIDEO, metavar="FILE", is_file=True)
    ] = None
    image_strength: Annotated[
        float,
        Opt("Conditioning strength of --image.", group=_VIDEO, min=0, max=1, needs="image"),
    ] = 1.0
    audio: Annotated[
        bool | None,
        Opt(
            "Generate sound with the video.",
            group=_VIDEO,
            flags=("--audio", "--generate-audio"),
            default="on where the checkpoint has an audio VAE and a vocoder",
        ),
    ] = None
    save_audio: Annotated[
        str | Path | None,
        Opt(
            "Save the sound as a .wav file, too.",
            group=_VIDEO,
            metavar="FILE",
            is_output=True,
            recorded=False,
        ),
    ] = None
    lora: Annotated[
        tuple[str, ...],
        Opt(
            "LoRA of the transformer, merged while loading; repeatable; none drops those of a replayed video.",
            group=_MODEL,
            metavar="PATH[:SCALE]",
            is_file=True,
        ),
    ] = ()
    model_variant: Annotated[
        Literal["dev", "distilled"] | None,
        Opt(
            "Which checkpoint to use, or what kind --weights is.",
            group=_MODEL,
            default="from the file",
            replaces=("weights",),
        ),
    ] = None
    weights: Annotated[
        str | tuple[str, ...],
        Opt(
            f"LTX-2 checkpoint: {FILE_HELP}; repeatable for a model in several files.",
            group=_MODEL,
            is_file=True,
            one_or_more=True,
            replaces=("model_variant",),
        ),
    ] = AUTO
    video_vae: Annotated[
        str,
        Opt(
            f"Video autoencoder, if it is not in --weights or another one is wanted: {FILE_HELP}.",
            group=_MODEL,
            flags=("--video-vae",),
            is_file=True,
        ),
    ] = AUTO
    spatial_upscaler_weights: Annotated[
        str,
        Opt(
            f"Spatial latent upscaler for two-stage: {FILE_HELP}.",
            group=_MODEL,
            is_file=True,
            only_in=("two-stage",),
            reported=True,
        ),
    ] = AUTO
    temporal_weights: Annotated[
        str,
        Opt(
            f"Temporal latent upscaler: {FILE_HELP}.",
            group=_MODEL,
            is_file=True,
            needs="temporal_upscale",
            reported=True,
        ),
    ] = AUTO
    distilled_lora: Annotated[
        str,
        Opt(
            f"Distillation LoRA for dev checkpoints: {FILE_HELP}; a strength may follow a colon.",
            group=_MODEL,
            is_file=True,
            only_in=("two-stage", "distilled"),
            reported=True,
        ),
    ] = AUTO
    gemma: Annotated[
        str,
        Opt(
            f"Folder or file of the text encoder: {FILE_HELP}.",
            group=_MODEL,
            is_file=True,
            replaces=("embeddings",),
        ),
    ] = AUTO
    precision: AnyPrecision = None
    quantize: Annotated[
        int | None,
        Opt(
            "Quantize the large layers while loading: 8 bits (weights off by 0.6 %), or 4 (9.9 %).",
            group=MEMORY_GROUP,
            flags=("--quantize", "-q"),
            metavar="BITS",
        ),
    ] = None
    low_ram: Annotated[
        bool, Opt("Stream transformer and text encoder blocks from disk in every step.", group=MEMORY_GROUP)
    ] = False
    temporal_upscale: Annotated[
        bool,
        Opt("Double the frame rate in latent space before decoding.", group=_VIDEO),
    ] = False
    tile_size: TileSize = None
    memory_limit_gb: MemoryLimit = None
    fit: Annotated[
        bool,
        Opt(
            "Adjust quantization, tiling and length until the run fits in memory.",
            group=MEMORY_GROUP,
            recorded=False,
        ),
    ] = False
    seed: Seed = 0
    embeddings: Annotated[
        str | Path | None,
        Opt(
            "Prompt embeddings saved by an earlier run, instead of the text encoder.",
            group=_SAVED,
            metavar="FILE",
            is_file=True,
            replaces=("gemma", "save_embeddings"),
        ),
    ] = None
    save_embeddings: Annotated[
        str | Path | None,
        Opt(
            "Save the prompt embeddings to this file.",
            group=_SAVED,
            metavar="FILE",
            is_output=True,
            recorded=False,
            replaces=("embeddings",),
        ),
    ] = None
    save_latents: Annotated[
        str | Path | None,
        Opt(
            "Save the result of every stage in this folder.",
            group=_SAVED,
            metavar="FOLDER",
            is_output=True,
            recorded=False,
        ),
    ] = None
    resume: Annotated[
        str | Path | None,
        Opt(
            "Continue an earlier run from the last complete stage in this folder.",
            group=_SAVED,
            metavar="FOLDER",
            is_output=True,
            recorded=False,
        ),
    ] = None
    enable_frame_interpolation: EnableFrameInterpolation = PostprocessRequest.enable_frame_interpolation
    frame_interpolation_exp: FrameInterpolationExp = PostprocessRequest.frame_interpolation_exp
    frame_interpolation_scale: FrameInterpolationScale = PostprocessRequest.frame_interpolation_scale
    frame_interpolation_model_path: FrameInterpolationModel = PostprocessRequest.frame_interpolation_model_path
    enable_upscaling: EnableUpscaling = PostprocessRequest.enable_upscaling
    upscaling_scale: UpscalingScale = PostprocessRequest.upscaling_scale
    upscaling_model_path: UpscalingModel = PostprocessRequest.upscaling_model_path

    def __post_init__(self) -> None:
        """Validate the fields; raises RequestError."""
        check_options(self)
        refuse_without_effect(self)
        self._refuse_other_pipelines()
        if self.audio is False and self.save_audio is not None:
            raise RequestError("--save-audio and --no-audio are mutually exclusive. Leave one out.")
        self._refuse_both("save_latents", "resume")
        self._refuse_both("frames", "duration")
        self._refuse_both("height", "output_height")
        self._refuse_both("width", "output_width")
        self._refuse_both("embeddings", "save_embeddings")

    @property
    def post_processes(self) -> bool:
        """Whether anything is done to the decoded frames."""
        return self.enable_frame_interpolation or self.enable_upscaling

    @property
    def finishing(self) -> PostprocessRequest:
        """Post-processing of the frames: interpolation, then upscaling."""
        names = declared_options(PostprocessRequest).keys() & declared_options(Options).keys()
        return PostprocessRequest(**{name: getattr(self, name) for name in names})

    @property
    def two_stages(self) -> bool:
        """Whether the pipeline has two stages."""
        return self.pipeline == "two-stage"

    def _refuse_other_pipelines(self) -> None:
        """Refuse an option that only other pipelines have: it would be ignored."""
        for name, declared in declared_options(Options).items():
            only_in = declared.opt.only_in
            if declared.opt.reported:
                continue
            if only_in and self.pipeline not in only_in and getattr(self, name) != declared.default:
                others = " and ".join(other for other in only_in if other != "text-to-video")
                raise RequestError(
                    f"{declared.flag} belongs to {others}, but --pipeline is {self.pipeline}. Leave it out."
                )

    def _refuse_both(self, first: str, second: str) -> None:
        if getattr(self, first) is not None and getattr(self, second) is not None:
            flags = [declared_options(Options)[name].flag for name in (first, second)]
            raise RequestError(f"{flags[0]} and {flags[1]} are mutually exclusive. Leave one out.")
