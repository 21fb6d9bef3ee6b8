"""Planned and measured memory of LTX-2.5's diffusion decoder, with weights of no meaning."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder
from LTX_2_MLX.models.ltx.diffusion_decoder_blocks import AttentionMode
from LTX_2_MLX.models.ltx.diffusion_decoder_config import DiffusionDecoderConfig
from LTX_2_MLX.models.ltx.diffusion_decoder_memory import decoding_plan
from LTX_2_MLX.models.ltx.diffusion_decoder_tiling import decode
from LTX_2_MLX.runtime.this_machine import memory_limits
from LTX_2_MLX.shapes import VideoShape


@dataclass(frozen=True)
class DecoderPeak:
    """Bytes beside the weights: those of the plan, and MLX's peak."""

    planned: int
    measured: int


def shallow(config: DiffusionDecoderConfig) -> DiffusionDecoderConfig:
    """The decoder with one block in each stage: as much memory, in less time."""
    return replace(config, stage_depths=tuple(1 for _ in config.stage_depths))


def shallow_decoder(section: dict[str, Any]) -> DiffusionVideoDecoder:
    """A decoder of the widths that a published file's ``config`` names, with one block in each stage."""
    config = DiffusionDecoderConfig.from_header(Header(tensors={}, config=section))
    assert config is not None
    return DiffusionVideoDecoder(shallow(config))


def decoder_peak(
    decoder: DiffusionVideoDecoder, video: VideoShape, mode: AttentionMode, *, budget: int, runs: int = 2
) -> DecoderPeak:
    """The larger peak of so many runs: the CPU's thread may fall behind in one of them."""
    config = decoder.config
    dtype = decoder.conv_in.weight.dtype
    shape = video.latent(config.compression)
    plan = decoding_plan(config, shape, budget=budget, dtype=dtype, mode=mode)
    latent = mx.zeros((1, shape.num_frames, shape.height, shape.width, config.in_channels))
    mx.eval(latent, decoder.parameters())
    largest = 0
    for _ in range(runs):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        with memory_limits():
            for chunk in decode(
                decoder,
                latent,
                lambda part, first: mx.random.normal(part),
                tiling=plan.tiling,
                mode=mode,
                frames_at_once=plan.frames_at_once,
            ):
                del chunk
        largest = max(largest, mx.get_peak_memory() - before)
    return DecoderPeak(plan.num_bytes, largest)


def peak_lines(decoder: DiffusionVideoDecoder, videos: Iterable[VideoShape], *, budget: int) -> Iterator[str]:
    """A Markdown table of the planned and the measured peaks of videos."""
    yield "| video | planned, MiB | measured, MiB | ratio |"
    yield "|---|---|---|---|"
    for video in videos:
        peak = decoder_peak(decoder, video, "chunked", budget=budget)
        yield (
            f"| {video.height}×{video.width}×{video.num_frames} | {peak.planned / 2**20:.1f} | "
            f"{peak.measured / 2**20:.1f} | {peak.planned / peak.measured:.3f} |"
        )
