"""The public calls: options under the names of the commands' flags in, a ``FrameStream`` out.

They print nothing. Frames are made as they are read, or written by ``.save(path)``. The options of each call are the
fields of its dataclass of options, which says what they mean.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.image_folder import read_folder
from LTX_2_MLX.media.video import read_video
from LTX_2_MLX.pipelines import interpolate as interpolation
from LTX_2_MLX.pipelines import postprocess as postprocessing
from LTX_2_MLX.pipelines import super_resolve as super_resolution
from LTX_2_MLX.pipelines import upscale as upscaling
from LTX_2_MLX.pipelines import upscale_temporal as temporal_upscaling
from LTX_2_MLX.pipelines.generate import generate_video, prepare
from LTX_2_MLX.pipelines.generation.option_groups.guidance import SamplerName
from LTX_2_MLX.pipelines.generation.options import Options, PipelineName
from LTX_2_MLX.pipelines.options import options_of
from LTX_2_MLX.pipelines.requests import (
    Borders,
    ColorFix,
    HalfOrFull,
    InterpolateRequest,
    Order,
    PostprocessRequest,
    Precision,
    Resizing,
    SparseAttention,
    SuperResolutionMode,
    SuperResolveRequest,
    UpscaleRequest,
    UpscaleTemporalRequest,
    Version,
)
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner

# An open clip, a video file, or a folder of images.
Source = FrameStream | str | Path
AnyPath = str | Path
AnyPaths = AnyPath | Sequence[AnyPath]
OptionalPath = AnyPath | None
FrameRate = Fraction | float | str
# Left to the model or the pipeline.
OptionalInt = int | None
OptionalFloat = float | None
ModelVariant = Literal["dev", "distilled"]


def generate(
    prompt: str,
    *,
    progress: Progress | None = None,
    enhance_prompt: bool = False,
    pipeline: PipelineName = "two-stage",
    height: OptionalInt = None,
    width: OptionalInt = None,
    output_height: OptionalInt = None,
    output_width: OptionalInt = None,
    frames: OptionalInt = None,
    duration: OptionalFloat = None,
    min_duration: OptionalFloat = None,
    max_duration: OptionalFloat = None,
    fps: FrameRate | None = None,
    motion_speed: float = 1.0,
    keyframes: int = 0,
    rounds: int = 0,
    detailing_lora: AnyPath = "auto",
    spatial_doubling: bool = False,
    reference: Literal["400fd31"] | None = None,
    steps: OptionalInt = None,
    steps_stage1: OptionalInt = None,
    steps_stage2: OptionalInt = None,
    sampler: SamplerName | None = None,
    cfg: OptionalFloat = None,
    cfg_stage1: OptionalFloat = None,
    audio_cfg: OptionalFloat = None,
    guidance_rescale: OptionalFloat = None,
    stg_scale: OptionalFloat = None,
    stg_blocks: Sequence[int] | None = None,
    audio_stg_blocks: Sequence[int] | None = None,
    modality_scale: OptionalFloat = None,
    guidance_start: float = 0.0,
    guidance_end: float = 1.0,
    step_cache: OptionalFloat = None,
    negative_prompt: str | None = None,
    image: AnyPaths | None = None,
    image_strength: float = 1.0,
    control: OptionalPath = None,
    control_strength: float = 1.0,
    control_attention: float = 1.0,
    audio: bool | None = None,
    save_audio: OptionalPath = None,
    audio_input: OptionalPath = None,
    retake: OptionalPath = None,
    retake_from: OptionalFloat = None,
    retake_to: OptionalFloat = None,
    extend: OptionalPath = None,
    seconds: OptionalFloat = None,
    lora: Sequence[AnyPath] = (),
    model_variant: ModelVariant | None = None,
    weights: AnyPaths = "auto",
    video_vae: AnyPath = "auto",
    audio_vae: AnyPath = "auto",
    duration_head: AnyPath = "auto",
    spatial_upscaler_weights: AnyPath = "auto",
    temporal_weights: AnyPath = "auto",
    distilled_lora: AnyPath = "auto",
    gemma: AnyPath = "auto",
    precision: Precision | None = None,
    fp16: bool = False,
    bf16: bool = False,
    fp32: bool = False,
    quantize: OptionalInt = None,
    low_ram: bool = False,
    parallel: Literal["auto", "guidance", "sequence", "blocks"] = "auto",
    temporal_upscale: bool = False,
    video_decoder: Literal["auto", "conv", "diffusion"] = "auto",
    decoder_attention: Literal["chunked", "combined"] | None = None,
    tile_size: OptionalInt = None,
    decode_dtype: Literal["float32"] | None = None,
    memory_limit_gb: OptionalFloat = None,
    fit: bool = False,
    seed: int = 0,
    cache: bool = True,
    embeddings: OptionalPath = None,
    save_embeddings: OptionalPath = None,
    save_latents: OptionalPath = None,
    resume: OptionalPath = None,
    preview: OptionalPath = None,
    preview_every: int = 1,
    enable_frame_interpolation: bool = False,
    frame_interpolation_exp: int = 1,
    frame_interpolation_scale: float = 1.0,
    frame_interpolation_model_path: AnyPath = "elfgum/RIFE-4.22.lite",
    enable_upscaling: bool = False,
    upscaling_scale: float = 4.0,
    upscaling_model_path: AnyPath = "ai-forever/Real-ESRGAN:RealESRGAN_x4.pth",
) -> FrameStream:
    """Generate a video from a prompt.

    Args:
        prompt: Text prompt.
        progress: Reporter of stages, steps and automatic choices; see ``runtime.progress``.

    The other arguments are the fields of ``pipelines.generation.options.Options``; ``fp16=True`` is another form of
    ``precision="fp16"``.

    Returns:
        The video. Its latent is done; frames are decoded as they are read.

    Raises:
        RequestError: If the request cannot be carried out as given.
        CheckpointError: If a file is missing, damaged or of another network.
    """
    options = Options(**_given(Options, locals(), "generate"))
    runner = StageRunner(progress)
    prepared = prepare(options, runner.progress.note)
    return generate_video(prepared.request, runner, prepared.options)


def upscale_temporal(
    video: Source,
    *,
    progress: Progress | None = None,
    weights: AnyPath = "auto",
    temporal_weights: AnyPath = "auto",
    precision: Precision | None = None,
    fp16: bool = False,
    bf16: bool = False,
    fp32: bool = False,
    tile_size: int | None = None,
    seed: int = 0,
    memory_limit_gb: OptionalFloat = None,
) -> FrameStream:
    """Double the frame rate of a video in latent space: 2 N - 1 frames for N.

    Args:
        video: A clip, a video file or a folder of images.
        progress: Reporter of stages and steps; see ``runtime.progress``.

    The other arguments are the fields of ``pipelines.requests.UpscaleTemporalRequest``.
    """
    request = UpscaleTemporalRequest(**_given(UpscaleTemporalRequest, locals(), "upscale_temporal"))
    return temporal_upscaling.upscale_temporal(open_source(video), request, StageRunner(progress))


def interpolate(
    video: Source,
    *,
    progress: Progress | None = None,
    model_path: AnyPath = "elfgum/RIFE-4.22.lite",
    exp: int = 1,
    scale: float = 1.0,
    target_fps: FrameRate | None = None,
    scene_threshold: float = 0.2,
    precision: HalfOrFull | None = None,
    fp16: bool = False,
    fp32: bool = False,
    memory_limit_gb: OptionalFloat = None,
) -> FrameStream:
    """Interpolate the frames of a video with RIFE.

    Args:
        video: A clip, a video file or a folder of images.
        progress: Reporter of stages and steps; see ``runtime.progress``.

    The other arguments are the fields of ``pipelines.requests.InterpolateRequest``.
    """
    request = InterpolateRequest(**_given(InterpolateRequest, locals(), "interpolate"))
    return interpolation.interpolate(open_source(video), request, StageRunner(progress))


def upscale(
    video: Source,
    *,
    progress: Progress | None = None,
    model_path: AnyPath = "ai-forever/Real-ESRGAN:RealESRGAN_x4.pth",
    scale: float = 4.0,
    tile_size: int | None = None,
    tile_overlap: int | None = None,
    denoise_strength: OptionalFloat = None,
    weak_model_path: AnyPath = "realesr-general-wdn-x4v3",
    color_fix: ColorFix = "none",
    precision: HalfOrFull | None = None,
    fp16: bool = False,
    fp32: bool = False,
    memory_limit_gb: OptionalFloat = None,
) -> FrameStream:
    """Upscale a video frame by frame with Real-ESRGAN.

    Args:
        video: A clip, a video file or a folder of images.
        progress: Reporter of stages and steps; see ``runtime.progress``.

    The other arguments are the fields of ``pipelines.requests.UpscaleRequest``.
    """
    request = UpscaleRequest(**_given(UpscaleRequest, locals(), "upscale"))
    return upscaling.upscale(open_source(video), request, StageRunner(progress))


def postprocess(
    video: Source,
    *,
    progress: Progress | None = None,
    enable_frame_interpolation: bool = False,
    frame_interpolation_exp: int = 1,
    frame_interpolation_scale: float = 1.0,
    frame_interpolation_model_path: AnyPath = "elfgum/RIFE-4.22.lite",
    enable_upscaling: bool = False,
    upscaling_scale: float = 4.0,
    upscaling_model_path: AnyPath = "ai-forever/Real-ESRGAN:RealESRGAN_x4.pth",
    order: Order = "interpolate-first",
    memory_limit_gb: OptionalFloat = None,
) -> FrameStream:
    """Interpolate and upscale a video in one run.

    Args:
        video: A clip, a video file or a folder of images.
        progress: Reporter of stages and steps; see ``runtime.progress``.

    The other arguments are the fields of ``pipelines.requests.PostprocessRequest``.
    """
    request = PostprocessRequest(**_given(PostprocessRequest, locals(), "postprocess"))
    return postprocessing.postprocess(open_source(video), request, StageRunner(progress))


def super_resolve(
    video: Source,
    *,
    progress: Progress | None = None,
    weights: AnyPath = "auto",
    version: Version = "v1.1",
    mode: SuperResolutionMode = "tiny",
    vae_type: str | None = None,
    vae_path: OptionalPath = None,
    scale: float = 4.0,
    color_fix: ColorFix = "wavelet",
    tile_dit: bool = False,
    tile_vae: bool = True,
    tile_size: int = 256,
    overlap: int = 24,
    sparse_ratio: float = 2.0,
    kv_ratio: float = 3.0,
    local_range: int = 11,
    attention: SparseAttention = "block",
    dtype: Precision | None = None,
    unload_dit: bool = False,
    seed: int = 0,
    borders: Borders = "pad",
    resize: Resizing = "float",
) -> FrameStream:
    """Enlarge and restore a video with FlashVSR.

    Args:
        video: A clip, a video file or a folder of images.
        progress: Reporter of stages and steps; see ``runtime.progress``.

    The other arguments are the fields of ``pipelines.requests.SuperResolveRequest``.
    """
    request = SuperResolveRequest(**_given(SuperResolveRequest, locals(), "super_resolve"))
    return super_resolution.super_resolve(open_source(video), request, StageRunner(progress))


def open_source(video: Source) -> FrameStream:
    """The clip itself, or the one in a video file or a folder of images."""
    if isinstance(video, FrameStream):
        return video
    path = Path(video).expanduser()
    return read_folder(path) if path.is_dir() else read_video(path)


def _given(request: type, arguments: Mapping[str, Any], call: str) -> dict[str, Any]:
    """The arguments of a call that are fields of its request."""
    options = {name: value for name, value in arguments.items() if name not in ("video", "progress")}
    return options_of(request, options, call)
