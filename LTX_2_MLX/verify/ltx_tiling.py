"""Golden cases of LTX-2's tiled encoding and decoding: tile plans, and results by them."""

from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.layers.streaming import join_frames
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder, VideoVAEConfig
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
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
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last, signed_frames

# The published rules by name: (size, overlap) in frames and pixels, of both sides or of the long side alone, whose
# short side follows in proportion. "auto" is the rule that this library takes too.
PUBLISHED_TILINGS: dict[str, dict[str, Any]] = {
    "default": {"frames": (80, 24), "height": (768, 64), "width": (768, 64)},
    "square512": {"frames": (64, 24), "height": (512, 64), "width": (512, 64)},
    "jan2026": {"frames": (64, 24), "long_side": (512, 64)},
    "auto": {"rule": "auto"},
}


def video_vae_tiled(case: Case) -> Outputs:
    """Tile plans, and encoding or decoding by them; a case without a network holds plans alone."""
    if not case.spec["tensors"]:
        return _named_plans(case)
    return _tiled_encode(case) if "video_u8" in case.inputs() else _tiled_decode(case)


def _tiled_decode(case: Case) -> Outputs:
    decoder = load(VideoDecoder, case.checkpoint(), dtype=case.dtype)
    latent = channels_last(case.inputs()["latent"])
    plan = _decode_plan(LatentShape(*latent.shape[1:4]), case.parameter("tiling"), decoder.compression)
    chunks = list(decode_tiled(decoder, latent, plan))
    video = join_frames(*chunks)
    whole = decoder.decode(latent)
    return {
        "video": channels_first(video),
        "video_untiled": channels_first(whole),
        "chunk_lengths": _reference_lengths(plan, [chunk.shape[1] for chunk in chunks]),
        "complementary": np.array([plan.sums_to_one], np.int32),
        "tiled_minus_untiled_max": mx.abs(video - whole).max()[None],
    } | _plan_outputs(plan, "plan.")


def _tiled_encode(case: Case) -> Outputs:
    encoder = load(VideoEncoder, case.checkpoint(), dtype=case.dtype)
    frames = signed_frames(case.inputs()["video_u8"])
    shape = VideoShape(*frames.shape[1:4]).latent(encoder.compression)
    tiling = _tiling(case.parameter("tiling"), shape, encoder.compression)
    plan = encode_plan(shape, tiling, encoder.compression)
    # In chunks of three: the tiles' bounds and the stream's have nothing to do with each other.
    chunks = (frames[:, start : start + 3] for start in range(0, frames.shape[1], 3))
    latent = join_frames(*encode_tiled(encoder, chunks, plan))
    whole = encoder.encode(frames)
    return {
        "latent": channels_first(latent),
        "latent_untiled": channels_first(whole),
        "tiled_minus_untiled_max": mx.abs(latent - whole).max()[None],
    } | _plan_outputs(plan, "plan.")


def _named_plans(case: Case) -> Outputs:
    """Plans at the full size's compression: ``parameters.plans`` gives each name's latent ``(T, H, W)``."""
    config = VideoVAEConfig.from_header(Header(tensors={}, config=case.config))
    assert config is not None
    compression = config.decoder_compression
    tilings = PUBLISHED_TILINGS | case.parameters.get("tilings", {})
    outputs: Outputs = {}
    for name, latent in case.parameter("plans").items():
        plan = _decode_plan(LatentShape(*latent), tilings[name], compression)
        outputs |= _plan_outputs(plan, f"{name}.")
        outputs[f"{name}.complementary"] = np.array([plan.sums_to_one], np.int32)
    return outputs


def _decode_plan(latent: LatentShape, sizes: dict[str, Any], compression: Compression) -> TilePlan:
    """A plan by sizes in frames and pixels, or by the number of tiles with an overlap in latent cells."""
    if sizes.get("by") == "count":
        time = split_evenly(latent.num_frames, *sizes["frames"])
        height = split_evenly(latent.height, *sizes["height"])
        width = split_evenly(latent.width, *sizes["width"])
        return plan_from_cells(start_earlier(time), height, width, compression)
    return decode_plan(latent, _tiling(sizes, latent, compression), compression)


def _tiling(sizes: dict[str, Any], latent: LatentShape, compression: Compression) -> Tiling:
    """Tile sizes and overlaps in frames and pixels; a size of 0 leaves that axis whole."""
    if sizes.get("rule") == "auto":
        return default_tiling(latent, compression)
    time = _tile_size(sizes["frames"], compression.time)
    if "long_side" in sizes:
        long_side = _tile_size(sizes["long_side"], compression.width)
        assert long_side is not None
        return Tiling.along_long_side(latent, long_side, time)
    height = _tile_size(sizes["height"], compression.height)
    width = _tile_size(sizes["width"], compression.width)
    return Tiling(time, height, width)


def _tile_size(sizes: tuple[int, int], compression: int) -> TileSize | None:
    tile, overlap = sizes
    return TileSize.from_pixels(tile, overlap, compression)


def _reference_lengths(plan: TilePlan, lengths: list[int]) -> np.ndarray:
    """Lengths of our chunks with the empty ones that the reference yields where two spans start at one frame."""
    targets = plan.time.targets
    starts = [tile.start for tile in targets]
    ends = [*starts[1:], targets[-1].stop]
    remaining = iter(lengths)
    yielded = [next(remaining) if end > start else 0 for start, end in zip(starts, ends, strict=True)]
    return np.array(yielded, np.int32)


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
