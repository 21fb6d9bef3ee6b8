"""Denoise small, upscale the latent, refine at twice the size."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx.core as mx

from LTX_2_MLX.diffusion import sampler
from LTX_2_MLX.diffusion.noise import Noise
from LTX_2_MLX.diffusion.state import Streams
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.stages import Contexts, Denoising, denoise
from LTX_2_MLX.runtime.runner import StageRunner


@dataclass(frozen=True)
class TwoStageLatents:
    """What each step leaves: video latents ``(B, T, H, W, C)``, audio tokens ``(B, N, D)``."""

    stage_1: Streams[mx.array]
    upscaled: mx.array
    stage_2: Streams[mx.array]


def denoise_in_two_stages(
    runner: StageRunner,
    first: tuple[Denoising, Callable[[], Transformer]],
    second: tuple[Denoising, Callable[[], Transformer]],
    upscale: Callable[[mx.array], mx.array],
    contexts: Contexts,
    noise: Noise,
    on_step: Callable[[str], sampler.OnStep] = lambda name: sampler.ignore,
) -> TwoStageLatents:
    """Both stages with the latent upscaler between them.

    Args:
        runner: Runs the stages.
        first: Stage 1 and what loads its transformer.
        second: Stage 2 and what loads its transformer. It starts from stage 1's latents at its own first noise level.
        upscale: A normalised video latent to a larger one.
        contexts: Of both stages.
        noise: Of both stages.
        on_step: For a stage's name, what hears of its steps.
    """
    stage, load = first
    small = denoise(runner, load, stage, contexts, noise, on_step(stage.name))
    upscaled = upscale(small.video)
    stage, load = second
    start = Streams(upscaled, None if stage.frozen_audio is not None else small.audio)
    stage = replace(stage, start=start, noise_scale=float(stage.sigmas[0]))
    refined = denoise(runner, load, stage, contexts, noise, on_step(stage.name))
    return TwoStageLatents(small, upscaled, refined)
