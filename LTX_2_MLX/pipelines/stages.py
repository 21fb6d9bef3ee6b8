"""The verbs that pipelines share. Each is one network's turn: load, work, evaluate, free."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.gemma3 import TextEncoder, encode_prompts, load_gemma
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.quantize import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion import sampler
from LTX_2_MLX.diffusion.conditioning import append_keyframe, fix_latent_frames, regenerate_region
from LTX_2_MLX.diffusion.guidance import Guidance, Pass, Predict, guided
from LTX_2_MLX.diffusion.noise import Noise
from LTX_2_MLX.diffusion.patchify import AudioClock, VideoGrid, patchify_video, unpatchify_video
from LTX_2_MLX.diffusion.state import LatentState, State, Streams, add_noise, start_state, to_denoised
from LTX_2_MLX.media.first_frame import resize_and_crop
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Perturbation, StreamInput, Transformer, evaluate_each
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, VideoDecoder, VideoEncoder
from LTX_2_MLX.pipelines.video_latents import decode_frames
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.runtime.validate import check_moving, check_result
from LTX_2_MLX.shapes import VideoShape

SamplerName = Literal["euler", "gradient-estimation", "ancestral", "res-2s"]


@dataclass(frozen=True)
class Contexts:
    """What the transformer attends to: the prompt's contexts and, where guidance needs them, the negative prompt's.

    A stream without a negative context keeps its positive one in the negative pass.
    """

    positive: Streams[mx.array]
    negative: Streams[mx.array] = field(default_factory=lambda: Streams(None, None))


@dataclass(frozen=True)
class EncodedImage:
    """An image's latent ``(1, 1, H, W, C)``, the pixel frame where it stands, and how firmly."""

    latent: mx.array
    frame: int = 0
    strength: float = 1.0


@dataclass(frozen=True)
class Denoising:
    """One denoising stage, apart from the network and the text.

    Attributes:
        name: The stage's name, for progress, reports and the noise's purposes.
        grid: The video latent's cells.
        sigmas: The schedule.
        guidance: Of both streams.
        sampler: Which loop runs over the schedule.
        images: What stands at given frames: frame 0 is held in place, others are appended as keyframes.
        start: Latents to begin from, video ``(B, T, H, W, C)`` and audio tokens ``(B, N, D)``; None: from nothing.
        noise_scale: Noise level that a start is taken to.
        region_seconds: Denoise only this span of time, hold the rest of ``start``.
        frozen_audio: Audio tokens ``(B, N, D)`` that are given and only attended to.
    """

    name: str
    grid: VideoGrid
    sigmas: Sequence[float]
    guidance: Streams[Guidance] = field(default_factory=lambda: Streams(Guidance(), Guidance()))
    sampler: SamplerName = "euler"
    images: Sequence[EncodedImage] = ()
    start: Streams[mx.array] = field(default_factory=lambda: Streams(None, None))
    noise_scale: float = 1.0
    region_seconds: tuple[float, float] | None = None
    frozen_audio: mx.array | None = None


def encode_text(
    runner: StageRunner,
    text_encoder: Path,
    weights: Checkpoint,
    prompts: Sequence[str],
    dtype: mx.Dtype,
    *,
    quantize: Quantization | None = None,
    stream_blocks: bool = False,
) -> list[Streams[mx.array]]:
    """Each prompt's contexts, ``(1, L, D)`` for video and audio.

    ``quantize`` and ``stream_blocks`` are those of ``load``, for the text encoder.
    """

    def encoder() -> TextEncoder:
        return load_gemma(text_encoder, dtype=dtype, quantize=quantize, stream_blocks=stream_blocks)

    # The text encoder is gone before the connectors come.
    states, mask = runner.run("text_encoder", encoder, lambda encoder: encode_prompts(encoder, prompts))
    video, audio = runner.run(
        "text_features", lambda: load(TextFeatures, weights, dtype=dtype), lambda network: network(states, mask)
    )
    rows = [slice(i, i + 1) for i in range(len(prompts))]
    contexts = [Streams(video[row], None if audio is None else audio[row]) for row in rows]
    mx.eval(contexts)
    return contexts


def encode_images(
    runner: StageRunner, weights: Checkpoint, picture: np.ndarray, sizes: Sequence[VideoShape], dtype: mx.Dtype
) -> list[mx.array]:
    """A picture ``(H, W, 3)`` uint8 as one latent frame ``(1, 1, H', W', C)`` at each of the film's sizes."""

    def work(encoder: VideoEncoder) -> list[mx.array]:
        return [encoder.encode(resize_and_crop(picture, size.height, size.width)) for size in sizes]

    return runner.run("image_encoder", lambda: load(VideoEncoder, weights, dtype=dtype), work)


