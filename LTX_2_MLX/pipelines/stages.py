"""The verbs that pipelines share. Each is one network's turn: load, work, evaluate, free."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from LTX_2_MLX.diffusion.state import LatentState, State, StreamArrays, add_noise, start_state, to_denoised
from LTX_2_MLX.media.first_frame import resize_and_crop
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Perturbation, StreamInput, Transformer, evaluate_each
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, VideoDecoder, VideoEncoder
from LTX_2_MLX.pipelines.video_latents import decode_frames
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.runtime.validate import check_moving, check_result
from LTX_2_MLX.shapes import StreamName, VideoShape

SamplerName = Literal["euler", "gradient-estimation", "ancestral", "res-2s"]


@dataclass(frozen=True)
class Contexts:
    """What the transformer attends to: the prompt's contexts and, where guidance needs them, the negative prompt's.

    A stream without a negative context keeps its positive one in the negative pass.
    """

    positive: StreamArrays
    negative: StreamArrays = field(default_factory=dict)


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
        start: Latents to begin from, video ``(B, T, H, W, C)`` and audio tokens ``(B, N, D)``; zeros where absent.
        noise_scale: Noise level that a start is taken to.
        region_seconds: Denoise only this span of time, hold the rest of ``start``.
        frozen_audio: Audio tokens ``(B, N, D)`` that are given and only attended to.
    """

    name: str
    grid: VideoGrid
    sigmas: Sequence[float]
    guidance: Mapping[StreamName, Guidance] = field(default_factory=lambda: {"video": Guidance(), "audio": Guidance()})
    sampler: SamplerName = "euler"
    images: Sequence[EncodedImage] = ()
    start: StreamArrays = field(default_factory=dict)
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
) -> list[StreamArrays]:
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
    contexts: list[StreamArrays] = []
    for number in range(len(prompts)):
        row = slice(number, number + 1)
        contexts.append({"video": video[row]})
        if audio is not None:
            contexts[-1]["audio"] = audio[row]
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
) -> StreamArrays:
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

    def work(transformer: Transformer) -> StreamArrays:
        state = first_state(stage, transformer, noise)
        runner.progress.advance(stage.name, 0, total)
        run = guided(predictor(transformer, contexts, stage.guidance), stage.guidance)
        state = _sampler(stage, noise, state)(run, state, stage.sigmas, report)
        latents = {name: stream.latent for name, stream in state.items()}
        latents["video"] = unpatchify_video(latents["video"], stage.grid.shape)
        return latents

    latents = runner.run(stage.name, load_transformer, work)
    check_result(stage.name, latents)
    check_moving(stage.name, latents["video"])
    return latents


def first_state(stage: Denoising, transformer: Transformer, noise: Noise) -> State:
    """Both streams at the first noise level. A network for video alone has no audio stream."""
    config = transformer.config
    grid = stage.grid
    shape = (1, grid.shape.num_tokens, config.video.in_channels)
    tokens = patchify_video(stage.start["video"]) if "video" in stage.start else mx.zeros(shape)
    video = start_state(tokens, grid.positions())
    if config.keyframe_embedding:
        first = mx.arange(grid.shape.num_tokens) < grid.shape.height * grid.shape.width
        video = video.replace(keyframe_mask=first[None, :, None].astype(mx.float32))
    for image in stage.images:
        place = fix_latent_frames if image.frame == 0 else partial(append_keyframe, frame=image.frame)
        video = place(video, image.latent, grid, strength=image.strength)
    state: State = {"video": video}
    if config.audio is not None:
        state["audio"] = _audio_state(stage, config.audio.in_channels)
    for name, stream in state.items():
        if stream.frozen:
            continue
        if stage.region_seconds is not None:
            stream = regenerate_region(stream, *stage.region_seconds)
        fresh = noise(f"{stage.name}.{name}", stream.latent.shape)
        state[name] = add_noise(stream, fresh, stage.noise_scale)
    return state


