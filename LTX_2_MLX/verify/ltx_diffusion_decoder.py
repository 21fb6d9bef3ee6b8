"""LTX-2.5's diffusion video decoder and the plans of its tiles."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.errors import LTXError, MemoryBudgetError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder
from LTX_2_MLX.models.ltx.diffusion_decoder_config import Axes, DiffusionDecoderConfig
from LTX_2_MLX.models.ltx.diffusion_decoder_tiling import (
    AxisTiling,
    DiffusionTiling,
    DiffusionTilingLimits,
    decode,
    decode_plan,
    fitting_tiling,
)
from LTX_2_MLX.ops.tiling import TiledAxis, TilePlan
from LTX_2_MLX.shapes import LatentShape, VideoShape
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last


class GivenNoise:
    """The case's draws of noise, one after another."""

    def __init__(self, case: Case):
        draws = case.inputs("noise.")
        self.draws = [channels_last(draws[key]) for key in sorted(draws, key=int)]

    def __call__(self, shape: tuple[int, ...], first: Axes) -> mx.array:
        if not self.draws or self.draws[0].shape != tuple(shape):
            raise LTXError(f"The decoder asks for noise of {tuple(shape)}, the case's next draw is another.")
        return self.draws.pop(0)


def diffusion_decoder(case: Case) -> Outputs:
    """Decode a latent, whole or in tiles; with tiles the plan as well."""
    call = case.spec["call"]
    decoder = load(DiffusionVideoDecoder, case.checkpoint(), dtype=case.dtype)
    latent = channels_last(case.inputs()["latent"])
    tiling = tiling_of(call["tiling"])
    chunks = list(decode(decoder, latent, GivenNoise(case), tiling=tiling, mode=call["mode"]))
    outputs: Outputs = {
        "video": channels_first(mx.concatenate(chunks, axis=1)),
        "chunk_lengths": _chunk_lengths(case, chunks),
    }
    if call["tiling"] is not None:
        smallest = decoder.config.smallest_latent
        frames, height, width = (max(pair) for pair in zip(latent.shape[1:4], smallest, strict=True))
        shape = LatentShape(frames, height, width)
        outputs |= _plan_outputs(decode_plan(decoder.config, shape, tiling))
    return outputs


def _chunk_lengths(case: Case, chunks: list[mx.array]) -> np.ndarray:
    """Frames of each chunk; the reference counts one chunk where it decodes in one go."""
    lengths = [chunk.shape[1] for chunk in chunks]
    stored = case.outputs()["chunk_lengths"]
    return np.array(lengths, stored.dtype)


def tiling_of(values: dict | None) -> DiffusionTiling | None:
    """Tiles as a case gives them: size and overlap by axis, 0 for an axis that is not tiled."""
    if values is None:
        return None
    axes = [AxisTiling(*values[name]) if values[name][0] else None for name in ("frames", "height", "width")]
    return DiffusionTiling(*axes)


def _plan_outputs(plan: TilePlan, prefix: str = "plan.") -> Outputs:
    axes = (plan.time, plan.height, plan.width)
    outputs: Outputs = {
        f"{prefix}complementary": np.array([plan.sums_to_one], np.int32),
        f"{prefix}in_coords": _coordinates([axis.sources for axis in axes]),
        f"{prefix}out_coords": _coordinates([axis.targets for axis in axes]),
        f"{prefix}stage4_grid": np.array([axis.sources[-1].stop for axis in axes], np.int32),
    }
    for letter, axis in zip("thw", axes, strict=True):
        outputs |= _masks(f"{prefix}mask_{letter}", axis)
    return outputs


def _coordinates(axes: list) -> np.ndarray:
    """``(tiles, 3, 2)`` starts and stops, time the slowest axis."""
    time, height, width = axes
    rows = [(t, h, w) for t in time for h in height for w in width]
    return np.array([[(span.start, span.stop) for span in row] for row in rows], np.int32)


def _masks(name: str, axis: TiledAxis) -> Outputs:
    return {f"{name}.{number}": weights for number, weights in enumerate(axis.weights)}


def diffusion_decoder_plan(case: Case) -> Outputs:
    """Limits of tiles, and the tiles that fit into given memory."""
    config = DiffusionDecoderConfig.from_header(Header(tensors={}, config=case.config))
    if config is None:
        raise LTXError("The case's config has no diffusion decoder.")
    limits = DiffusionTilingLimits.of(config)
    outputs: Outputs = {
        "geometry.halo_stage4": np.array(limits.halo_stage4),
        "geometry.halo_stage5": np.array(limits.halo_stage5),
        "geometry.overlap_frames_pixels": np.array([limits.overlap_frames, limits.overlap_pixels]),
        "geometry.stage_min_latent": np.array(config.smallest_latent),
        "geometry.tile_min_stage4": np.array(limits.smallest),
    }
    for request in case.spec["call"]["cases"]:
        outputs |= _fitting_outputs(config, request)
    return outputs


def _fitting_outputs(config: DiffusionDecoderConfig, request: dict) -> Outputs:
    name = request["name"]
    video = VideoShape(request["frames"], request["height"], request["width"])
    memory = {"free_bytes": request["free_bytes"], "weights_bytes": request["model_bytes"]}
    try:
        tiling = fitting_tiling(config, video, **memory)
    except MemoryBudgetError:
        return {f"{name}.fits": np.array([0])}
    rows = [(axis.size, axis.overlap) for axis in (tiling.time, tiling.height, tiling.width) if axis is not None]
    outputs: Outputs = {f"{name}.fits": np.array([1]), f"{name}.tiling": np.array(rows)}
    plan = _plan_outputs(decode_plan(config, video.latent(config.compression), tiling), f"{name}.plan.")
    return outputs | plan