def upscale_latent(
    runner: StageRunner,
    upscaler: Checkpoint,
    weights: Checkpoint,
    latent: mx.array,
    *,
    dtype: mx.Dtype,
    name: str = "latent_upscaler",
) -> mx.array:
    """A normalised latent ``(B, T, H, W, C)`` larger in space or time, as the upscaler's file says; normalised again.

    Args:
        runner: Runs the stage.
        upscaler: The upscaler's file.
        weights: Where the statistics of the latent are: the checkpoint of the same generation.
        latent: Normalised.
        dtype: Of the network; the statistics stay float32.
        name: The stage's name.
    """

    def networks() -> tuple[LatentUpscaler, LatentStatistics]:
        return load(LatentUpscaler, upscaler, dtype=dtype), load(LatentStatistics, weights, dtype=mx.float32)

    return runner.run(name, networks, lambda both: both[0].upscale(latent, both[1]))


def decode(
    runner: StageRunner,
    weights: Checkpoint,
    latent: mx.array,
    *,
    num_frames: int,
    key: mx.array,
    dtype: mx.Dtype,
    tile_size: int | None = None,
    budget: int | None = None,
) -> Iterator[np.ndarray]:
    """Frames of a latent ``(1, T, H, W, C)`` as they come: chunks ``(T, H, W, 3)`` uint8.

    Args:
        runner: Runs the stage; the decoder is freed after the last chunk, or when the frames are closed.
        weights: The checkpoint with the decoder.
        latent: Normalised.
        num_frames: How many frames that makes, for progress.
        key: Of the noise that some decoders mix in.
        dtype: Of the network.
        tile_size: Side of a tile in pixels; None: whole frames wherever memory allows.
        budget: Bytes for activations, by which tiles are chosen; half of what the machine lends unless given.
    """
    done = 0

    def work(decoder: VideoDecoder) -> Iterator[np.ndarray]:
        yield from decode_frames(decoder, latent, tile_size, key, budget)

    stream = runner.stream("decode", lambda: load(VideoDecoder, weights, dtype=dtype), work)
    try:
        for chunk in stream:
            done += len(chunk)
            runner.progress.advance("decode", done, num_frames)
            yield chunk
    finally:
        stream.close()


def denoise(
    runner: StageRunner,
    load_transformer: Callable[[], Transformer],
    stage: Denoising,
    contexts: Contexts,
    noise: Noise,
    on_step: sampler.OnStep = sampler.ignore,
) -> Streams[mx.array]:
    """Run one denoising stage.

    A network with an audio stream runs it whether its sound is wanted or not: the video attends to it, so the film is
    the one that the reference makes.

    Returns:
        The video latent ``(B, T, H, W, C)`` and the audio tokens ``(B, N, D)``, float32, without appended tokens.

    Raises:
        OutputError: If the result is not finite, all one value, or one frame over and over.
    """
    total = len(stage.sigmas) - 1

    def report(step: int, state: State) -> None:
        on_step(step, state)
        runner.progress.advance(stage.name, step + 1, total)

    def work(transformer: Transformer) -> Streams[mx.array]:
        state = first_state(stage, transformer, noise)
        runner.progress.advance(stage.name, 0, total)
        run = guided(predictor(transformer, contexts), stage.guidance)
        state = _sampler(stage, noise, state)(run, state, stage.sigmas, report)
        video = unpatchify_video(state.video.latent, stage.grid.shape)
        return Streams(video, None if state.audio is None else state.audio.latent)

    latents = runner.run(stage.name, load_transformer, work)
    check_result(stage.name, {name: latent for name, latent in latents._asdict().items() if latent is not None})
    check_moving(stage.name, latents.video)
    return latents


