"""What every road to a film shares: the request's common part, its text and picture before, its frames after."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.gemma3 import Gemma, GemmaConfig
from LTX_2_MLX.checkpoints.gemma_tokenizer import GemmaTokenizer
from LTX_2_MLX.checkpoints.load import load, quantization_for
from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.quantize import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.recognise import config_of
from LTX_2_MLX.diffusion.guidance import Guidance
from LTX_2_MLX.diffusion.noise import key_for
from LTX_2_MLX.diffusion.patchify import AudioClock, VideoGrid
from LTX_2_MLX.diffusion.state import StreamArrays
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.media.first_frame import read_first_frame
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.image import read_image
from LTX_2_MLX.media.output import check_writable
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler, LatentUpscalerConfig
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, VideoDecoder, VideoEncoder
from LTX_2_MLX.pipelines.defaults import ModelDefaults
from LTX_2_MLX.pipelines.embeddings import context_arrays, contexts_from, load_contexts, save_contexts
from LTX_2_MLX.pipelines.memory import (
    context_states_bytes,
    decode_bytes,
    encoder_bytes,
    text_encoder_bytes,
    text_features_bytes,
    transformer_bytes,
    upscaler_bytes,
)
from LTX_2_MLX.pipelines.seconds import denoising_seconds, transformer_operations
from LTX_2_MLX.pipelines.stages import (
    Contexts,
    EncodedImage,
    SamplerName,
    decode,
    encode_images,
    encode_text,
    upscale_latent,
)
from LTX_2_MLX.pipelines.video_latents import activation_budget, square_tiles
from LTX_2_MLX.planning.plan import Estimate, network_weights_bytes
from LTX_2_MLX.runtime.job import NOTHING_KEPT, Job
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import Compression, LatentShape, StreamName, VideoShape

TEMPORAL = "temporal_upscaler"


@dataclass(frozen=True)
class Models:
    """The files of one run, opened: their headers have been read, no weights.

    Attributes:
        weights: Transformer, connectors and video autoencoder.
        text_encoder: Folder of the text encoder; None where saved embeddings take its place.
        distilled: Whether ``weights`` is a distilled checkpoint, made for few steps without guidance.
        dtype: What networks compute in.
        loras: Adapters of the transformer in every stage.
        distilled_lora: Adapter that makes a dev checkpoint a distilled one, for stage 2.
        spatial_upscaler: For two stages.
        temporal_upscaler: For twice the frame rate.
        quantize: Bits that the large layers of transformer and text encoder are brought to while they load.
        low_ram: Leave the blocks of both on disk and read each ahead of its use.
    """

    weights: Checkpoint
    text_encoder: Path | None
    distilled: bool
    dtype: mx.Dtype = mx.bfloat16
    loras: tuple[Lora, ...] = ()
    distilled_lora: Lora | None = None
    spatial_upscaler: Checkpoint | None = None
    temporal_upscaler: Checkpoint | None = None
    quantize: int | None = None
    low_ram: bool = False

    def as_distilled(self) -> "Models":
        """The same files with the checkpoint made a distilled one, by its adapter where it is a dev one."""
        if self.distilled:
            return self
        return replace(self, distilled=True, loras=(*self.loras, self.distilled_lora), distilled_lora=None)

    @cached_property
    def compression(self) -> Compression:
        """Pixels per latent step of the decoder."""
        return config_of(VideoDecoder, self.weights).decoder_compression

    @cached_property
    def defaults(self) -> ModelDefaults:
        """What the checkpoint implies."""
        return ModelDefaults.from_header(self.weights.header)

    def first_sampler(self, guidance: Guidance) -> SamplerName:
        """How the first stage is sampled: newer distilled checkpoints add noise in every step."""
        return self.defaults.distilled_sampler if self.distilled and guidance == Guidance() else "euler"

    def load_transformer(self, loras: Sequence[Lora], note: Callable[[str], None]) -> Transformer:
        """The transformer with adapters, in memory or on disk as the run has it."""
        return load(Transformer, self.weights, **self.transformer_options, loras=loras, note=note)

    @cached_property
    def transformer_options(self) -> dict[str, Any]:
        """How the transformer is held: options of ``load`` and ``weights_bytes``."""
        few_bits = None
        if self.quantize is not None:
            few_bits = quantization_for(Transformer, self.weights, self.quantize) or Quantization(self.quantize)
        return {"dtype": self.dtype, "quantize": few_bits, "stream_blocks": self.low_ram}

    @cached_property
    def text_encoder_options(self) -> dict[str, Any]:
        """The same for the text encoder, which keeps its precision where its layers are too narrow for groups."""
        few_bits = None
        if self.quantize is not None:
            few_bits = quantization_for(Gemma, Checkpoint(self.text_encoder), self.quantize)
        return {"dtype": self.text_dtype, "quantize": few_bits, "stream_blocks": self.low_ram}

    @property
    def text_dtype(self) -> mx.Dtype:
        """What the text side computes in. Gemma's states exceed float16's range."""
        return mx.bfloat16 if self.dtype == mx.float16 else self.dtype


@dataclass(frozen=True)
class Film:
    """What is to be seen, whatever the road.

    Attributes:
        prompt: The text.
        negative_prompt: What guidance leads away from.
        num_frames: Pixel frames before any doubling of the rate.
        frame_rate: Frames per second, likewise.
        guidance: Of both streams in the guided stage.
        seed: Of all noise.
        image: A picture for the first frame.
        image_strength: How firmly that frame is held, 0 to 1.
        temporal_upscale: Double the frame rate in latent space before decoding.
        tile_size: Side of the decoder's tiles in pixels; None: whole frames wherever memory allows.
        memory_limit_gb: GiB that the run may use; None: what the machine lends.
        embeddings: A file with the prompt's contexts, instead of the text encoder.
        save_embeddings: Where to write the contexts.
    """

    prompt: str
    negative_prompt: str
    num_frames: int
    frame_rate: Fraction
    guidance: Guidance = field(default_factory=Guidance)
    seed: int = 0
    image: Path | None = None
    image_strength: float = 1.0
    temporal_upscale: bool = False
    tile_size: int | None = None
    memory_limit_gb: float | None = None
    embeddings: Path | None = None
    save_embeddings: Path | None = None

    def __post_init__(self) -> None:
        """Raise ``RequestError`` for values that cannot be."""
        if not self.prompt.strip():
            raise RequestError("The prompt is empty. Say what is to be seen.")
        if not 0 <= self.image_strength <= 1:
            raise RequestError(f"image_strength is {self.image_strength:g}, it can be from 0 to 1.")
        if not 0 < self.frame_rate <= 1000:
            raise RequestError(f"The frame rate is {float(self.frame_rate):g}, it can be above 0 up to 1000.")

    @property
    def prompts(self) -> list[str]:
        """What the text encoder reads: the negative prompt only where guidance uses it."""
        return [self.prompt, self.negative_prompt] if self.guidance.uses_negative else [self.prompt]

    @property
    def decoder_budget(self) -> int:
        """Bytes for the decoder's activations, by which its tiles are chosen."""
        return activation_budget(self.memory_limit_gb)

    @property
    def both_streams(self) -> dict[StreamName, Guidance]:
        """Audio is guided as video is: one scale serves both, and the video attends to the audio."""
        return {"video": self.guidance, "audio": self.guidance}

    def grid(self, models: Models, height: int, width: int) -> VideoGrid:
        """The latent's cells at a size.

        Raises:
            RequestError: If the size or the number of frames is not legal.
        """
        shape = VideoShape(self.num_frames, height, width).latent(models.compression)
        return VideoGrid(shape, models.compression, self.frame_rate)