def _audio_state(stage: Denoising, channels: int) -> LatentState:
    clock = AudioClock()
    num_frames = stage.grid.shape.pixels(stage.grid.compression).num_frames
    # A single frame at a high rate is shorter than half a latent, but attention to nothing is not a number.
    length = max(clock.num_latents(num_frames, stage.grid.frame_rate), 1)
    if stage.frozen_audio is not None:
        return start_state(stage.frozen_audio[:, :length], clock.positions(length), frozen=True)
    start = stage.start.get("audio", mx.zeros((1, length, channels)))
    return start_state(start, clock.positions(length))


def _sampler(stage: Denoising, noise: Noise, state: State) -> Callable[..., State]:
    def draw(purpose: str, step: int) -> StreamArrays:
        return {
            name: noise(f"{stage.name}.{purpose}_{step}.{name}", stream.latent.shape) for name, stream in state.items()
        }

    def draw_normalised(purpose: str, step: int) -> StreamArrays:
        return {name: sampler.normalised_noise(fresh) for name, fresh in draw(purpose, step).items()}

    if stage.sampler == "ancestral":
        return partial(sampler.ancestral, noise=partial(draw, "step"))
    if stage.sampler == "res-2s":
        return partial(
            sampler.res_2s, noise=partial(draw_normalised, "step"), middle_noise=partial(draw_normalised, "middle")
        )
    return {"euler": sampler.euler, "gradient-estimation": sampler.gradient_estimation}[stage.sampler]


def predictor(transformer: Transformer, contexts: Contexts, guidance: Mapping[StreamName, Guidance]) -> Predict:
    """The transformer as guidance calls it: a state and passes to clean estimates.

    Passes run one after another, so that activations take the memory of one pass, whatever the guidance.
    """
    positive = _projected(transformer, contexts.positive)
    negative = {**positive, **_projected(transformer, contexts.negative)}

    def predict(
        state: State, sigma: float, passes: Sequence[Pass], computed: Collection[StreamName]
    ) -> dict[Pass, StreamArrays]:
        estimates: dict[Pass, StreamArrays] = {}
        for kind in passes:
            context = negative if kind == "negative" else positive
            inputs: dict[StreamName, StreamInput] = {}
            for name, stream in state.items():
                inputs[name] = _stream_input(stream, context[name], enabled=name in computed, sigma=sigma)
            perturbation = _perturbation(kind, guidance, transformer.config.num_layers)
            perturbations = None if perturbation is None else [perturbation] * len(state["video"].latent)
            video, audio = transformer(inputs["video"], inputs.get("audio"), perturbations, on_block=evaluate_each())
            estimates[kind] = _estimates(state, {"video": video, "audio": audio}, sigma)
            mx.eval(estimates[kind])
        return estimates

    return predict


def _perturbation(kind: Pass, guidance: Mapping[StreamName, Guidance], num_layers: int) -> Perturbation | None:
    if kind == "isolated":
        return Perturbation(audio_to_video=range(num_layers), video_to_audio=range(num_layers))
    if kind == "perturbed":
        blocks = {name: rule.stg_blocks if rule.stg_scale else () for name, rule in guidance.items()}
        return Perturbation(video_self=blocks["video"], audio_self=blocks.get("audio", ()))
    return None


def _estimates(state: State, velocities: Mapping[StreamName, mx.array | None], sigma: float) -> StreamArrays:
    """Clean estimates of the streams that have a velocity."""
    estimates: StreamArrays = {}
    for name, velocity in velocities.items():
        if velocity is not None:
            estimates[name] = to_denoised(state[name].latent, velocity, state[name].timesteps(sigma))
    return estimates


def _projected(transformer: Transformer, contexts: StreamArrays) -> StreamArrays:
    video, audio = transformer.project_context(contexts.get("video"), contexts.get("audio"))
    projected: StreamArrays = {}
    if video is not None:
        projected["video"] = video
    if audio is not None:
        projected["audio"] = audio
    mx.eval(projected)
    return projected


def _stream_input(state: LatentState, context: mx.array, *, enabled: bool, sigma: float) -> StreamInput:
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
