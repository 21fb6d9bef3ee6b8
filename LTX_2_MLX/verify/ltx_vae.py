"""LTX-2's video autoencoder, its tiles, the latent upscalers and the temporal second pass."""

import re
from itertools import product

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.errors import LTXError
from LTX_2_MLX.layers.streaming import join_frames
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, LatentStatisticsConfig, Level, VideoDecoder, VideoEncoder
from LTX_2_MLX.models.ltx.video_vae_config import VideoVAEConfig
from LTX_2_MLX.models.ltx.video_vae_tiling import (
    TileSize,
    Tiling,
    decode_plan,
    decode_tiled,
    default_tiling,
    encode_plan,
    encode_tiled,
    plan_from_cells,
)
from LTX_2_MLX.ops.tiling import Interval, TilePlan, split_evenly, start_earlier
from LTX_2_MLX.shapes import Compression, LatentShape, VideoShape
from LTX_2_MLX.verify import Outputs, component
from LTX_2_MLX.verify.case import Case


def channels_last(array: np.ndarray) -> mx.array:
    """``(B, C, T, H, W)`` as stored to ``(B, T, H, W, C)``, float32."""
    return mx.array(np.moveaxis(array, 1, -1).astype(np.float32))


def channels_first(array: mx.array) -> np.ndarray:
    """``(B, T, H, W, C)`` to the references' ``(B, C, T, H, W)``, float32."""
    return np.moveaxis(np.array(array.astype(mx.float32)), -1, 1)


def signed_frames(u8: np.ndarray) -> mx.array:
    """Stored uint8 ``(B, 3, T, H, W)`` to [-1, 1], channels last."""
    return channels_last(u8) / 127.5 - 1


@component("ltx2/video_vae")
def video_vae(case: Case) -> Outputs:
    """Encode or decode a clip; where the case holds values inside the run, block by block as well."""
    io, checkpoint = case.inputs(), case.checkpoint()
    if "video_u8" in io:
        encoder, frames = load(VideoEncoder, checkpoint), signed_frames(io["video_u8"])
        latent = encoder.encode(frames)
        outputs = {
            "latent": latent,
            "latent_unnormalized": encoder.per_channel_statistics.denormalise(latent),
        } | _stages(encoder.levels(), "down_blocks", frames)
    else:
        decoder, latent = load(VideoDecoder, checkpoint), channels_last(io["latent"])
        noise = channels_last(io["noise"]) if "noise" in io else None
        timestep = mx.array(io["timestep"]) if "timestep" in io else None
        outputs = {"video": decoder.decode(latent, noise=noise, timestep=timestep)}
        if noise is None:
            outputs |= _stages(decoder.levels(len(latent)), "up_blocks", latent)
    return {name: channels_first(value) for name, value in outputs.items()}


def _stages(levels: list[Level], blocks: str, x: mx.array) -> dict[str, mx.array]:
    names = ["conv_in", *(f"{blocks}.{number}" for number in range(len(levels) - 2))]
    outputs = {}
    for name, level in zip(names, levels[:-1], strict=True):
        x = outputs[f"stage.{name}"] = level.push(x, True)
    return outputs


@component("ltx2/latent_upscaler")
def latent_upscaler(case: Case) -> Outputs:
    """Upscale a latent in space or time."""
    io, upscaler = case.inputs(), load(LatentUpscaler, case.checkpoint())
    latent, statistics = channels_last(io["latent"]), _statistics(io)
    outputs = {
        "latent": upscaler.upscale(latent, statistics),
        "raw": upscaler(statistics.denormalise(latent)),
    }
    return {name: channels_first(value) for name, value in outputs.items()}


def _statistics(io: dict[str, np.ndarray]) -> LatentStatistics:
    statistics = LatentStatistics(LatentStatisticsConfig(channels=len(io["mean_of_means"])))
    statistics.update({"mean": mx.array(io["mean_of_means"]), "std": mx.array(io["std_of_means"])})
    return statistics


@component("ltx2/video_vae_tiled")
def video_vae_tiled(case: Case) -> Outputs:
    """Tile plans, and encoding or decoding by them; a case without a network holds plans alone."""
    if not case.spec["tensors"]:
        return _published_plans(case)
    return _tiled_encode(case) if "video_u8" in case.inputs() else _tiled_decode(case)


def _tiled_decode(case: Case) -> Outputs:
    decoder, latent = load(VideoDecoder, case.checkpoint()), channels_last(case.inputs()["latent"])
    shape, (time, height, width) = _latent_shape(latent), _noted_tiles(case)
    if "tile count" in case.spec["notes"]:
        cells = [split_evenly(length, *tile) for length, tile in zip(shape, (time, height, width), strict=True)]
        plan = plan_from_cells(start_earlier(cells[0]), cells[1], cells[2], decoder.compression)
    else:
        plan = decode_plan(LatentShape(*shape), _tiling(time, height, width, decoder), decoder.compression)
    chunks = list(decode_tiled(decoder, latent, plan))
    video, whole = join_frames(*chunks), decoder.decode(latent)
    return {
        "video": channels_first(video),
        "video_untiled": channels_first(whole),
        "chunk_lengths": _reference_lengths(plan, [chunk.shape[1] for chunk in chunks]),
        "complementary": np.array([plan.sums_to_one], np.int32),
        "tiled_minus_untiled_max": mx.abs(video - whole).max()[None],
    } | _plan_outputs(plan, "plan.")