def kept_streams(job: Job, stage: str, compute: Callable[[], StreamArrays]) -> StreamArrays:
    """A stage's video and audio arrays, from the job's folder where they are there."""
    return job.kept(stage, compute)


def contexts_of(film: Film, models: Models, runner: StageRunner, job: Job = NOTHING_KEPT) -> Contexts:
    """The film's contexts, from a file or from the text encoder; the negative prompt's only where guidance uses it."""
    if film.embeddings is not None:
        return saved_contexts(film, models)

    def encode() -> dict[str, mx.array]:
        streams = encode_text(runner, models.text_encoder, models.weights, film.prompts, **models.text_encoder_options)
        return context_arrays(Contexts(*streams))

    contexts = contexts_from(job.kept("text", encode))
    if film.save_embeddings is not None:
        save_contexts(
            film.save_embeddings,
            contexts,
            prompt=film.prompt,
            negative_prompt=film.negative_prompt,
            weights=models.weights,
        )
    return contexts


def saved_contexts(film: Film, models: Models) -> Contexts:
    """The contexts in the film's file of embeddings.

    Raises:
        CheckpointError: If the file cannot be read.
        RequestError: If they were made for something else.
    """
    negative_prompt = film.negative_prompt if film.guidance.uses_negative else None
    return load_contexts(film.embeddings, prompt=film.prompt, negative_prompt=negative_prompt, weights=models.weights)


