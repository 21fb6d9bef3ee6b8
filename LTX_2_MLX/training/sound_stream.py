"""Training of the transformer's audio stream beside a video stream that stays as it is.

The video never attends to the sound: what its tokens are in each block is recorded once, at many noise levels, and the
audio stream is trained on the records by flow matching. It attends to the prompt and to the video.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.checkpoints.gemma3 import TextEncoder
from LTX_2_MLX.diffusion.sampler import DISTILLED
from LTX_2_MLX.diffusion.state import AudioClock
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import CrossModalArgs, StreamArgs, StreamInput, Transformer
from LTX_2_MLX.shapes import StreamName
from LTX_2_MLX.training.bundle import DEFAULTS
from LTX_2_MLX.training.captions import caption, no_caption
from LTX_2_MLX.training.clips import scene_of
from LTX_2_MLX.training.denoiser import draw_sigmas
from LTX_2_MLX.training.language import contexts
from LTX_2_MLX.training.loop import Batch

# Share of records without a caption, and of samples whose sound alone has none: it then has to look at the video.
_DROPOUT = 0.1
_SOUND_DROPOUT = 0.2
_AT_ONCE = 20
_REFINEMENT = DEFAULTS["refinement"][:-1]


@dataclass(frozen=True)
class Records:
    """What the video stream of one network is at one size.

    Attributes:
        numbers: Numbers of the scenes ``(R,)``.
        sigmas: Noise levels ``(R,)``.
        context: Text features ``(R, L, D)``, of the prompts.
        tokens: Video tokens of each block where the audio stream sees them, ``(R, blocks, N, width)`` float16.
        places: Where the tokens lie, ``(1, 3, N, 2)``.
    """

    numbers: np.ndarray
    sigmas: np.ndarray
    context: np.ndarray
    tokens: np.ndarray
    places: np.ndarray


def begin_sound(network: Transformer, seed: int = 0) -> Transformer:
    """Random weights for the audio stream, the only ones to be trained; the video's attention to it adds nothing."""
    mx.random.seed(seed)
    network.freeze()
    for block in network.blocks:
        for part in (block.audio, block.video_to_audio_attention):
            _begin(part)
            part.unfreeze()
        _begin(block.audio_to_video_attention)
        width = block.audio.scale_shift_table.shape[1]
        block.audio.scale_shift_table = mx.repeat(mx.array([0.0, 0, 1, 0, 0, 1])[:, None], width, axis=1)
        block.audio.cross_modal_table = mx.repeat(mx.array([0.0, 0, 0, 0, 1])[:, None], width, axis=1)
        block.video.unfreeze(recurse=False, keys=["cross_modal_table"])
    for module in (network.audio, network.video.cross_modal_adaln, network.video.cross_modal_gate_adaln):
        _begin(module)
    network.audio.unfreeze()
    network.video.cross_modal_adaln.unfreeze()
    mx.eval(network.parameters())
    return network


