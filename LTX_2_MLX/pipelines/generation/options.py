"""Options of ``generate``: one frozen dataclass under the names of the flags."""

from dataclasses import dataclass

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.generation.option_groups import (
    dfr,
    given,
    guidance,
    memory,
    model_files,
    saved_results,
    video,
)
from LTX_2_MLX.pipelines.generation.option_groups.video import PipelineName
from LTX_2_MLX.pipelines.options import AUTO, check_options, declared_options, flag_of, refuse_without_effect
from LTX_2_MLX.pipelines.requests import (
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
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.shapes import Compression, advice_on, nearest_multiples

__all__ = ["Options", "PipelineName", "Precision"]

# Frames and pixels of a latent cell of LTX-2, and of the demo model's, which divides it.
LTX_CELL, SMALLEST_CELL = Compression(8, 32, 32), Compression(4, 16, 16)
# Options of which one at most may be given.
_EXCLUSIVE = (
    ("save_latents", "resume"),
    ("frames", "duration"),
    ("frames", "min_duration"),
    ("frames", "max_duration"),
    ("frames", "duration_head"),
    ("duration", "min_duration"),
    ("duration", "max_duration"),
    ("duration", "duration_head"),
    ("height", "output_height"),
    ("width", "output_width"),
    ("embeddings", "save_embeddings"),
)


@dataclass(frozen=True)
class Options:
    """All options of a generated video, under the names of the flags. None: the model or the pipeline decides.

    Attributes:
        prompt: Text prompt.
        enhance_prompt: Rewrite it with the text encoder's chat model first; a record holds the rewritten one.
        pipeline: ``one-stage`` (also called ``text-to-video``), ``distilled``, ``two-stage``, ``hq`` or ``dfr``.
        height, width: Pixels of stage 1 in ``two-stage``, whose output is larger; of the output otherwise.
        output_height, output_width: Pixels of the output instead.
        frames: Pixel frames, 8k + 1.
        duration: Seconds instead of frames; rounded up to 8k + 1 frames.
        min_duration, max_duration: Seconds between which LTX-2.5's duration head decides where neither is given; 1
            and 20.
        fps: Frames per second.
        motion_speed: Speed of motion, 1 for the trained one; the frame rate of playback and the audio stay.
        keyframes: Keyframes that LTX-2.5 generates beside the video in its first stage; 0 for none.
        rounds: Of ``dfr``: each doubles the frame rate.
        detailing_lora: Of ``dfr``: the adapter that reads the video of stage 1; ``none`` goes without.
        spatial_doubling: Of ``dfr``: refine the result once more at twice the size.
        reference: Of ``dfr``: ``400fd31`` for the earlier form.
        steps: Of ``one-stage`` (30) and ``distilled`` (8).
        steps_stage1, steps_stage2: Of ``two-stage`` (15, 30 since LTX-2.3, or 8 with a distilled checkpoint
            and no guidance; 3).
        sampler: Of the first stage, in ``hq`` of both.
        cfg: Guidance scale, 1 for none; dev checkpoints 5, 3 since LTX-2.3, distilled ones 1.
        cfg_stage1: The same for stage 1 of ``two-stage``, instead of ``cfg``. Stage 2 is never guided.
        audio_cfg: Guidance scale of the audio stream.
        guidance_rescale: 0 to 1; 0.7 against oversaturation.
        stg_scale: Spatio-temporal guidance of both streams; 0 for none.
        stg_blocks, audio_stg_blocks: Blocks whose self-attention it bypasses.
        modality_scale: Guidance of each stream away from itself without the other; 1 for none.
        guidance_start, guidance_end: Shares of the first stage's steps between which it is guided.
        step_cache: Summed relative change of the first stage's input below which its steps reuse block outputs.
        negative_prompt: Negative prompt for classifier-free guidance.
        image: Conditioning images, ``path[:frame[:strength]]``, one or several; the first frame unless given.
        image_strength: Conditioning strength of images without their own.
        control: Reference video for the IC-LoRA among ``lora``: a file or a folder of images.
        control_strength: Its conditioning strength: 1 holds it, 0 lets it be denoised.
        control_attention: Weight of the attention between the video and it, 0 to 1.
        audio: Whether the video gets sound; by default where the checkpoint makes it.
        save_audio: Where to write the sound as a .wav file, too.
        audio_input: File whose sound the video follows and gets as it is; it gives the length, unless one is given.
        retake, retake_from, retake_to: A clip of which a span in seconds is made anew, in one stage, at its own size.
        extend, seconds: A clip that goes on for so long after its end, likewise.
        lora: Adapters of the transformer, ``path`` or ``path:strength``.
        model_variant: ``dev`` or ``distilled``: picks the file, or says what the given one is.
        weights, video_vae, audio_vae, duration_head, spatial_upscaler_weights, temporal_weights, distilled_lora, gemma:
            A path, a catalogue name, a repository or ``repository:file``; ``auto`` finds what is on this machine.
            ``weights`` may be several of these, or a folder with the files of a model, each recognised by what it
            holds.
        precision: ``fp16``, ``bf16`` or ``fp32``; the file's own 16-bit type on a GPU, float32 for small
            models and on a CPU unless given.
        quantize: 8 or 4: bits of the transformer's and the text encoder's large layers; None keeps the precision.
        low_ram: Read the blocks of both from disk while they run, instead of holding them.
        parallel: ``guidance``, ``sequence`` or ``blocks``: what the machines of a run under ``mlx.launch`` share.
        temporal_upscale: Double the frame rate in latent space before decoding.
        video_decoder: ``conv`` or ``diffusion``; ``auto`` takes the one in the video autoencoder's file, and ``conv``
            where files with both are given.
        decoder_attention: ``chunked`` or ``combined``, of the diffusion decoder.
        tile_size: Side of the decoder's tiles in pixels; whole frames wherever memory allows unless given.
        decode_dtype: ``float32`` decodes in float32, on a GPU by Winograd's convolutions; as the other networks unless
            given.
        memory_limit_gb: GiB that the run may use, instead of the memory detected.
        fit: Change a plan that exceeds it to the nearest that fits, and say so.
        seed: The same seed gives the same video.
        cache: Take the prompt's embeddings from an earlier run where it had the same prompts and models.
        embeddings: A file with the prompt's embeddings, instead of the text encoder.
        save_embeddings: Where to write them.
        save_latents: Folder in which every stage's result is saved.
        resume: The same folder again, to go on from the last complete stage.
        preview: Folder for contact sheets of the clean estimate, written while the video is denoised.
        preview_every: Steps from one of them to the next.
        enable_frame_interpolation, frame_interpolation_exp, frame_interpolation_scale,
        frame_interpolation_model_path: Interpolate frames with RIFE; see ``pipelines.postprocess``.
        enable_upscaling, upscaling_scale, upscaling_model_path: Upscale frames with Real-ESRGAN after that.
    """

    prompt: video.Prompt
    enhance_prompt: video.EnhancePrompt = False
    pipeline: video.Pipeline = "two-stage"
    height: video.Height = None
    width: video.Width = None
    output_height: video.OutputHeight = None
    output_width: video.OutputWidth = None
    frames: video.Frames = None
    duration: video.Duration = None
    min_duration: video.MinDuration = None
    max_duration: video.MaxDuration = None
    fps: video.Fps = None
    motion_speed: video.MotionSpeed = 1.0
    keyframes: video.Keyframes = 0
    rounds: dfr.Rounds = 0
    detailing_lora: dfr.DetailingLora = AUTO
    spatial_doubling: dfr.SpatialDoubling = False
    reference: dfr.Reference = None
    steps: guidance.Steps = None
    steps_stage1: guidance.StepsStage1 = None
    steps_stage2: guidance.StepsStage2 = None
    sampler: guidance.Sampler = None
    cfg: guidance.Cfg = None
    cfg_stage1: guidance.CfgStage1 = None
    audio_cfg: guidance.AudioCfg = None
    guidance_rescale: guidance.GuidanceRescale = None
    stg_scale: guidance.StgScale = None
    stg_blocks: guidance.StgBlocks = None
    audio_stg_blocks: guidance.AudioStgBlocks = None
    modality_scale: guidance.ModalityScale = None
    guidance_start: guidance.GuidanceStart = 0.0
    guidance_end: guidance.GuidanceEnd = 1.0
    step_cache: guidance.StepCache = None
    negative_prompt: guidance.NegativePrompt = None
    image: video.Image = None
    image_strength: video.ImageStrength = 1.0
    control: video.Control = None
    control_strength: video.ControlStrength = 1.0
    control_attention: video.ControlAttention = 1.0
    audio: video.Audio = None
    save_audio: video.SaveAudio = None
    audio_input: given.AudioInput = None
    retake: given.Retake = None
    retake_from: given.RetakeFrom = None
    retake_to: given.RetakeTo = None
    extend: given.Extend = None
    seconds: given.Seconds = None
    lora: model_files.Lora = ()
    model_variant: model_files.ModelVariant = None
    weights: model_files.Weights = AUTO
    video_vae: model_files.VideoVae = AUTO
    audio_vae: model_files.AudioVae = AUTO
    duration_head: model_files.DurationHead = AUTO
    spatial_upscaler_weights: model_files.SpatialUpscalerWeights = AUTO
    temporal_weights: model_files.TemporalWeights = AUTO
    distilled_lora: model_files.DistilledLora = AUTO
    gemma: model_files.Gemma = AUTO
    precision: AnyPrecision = None
    quantize: memory.Quantize = None
    low_ram: memory.LowRam = False
    parallel: memory.Parallel = "auto"
    temporal_upscale: video.TemporalUpscale = False
    video_decoder: video.VideoDecoder = "auto"
    decoder_attention: video.DecoderAttention = None
    tile_size: TileSize = None
    decode_dtype: memory.DecodeDtype = None
    memory_limit_gb: MemoryLimit = None
    fit: memory.Fit = False
    seed: Seed = 0
    cache: saved_results.Cache = True
    embeddings: saved_results.Embeddings = None
    save_embeddings: saved_results.SaveEmbeddings = None
    save_latents: saved_results.SaveLatents = None
    resume: saved_results.Resume = None
    preview: saved_results.Preview = None
    preview_every: saved_results.PreviewEvery = 1
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
        if self.has_clip:
            if self.pipeline in ("two-stage", "text-to-video"):
                # The default of other runs, and another name of it.
                object.__setattr__(self, "pipeline", "one-stage")
            given.refuse_beside_clip(declared_options(Options), self)
        refuse_without_effect(self)
        if self.pipeline == dfr.NAME:
            dfr.refuse_foreign(declared_options(Options), self)
        if self.audio_input is not None:
            given.refuse_beside_sound(declared_options(Options), self)
        if self.parallel != AUTO and launch.RANK is None:
            raise RequestError(f"--parallel {self.parallel} needs several machines. Start the command with mlx.launch.")
        if self.audio is False and self.save_audio is not None:
            raise RequestError("--save-audio and --no-audio are mutually exclusive. Leave one out.")
        if self.guidance_start >= self.guidance_end:
            raise RequestError(
                f"--guidance-start is {self.guidance_start:g}, but --guidance-end is {self.guidance_end:g}. Give a "
                f"lower start, or --cfg 1 for no guidance."
            )
        if self.enhance_prompt and self.embeddings is not None:
            raise RequestError("--enhance-prompt and --embeddings are mutually exclusive. Leave one out.")
        if self.enhance_prompt and self.low_ram:
            raise RequestError(
                "--enhance-prompt reads all layers for each word, which --low-ram would do from disk. Use --quantize 4 "
                "instead of --low-ram, or enhance the prompt in a run of its own."
            )
        for first, second in _EXCLUSIVE:
            if getattr(self, first) not in (None, AUTO) and getattr(self, second) not in (None, AUTO):
                flags = [declared_options(Options)[name].flag for name in (first, second)]
                raise RequestError(f"{flags[0]} and {flags[1]} are mutually exclusive. Leave one out.")
        self._refuse_illegal_sizes()

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
    def has_clip(self) -> bool:
        """Whether a clip is made anew in part or continued."""
        return self.retake is not None or self.extend is not None

    def _refuse_illegal_sizes(self) -> None:
        """Refuse a size that no model has that ``auto`` may choose, before any file is opened.

        A size that suits one of them is checked when it is chosen, as is every size beside weights that are named.
        """
        if self.weights != AUTO:
            return
        for name in ("height", "width", "output_height", "output_width"):
            side = getattr(self, name)
            axis = name.removeprefix("output_")
            of_ltx, of_demo = getattr(LTX_CELL, axis), getattr(SMALLEST_CELL, axis)
            if side is not None and not (side > 0 and side % of_demo == 0):
                raise RequestError(
                    f"{flag_of(name)} is {side}, but it must be a multiple of {of_ltx}, or of {of_demo} with the demo "
                    f"model. {advice_on(*nearest_multiples(side, of_ltx))}"
                )
        frames = self.frames
        if frames is not None and not (frames > 0 and (frames - 1) % SMALLEST_CELL.time == 0):
            near, far = nearest_multiples(frames - 1, LTX_CELL.time)
            raise RequestError(
                f"--frames is {frames}, but it must be {LTX_CELL.time}k + 1, or {SMALLEST_CELL.time}k + 1 with the "
                f"demo model. {advice_on(near + 1, far + 1)}"
            )