def images_of(
    film: Film, models: Models, runner: StageRunner, sizes: list[VideoShape], job: Job = NOTHING_KEPT
) -> list[list[EncodedImage]]:
    """What is held of the film's picture at each size; nothing where there is none."""
    if film.image is None:
        return [[] for _ in sizes]

    def encode() -> dict[str, mx.array]:
        picture = read_first_frame(film.image, models.defaults.image_crf)
        latents = encode_images(runner, models.weights, picture, sizes, models.dtype)
        return {f"{number}": latent for number, latent in enumerate(latents)}

    latents = job.kept("image", encode)
    return [[EncodedImage(latents[f"{n}"], strength=film.image_strength)] for n in range(len(sizes))]


def finished(film: Film, models: Models, runner: StageRunner, latent: mx.array, job: Job = NOTHING_KEPT) -> FrameStream:
    """The stream of frames that a video latent ``(1, T, H, W, C)`` decodes to, at twice the rate if so asked."""
    frame_rate = film.frame_rate
    if film.temporal_upscale:
        upscale = partial(
            upscale_latent, runner, models.temporal_upscaler, models.weights, latent, dtype=models.dtype, name=TEMPORAL
        )
        latent = job.kept(TEMPORAL, lambda: {"video": upscale()})["video"]
        frame_rate = 2 * frame_rate
    size = LatentShape(*latent.shape[1:4]).pixels(models.compression)
    return FrameStream(
        chunks=_kept_frames(
            job,
            partial(
                decode,
                runner,
                models.weights,
                latent,
                num_frames=size.num_frames,
                key=key_for(film.seed, "decode"),
                dtype=models.dtype,
                tile_size=film.tile_size,
                budget=film.decoder_budget,
            ),
            {"tile_size": film.tile_size, "budget": film.decoder_budget},
        ),
        height=size.height,
        width=size.width,
        frame_rate=frame_rate,
        num_frames=size.num_frames,
    )


def _kept_frames(job: Job, make: Callable[[], Iterator[np.ndarray]], facts: dict[str, Any]) -> Iterator[np.ndarray]:
    """Chunks of frames, each kept as it passes; from the job's folder where all of them are there.

    ``facts`` are what frames follow from and latents do not.
    """
    if job.folder is None:
        yield from make()
        return
    if (whole := job.found("frames", **facts)) is not None:
        names = [f"frames_{number}" for number in range(whole["chunks"].item())]
        # All are looked at before the first is given on: a decoder cannot begin in the middle.
        if all(job.found(name, **facts) is not None for name in names):
            for name in names:
                yield np.array(job.found(name, **facts)["frames"])
            return
    number, chunks = 0, make()
    try:
        for number, chunk in enumerate(chunks, 1):
            job.keep(f"frames_{number - 1}", {"frames": mx.array(chunk)}, **facts)
            yield chunk
    finally:
        chunks.close()
    job.keep("frames", {"chunks": mx.array(number)}, **facts)


def upscaler_config(checkpoint: Checkpoint, *, temporal: bool, flag: str) -> LatentUpscalerConfig:
    """The config of an upscaler, which has to work in time or in space.

    Raises:
        CheckpointError: If it does the other, or is no upscaler.
    """
    config = config_of(LatentUpscaler, checkpoint)
    if (config.temporal_upsample, config.spatial_upsample) != (temporal, not temporal):
        does = "time" if config.temporal_upsample else "space"
        raise CheckpointError(
            f"{checkpoint.path} upscales in {does}. Give {flag} an upscaler in {'time' if temporal else 'space'}."
        )
    return config