def first_state(stage: Denoising, transformer: Transformer, noise: Noise) -> State:
    """Both streams at the first noise level. A network for video alone has no audio stream."""
    config = transformer.config
    grid = stage.grid
    shape = (1, grid.shape.num_tokens, config.video.in_channels)
    tokens = mx.zeros(shape) if stage.start.video is None else patchify_video(stage.start.video)
    video = start_state(tokens, grid.positions())
    if config.keyframe_embedding:
        first = mx.arange(grid.shape.num_tokens) < grid.shape.height * grid.shape.width
        video = video.replace(keyframe_mask=first[None, :, None].astype(mx.float32))
    for image in stage.images:
        place = fix_latent_frames if image.frame == 0 else partial(append_keyframe, frame=image.frame)
        video = place(video, image.latent, grid, strength=image.strength)
    state = Streams(video, None if config.audio is None else _audio_state(stage, config.audio.in_channels))
    if stage.region_seconds is not None:
        state = state.map(lambda s: s if s.frozen else regenerate_region(s, *stage.region_seconds))
    return Streams(*(_noised(stage, name, s, noise) for name, s in state._asdict().items()))


def _audio_state(stage: Denoising, channels: int) -> LatentState:
    clock = AudioClock()
    num_frames = stage.grid.shape.pixels(stage.grid.compression).num_frames
    # A single frame at a high rate is shorter than half a latent, but attention to nothing is not a number.
    length = max(clock.num_latents(num_frames, stage.grid.frame_rate), 1)
    if stage.frozen_audio is not None:
        return start_state(stage.frozen_audio[:, :length], clock.positions(length), frozen=True)
    start = mx.zeros((1, length, channels)) if stage.start.audio is None else stage.start.audio
    return start_state(start, clock.positions(length))


def _noised(stage: Denoising, stream: str, state: LatentState | None, noise: Noise) -> LatentState | None:
    if state is None or state.frozen:
        return state
    return add_noise(state, noise(f"{stage.name}.{stream}", state.latent.shape), stage.noise_scale)


def _sampler(stage: Denoising, noise: Noise, state: State) -> Callable[..., State]:
    def draw(part: str, normalise: bool, step: int) -> Streams[mx.array]:
        fresh = Streams(
            *(
                None if s is None else noise(f"{stage.name}.{part}_{step}.{name}", s.latent.shape)
                for name, s in state._asdict().items()
            )
        )
        return fresh.map(sampler.normalised_noise) if normalise else fresh

    if stage.sampler == "ancestral":
        return partial(sampler.ancestral, noise=partial(draw, "step", False))
    if stage.sampler == "res-2s":
        return partial(sampler.res_2s, noise=partial(draw, "step", True), middle_noise=partial(draw, "middle", True))
    return {"euler": sampler.euler, "gradient-estimation": sampler.gradient_estimation}[stage.sampler]


def predictor(transformer: Transformer, contexts: Contexts) -> Predict:
    """The transformer as guidance sees it: states and passes to clean estimates.

    Passes run one after another, so activations take what one pass takes, whatever the guidance.
    """
    layers = range(transformer.config.num_layers)
    positive = _projected(transformer, contexts.positive)
    negative = _projected(transformer, contexts.negative)

    def predict(state: State, sigma: float, passes: Sequence[Pass], computed: Streams[bool]):
        estimates = []
        for each in passes:
            context = positive.map(lambda own, other: own if other is None else other, negative)
            context = context if each.negative else positive
            inputs = state.map(partial(_stream_input, sigma=sigma), context, computed)
            skips = Perturbation(*each.skip_self_attention, *((layers, layers) if each.isolated else ()))
            plain = not any(each.skip_self_attention) and not each.isolated
            perturbations = None if plain else [skips] * state.video.latent.shape[0]
            velocity = transformer(*inputs, perturbations, on_block=evaluate_each())
            estimate = state.map(_estimate, Streams(*velocity), Streams(*(sigma for _ in state)))
            mx.eval(list(filter(lambda x: x is not None, estimate)))
            estimates.append(estimate)
        return estimates

    return predict


def _projected(transformer: Transformer, contexts: Streams[mx.array]) -> Streams[mx.array]:
    projected = Streams(*transformer.project_context(*contexts))
    mx.eval([context for context in projected if context is not None])
    return projected


def _stream_input(state: LatentState, context: mx.array, enabled: bool, sigma: float) -> StreamInput:
    batch = state.latent.shape[0]
    return StreamInput(
        latent=state.latent,
        sigma=mx.full((batch,), 0.0 if state.frozen else sigma),
        positions=state.positions,
        context=mx.broadcast_to(context, (batch, *context.shape[1:])),
        timesteps=state.timesteps(sigma),
        attention_mask=state.attention_mask,
        keyframe_mask=state.keyframe_mask,
        enabled=enabled,
        context_projected=True,
    )


def _estimate(state: LatentState, velocity: mx.array | None, sigma: float) -> mx.array | None:
    return None if velocity is None else to_denoised(state.latent, velocity, state.timesteps(sigma))