def _begin(module: nn.Module) -> None:
    """Random weights, so that every layer adds nothing at first."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            ends = name.endswith(("to_out", "project_out", "proj_out", "adaln.linear")) or name == "linear"
            width = layer.weight.shape[1]
            layer.weight = mx.random.normal(layer.weight.shape) * (0.0 if ends else width**-0.5)
            layer.bias = mx.zeros_like(layer.bias)


def video_tokens(network: Transformer, video: StreamInput) -> mx.array:
    """Video tokens of each block after its attention to the text, ``(B, blocks, N, width)``."""
    tokens, args = network.video.embed(video.latent), network.video.stream_args(video)
    found = []
    for block in network.blocks:
        tokens = block.video.add_text_attention(block.video.add_self_attention(tokens, args, None), args)
        found.append(tokens)
        tokens = block.video.add_feed_forward(tokens, args)
    return mx.stack(found, axis=1)


def record(
    network: Transformer,
    latents: np.ndarray,
    places: np.ndarray,
    sigmas: np.ndarray,
    text: tuple[TextEncoder, TextFeatures],
    rng: np.random.Generator,
) -> Records:
    """Noisy latents ``(scenes, T, H, W, C)`` of random scenes through the video stream, one for each of ``sigmas``."""
    numbers = rng.integers(0, len(latents), len(sigmas))
    context, tokens = [], []
    for start in range(0, len(sigmas), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        captions = [
            no_caption(rng) if rng.random() < _DROPOUT else caption(scene_of(int(n)), rng) for n in numbers[part]
        ]
        features = contexts(*text, captions)
        clean = latents[numbers[part]].astype(np.float32).reshape(len(features), -1, latents.shape[-1])
        noise = rng.standard_normal(clean.shape, np.float32)
        noisy = clean + sigmas[part, None, None] * (noise - clean)
        video = StreamInput(mx.array(noisy), mx.array(sigmas[part]), places, mx.array(features))
        tokens.append(np.array(video_tokens(network, video).astype(mx.float16)))
        context.append(features)
    return Records(numbers, sigmas, np.concatenate(context), np.concatenate(tokens), places)


def even_sigmas(rng: np.random.Generator, count: int) -> np.ndarray:
    """Noise levels of guided schedules: as the video was trained on, and half of them nearer to 1."""
    high = 1 - rng.random(count) ** 2
    return np.where(rng.random(count) < 0.5, draw_sigmas(rng, count), high).astype(np.float32)


def distilled_sigmas(rng: np.random.Generator, count: int) -> np.ndarray:
    """Noise levels of the distilled schedule, and of the refinement, which may be done at the small size as well."""
    return rng.choice(np.array([*DISTILLED[:-1], *_REFINEMENT], np.float32), count)


def refinement_sigmas(rng: np.random.Generator, count: int) -> np.ndarray:
    """Noise levels of the refinement."""
    return rng.choice(np.array(_REFINEMENT, np.float32), count)


def sound_velocity(network: Transformer, audio: StreamInput, seen: mx.array, video: StreamInput) -> mx.array:
    """Velocity of the audio stream beside recorded video tokens ``(B, blocks, N, width)``."""
    args = network.audio.stream_args(audio)
    both: dict[StreamName, StreamArgs] = {"video": replace(args, enabled=False), "audio": args}
    cross: dict[StreamName, CrossModalArgs] = {
        "video": network.video.cross_modal_args(video, audio),
        "audio": network.audio.cross_modal_args(audio, video),
    }
    tokens = network.audio.embed(audio.latent)
    for number, block in enumerate(network.blocks):
        tokens = block({"video": seen[:, number], "audio": tokens}, both, cross)["audio"]
    return network.audio.velocity(tokens, args)


def sound_batches(
    records: Sequence[Records], shares: Sequence[float], sounds: np.ndarray, empty: np.ndarray
) -> Callable[[np.random.Generator, int], Batch]:
    """Batches of one kind of records each.

    Args:
        records: Kinds of records.
        shares: How often each kind is taken.
        sounds: Audio latents of the scenes, ``(scenes, T, C)``.
        empty: The context of no prompt, ``(L, D)``.
    """

    def batches(rng: np.random.Generator, count: int) -> Batch:
        kind = records[rng.choice(len(records), p=shares)]
        rows = rng.integers(0, len(kind.numbers), count)
        context = kind.context[rows]
        context[rng.random(count) < _SOUND_DROPOUT] = empty
        return {
            "latent": mx.array(sounds[kind.numbers[rows]]),
            "context": mx.array(context),
            "sigma": mx.array(kind.sigmas[rows]),
            "seen": mx.array(kind.tokens[rows].astype(np.float32)),
            "places": mx.array(kind.places),
        }

    return batches


def sound_loss(network: Transformer, batch: Batch, key: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
    """Squared error of the audio stream's velocity."""
    latent, sigma = batch["latent"], batch["sigma"]
    noise = mx.random.normal(latent.shape, key=key)
    level = sigma[:, None, None]
    noisy = latent + level * (noise - latent)
    audio = StreamInput(noisy, sigma, AudioClock().positions(latent.shape[1]), batch["context"])
    video = StreamInput(batch["seen"], sigma, np.array(batch["places"]), batch["context"])
    squared = mx.square(sound_velocity(network, audio, batch["seen"], video) - (noise - latent))
    clean = (squared * mx.square(level)).mean()
    return squared.mean(), {"clean": clean}