def planned(
    name: str,
    work: str,
    checkpoint: Checkpoint,
    networks: list[type],
    *,
    activation_bytes: int,
    seconds: float | None = None,
    streams: bool = False,
    **options: Any,
) -> Estimate:
    """One stage's estimate; ``options`` are those of ``load``."""
    return Estimate(
        name=name,
        work=work,
        file=checkpoint.path,
        weights_bytes=network_weights_bytes(networks, checkpoint, **options),
        activation_bytes=activation_bytes,
        seconds=seconds,
        streams=streams,
    )


def planned_text(film: Film, models: Models, shape: VideoShape) -> list[Estimate]:
    """The stages before denoising that make contexts, and encode a picture at sizes up to ``shape``."""
    weights, stages = models.weights, []
    if film.save_embeddings is not None:
        check_writable(film.save_embeddings)
    if film.embeddings is not None:
        saved_contexts(film, models)
    else:
        prompts = "prompt and negative prompt" if film.guidance.uses_negative else "prompt"
        encoder = Checkpoint(models.text_encoder)
        if not text_encoder_fits(encoder, weights):
            raise CheckpointError(
                f"{encoder.path} is not the text encoder that {weights.path} was made for: the number of its "
                f"features is another. Give --gemma the one that belongs to it."
            )
        stages += _planned_encoding(film, models, encoder, prompts)
    if film.image is not None:
        # Found now rather than after the text encoder's turn, if it cannot be read.
        read_image(film.image)
        needed = encoder_bytes(config_of(VideoEncoder, weights), shape, item_bytes=models.dtype.size)
        held = {"dtype": models.dtype, "activation_bytes": needed}
        stages.append(planned("image_encoder", "first frame", weights, [VideoEncoder], **held))
    return stages


def _planned_encoding(film: Film, models: Models, encoder: Checkpoint, work: str) -> list[Estimate]:
    """The text encoder's turn and that of the text features, which the encoder's states wait for."""
    tokens, length = _prompt_lengths(models.text_encoder, tuple(film.prompts))
    config, text_config = config_of(Gemma, encoder), config_of(TextFeatures, models.weights)
    batch = {"prompts": len(film.prompts), "length": length, "item_bytes": models.text_dtype.size}
    states = context_states_bytes(config, **batch)
    return [
        planned(
            "text_encoder",
            work,
            encoder,
            [Gemma],
            **models.text_encoder_options,
            activation_bytes=text_encoder_bytes(config, tokens=tokens, **batch),
        ),
        planned(
            "text_features",
            work,
            models.weights,
            [TextFeatures],
            dtype=models.text_dtype,
            activation_bytes=states + text_features_bytes(text_config, **batch),
        ),
    ]


@lru_cache(maxsize=16)
def _prompt_lengths(text_encoder: Path, prompts: tuple[str, ...]) -> tuple[int, int]:
    """Tokens of the longest prompt, and of each once it is padded."""
    _, mask = GemmaTokenizer.from_folder(text_encoder)(prompts)
    return int(mask.sum(axis=1).max()), mask.shape[1]


def _context_length(film: Film, models: Models) -> int:
    """Tokens of a context."""
    if film.embeddings is not None:
        return saved_contexts(film, models).positive["video"].shape[1]
    return _prompt_lengths(models.text_encoder, tuple(film.prompts))[1]


def text_encoder_fits(encoder: Checkpoint, weights: Checkpoint) -> bool:
    """Whether the checkpoint takes as many features for each token as the text encoder gives.

    Raises:
        CheckpointError: If ``encoder`` is none, or ``weights`` have no text features.
    """
    config = GemmaConfig.from_header(encoder.header)
    if config is None:
        raise CheckpointError(f"{encoder.path} is no Gemma 3. Give --gemma the folder of the text encoder.")
    features = config.hidden_size * (config.num_hidden_layers + 1)
    return features == config_of(TextFeatures, weights).states_width


