"""Time and floating-point operations of a denoising step by the number of tokens, timed in turns in one run."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from LTX_2_MLX.bench.workloads import PUBLISHED, Workload, transformer_config, transformer_workload
from LTX_2_MLX.models.ltx.config import TransformerConfig
from LTX_2_MLX.shapes import LatentShape, VideoShape

# Latents of 1,000, 2,000, 4,000 and 8,000 tokens, and the videos that they stand for.
_LATENTS = [LatentShape(10, 10, 10), LatentShape(20, 10, 10), LatentShape(20, 20, 10), LatentShape(20, 20, 20)]


class Step(NamedTuple):
    """One denoising step.

    Attributes:
        tokens: Of the video.
        flops: Floating-point operations.
        seconds: The median.
    """

    tokens: int
    flops: int
    seconds: float


def config_2_3(heads: int, layers: int) -> TransformerConfig:
    """The transformer with the flags of 2.3."""
    config = transformer_config(replace(PUBLISHED, heads=heads, layers=layers))
    return replace(config, caption_channels=None, gated_attention=True, text_modulation=True, prompt_modulation=True)


def steps_by_tokens(heads: int, layers: int, text_tokens: int, dtype: mx.Dtype, turns: int) -> list[Step]:
    """A step at each number of tokens, the sizes in turns."""
    config = config_2_3(heads, layers)
    works = [transformer_workload(config, _video(latent), text_tokens, dtype) for latent in _LATENTS]
    network = works[0].build()
    mx.eval(network.parameters())
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(turns + 1):
        for work, seconds in zip(works, taken, strict=True):
            seconds.append(_seconds(work, network))
    # The first turn compiles and fills caches.
    return [
        Step(latent.num_tokens, work.flops, statistics.median(seconds[1:]))
        for latent, work, seconds in zip(_LATENTS, works, taken, strict=True)
    ]


def exponent(tokens: Sequence[int], values: Sequence[float]) -> float:
    """The power of the tokens that the values grow with, fitted to their logarithms."""
    slope, _ = np.polyfit(np.log(tokens), np.log(values), 1)
    return float(slope)


def growth_lines(steps: Sequence[Step]) -> list[str]:
    """The steps as a Markdown table, and both exponents."""
    lines = ["| tokens | TFLOP | s | GFLOP/s |", "|---|---|---|---|"]
    for step in steps:
        rate = step.flops / step.seconds / 1e9
        lines.append(f"| {step.tokens:,} | {step.flops / 1e12:.3f} | {step.seconds:.2f} | {rate:.0f} |")
    tokens = [step.tokens for step in steps]
    of_seconds = exponent(tokens, [step.seconds for step in steps])
    of_flops = exponent(tokens, [step.flops for step in steps])
    return [*lines, f"Seconds grow with the tokens to the power of {of_seconds:.2f}, operations of {of_flops:.2f}."]


def _video(latent: LatentShape) -> VideoShape:
    return VideoShape(8 * (latent.num_frames - 1) + 1, 32 * latent.height, 32 * latent.width)


def _seconds(work: Workload, network: object) -> float:
    start = time.perf_counter()
    work.call(network)
    return time.perf_counter() - start