def _tiled_encode(case: Case) -> Outputs:
    encoder, frames = load(VideoEncoder, case.checkpoint()), signed_frames(case.inputs()["video_u8"])
    shape = VideoShape(*frames.shape[1:4]).latent(encoder.compression)
    plan = encode_plan(shape, _tiling(*_noted_tiles(case), encoder), encoder.compression)
    # In chunks of three: the tiles' bounds and the stream's have nothing to do with each other.
    chunks = (frames[:, start : start + 3] for start in range(0, frames.shape[1], 3))
    latent, whole = join_frames(*encode_tiled(encoder, chunks, plan)), encoder.encode(frames)
    return {
        "latent": channels_first(latent),
        "latent_untiled": channels_first(whole),
        "tiled_minus_untiled_max": mx.abs(latent - whole).max()[None],
    } | _plan_outputs(plan, "plan.")


def _reference_lengths(plan: TilePlan, lengths: list[int]) -> np.ndarray:
    """Lengths of our chunks with the empty ones that the reference gives where two spans start at one frame."""
    starts, left = [tile.start for tile in plan.time.targets], iter(lengths)
    ends = [*starts[1:], plan.time.targets[-1].stop]
    return np.array([next(left) if end > start else 0 for start, end in zip(starts, ends, strict=True)], np.int32)


def _latent_shape(latent: mx.array) -> tuple[int, int, int]:
    return latent.shape[1], latent.shape[2], latent.shape[3]


def _noted_tiles(case: Case) -> list[tuple[int, int]]:
    """(size or count, overlap) of time, height and width, as the case's notes say it; (0, 0) is untiled."""
    tiles = []
    for axis in ("frames", "height", "width"):
        found = re.search(rf"{axis} (?:\((\d+), ?(\d+)\)|untiled)", case.spec["notes"])
        if found is None:
            raise LTXError(f"The notes of the golden case do not say how {axis} are tiled.")
        tiles.append((int(found[1]), int(found[2])) if found[1] else (0, 0))
    return tiles


def _tiling(
    time: tuple[int, int], height: tuple[int, int], width: tuple[int, int], network: VideoEncoder | VideoDecoder
) -> Tiling:
    compression = network.compression
    return Tiling(
        TileSize.from_pixels(*time, compression.time),
        TileSize.from_pixels(*height, compression.height),
        TileSize.from_pixels(*width, compression.width),
    )


def _plan_outputs(plan: TilePlan, prefix: str) -> Outputs:
    axes = {"t": plan.time, "h": plan.height, "w": plan.width}
    outputs: Outputs = {
        f"{prefix}in_coords": _coordinates([axis.sources for axis in axes.values()]),
        f"{prefix}out_coords": _coordinates([axis.targets for axis in axes.values()]),
    }
    for letter, axis in axes.items():
        outputs |= {f"{prefix}mask_{letter}.{number}": weights for number, weights in enumerate(axis.weights)}
    return outputs


def _coordinates(axes: list[list[Interval]]) -> np.ndarray:
    return np.array([[(tile.start, tile.stop) for tile in tiles] for tiles in product(*axes)], np.int32)


def _published_plans(case: Case) -> Outputs:
    """Plans at the full size's compression: each name stands for a rule, its latent is in the notes."""
    compression = VideoVAEConfig.from_header(Header(tensors={}, config=case.config)).decoder_compression
    outputs: Outputs = {}
    latent = None
    for name, text in re.findall(r"'(\w+)' ((?:(?!'\w+' is).)*)", case.spec["notes"]):
        if found := re.search(r"latent \((\d+),(\d+),(\d+)\)", text):
            latent = LatentShape(*map(int, found.groups()))
        plan = decode_plan(latent, _PUBLISHED_TILINGS[name](latent, compression), compression)
        outputs |= _plan_outputs(plan, f"{name}.")
        outputs[f"{name}.complementary"] = np.array([plan.sums_to_one], np.int32)
    return outputs


def _square(side: tuple[int, int], frames: tuple[int, int], compression: Compression) -> Tiling:
    return Tiling(
        TileSize.from_pixels(*frames, compression.time),
        TileSize.from_pixels(*side, compression.height),
        TileSize.from_pixels(*side, compression.width),
    )


_PUBLISHED_TILINGS = {
    "default": lambda latent, compression: _square((768, 64), (80, 24), compression),
    "auto": default_tiling,
    "jan2026": lambda latent, compression: Tiling.along_long_side(
        latent, TileSize.from_pixels(512, 64, compression.width), TileSize.from_pixels(64, 24, compression.time)
    ),
    "square512": lambda latent, compression: _square((512, 64), (64, 24), compression),
}


@component("ltx2/temporal_second_pass")
def temporal_second_pass(case: Case) -> Outputs:
    """Frames through encoder, temporal upscaler and decoder: twice the rate."""
    checkpoint = case.checkpoint()
    statistics = load(LatentStatistics, checkpoint)
    latent = load(VideoEncoder, checkpoint).encode(signed_frames(case.inputs()["video_u8"]))
    upscaled = load(LatentUpscaler, checkpoint).upscale(latent, statistics)
    video = load(VideoDecoder, checkpoint).decode(upscaled)
    return {
        "latent": channels_first(latent),
        "latent_upsampled": channels_first(upscaled),
        "frames": mx.clip((video[0] + 1) / 2, 0, 1),
    }