def planned_denoising(
    name: str, shape: VideoShape, steps: int, calls: int, film: Film, models: Models, loras: Sequence[Lora]
) -> Estimate:
    """One denoising stage."""
    config = config_of(Transformer, models.weights)
    counts = {
        "tokens": shape.latent(models.compression).num_tokens,
        "audio_tokens": AudioClock().num_latents(shape.num_frames, film.frame_rate),
        "text_tokens": _context_length(film, models),
    }
    needed = transformer_bytes(config, **counts, prompts=len(film.prompts), item_bytes=models.dtype.size)
    return planned(
        name,
        f"{shape.height}×{shape.width}, {steps} steps" + (f" of {calls} passes" if calls > 1 else ""),
        models.weights,
        [Transformer],
        loras=loras,
        activation_bytes=needed,
        seconds=denoising_seconds(transformer_operations(config, **counts), steps * calls),
        **models.transformer_options,
    )


def _contexts_bytes(film: Film, models: Models) -> int:
    """The contexts, which stay until the film is denoised."""
    config = config_of(TextFeatures, models.weights)
    widths = config.video.width + (0 if config.audio is None else config.audio.width)
    return len(film.prompts) * _context_length(film, models) * widths * models.text_dtype.size


def planned_frames(film: Film, models: Models, shape: VideoShape) -> tuple[list[str], list[Estimate]]:
    """What the film will be, and the stages that make its frames."""
    num_frames, frame_rate, stages = shape.num_frames, film.frame_rate, []
    latent = shape.latent(models.compression)
    if film.temporal_upscale:
        upscaler_config(models.temporal_upscaler, temporal=True, flag="--temporal-weights")
        num_frames, frame_rate = 2 * num_frames - 1, 2 * frame_rate
        work = f"{shape.num_frames} to {num_frames} frames"
        stages.append(planned_upscaler(TEMPORAL, work, models.temporal_upscaler, film, models, latent))
        latent = config_of(LatentUpscaler, models.temporal_upscaler).output_shape(latent)
    _check_smallest(models, shape)
    if film.tile_size is not None:
        square_tiles(film.tile_size, models.compression)
    work = f"{shape.height}×{shape.width}, {num_frames} frames"
    needed = decode_bytes(
        config_of(VideoDecoder, models.weights),
        latent,
        item_bytes=models.dtype.size,
        tile_size=film.tile_size,
        budget=film.decoder_budget,
    )
    held = {"dtype": models.dtype, "activation_bytes": needed, "streams": True}
    stages.append(planned("decode", work, models.weights, [VideoDecoder], **held))
    seconds = float(num_frames / frame_rate)
    line = f"Output: {shape.height}×{shape.width}, {num_frames} frames at {float(frame_rate):g} fps, {seconds:.2f} s"
    return [line], stages


def _check_smallest(models: Models, shape: VideoShape) -> None:
    cell, fewest = models.compression, config_of(VideoDecoder, models.weights).fewest_cells
    if shape.height < fewest * cell.height or shape.width < fewest * cell.width:
        raise RequestError(
            f"The film would be {shape.height}×{shape.width}, but this checkpoint's decoder mirrors its borders and "
            f"needs at least {fewest * cell.height}×{fewest * cell.width}."
        )


def planned_upscaler(
    name: str, work: str, checkpoint: Checkpoint, film: Film, models: Models, latent: LatentShape
) -> Estimate:
    """A latent upscaler's turn with ``latent``, which has to be as wide as the checkpoint's."""
    config = config_of(LatentUpscaler, checkpoint)
    needed = upscaler_bytes(config, latent, item_bytes=models.dtype.size, waiting_bytes=_contexts_bytes(film, models))
    held = {"dtype": models.dtype, "activation_bytes": needed}
    stage = planned(name, work, checkpoint, [LatentUpscaler], **held)
    channels = config.in_channels
    own = config_of(LatentStatistics, models.weights).channels
    if channels != own:
        raise CheckpointError(
            f"{checkpoint.path} upscales latents of {channels} channels, those of {models.weights.path} have {own}. "
            f"Use the upscaler that was published with this model."
        )
    return stage
