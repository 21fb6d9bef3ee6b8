"""Frames to latents and back within the machine's memory.

Encoding and decoding run piece by piece with the exact result, whatever the clip's length. Tiles, which are not exact,
come in where a frame is too large for that, or where the user gives their size.
"""

from collections.abc import Iterable, Iterator
from math import prod

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import MemoryBudgetError, RequestError
from LTX_2_MLX.layers.streaming import join_frames
from LTX_2_MLX.media.frames import signed_to_uint8, to_signed
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder, VideoEncoder
from LTX_2_MLX.models.ltx.video_vae_memory import decoder_layers, encoder_layers, run_bytes
from LTX_2_MLX.models.ltx.video_vae_tiling import (
    TileSize,
    Tiling,
    decode_plan,
    decode_tiled,
    encode_plan,
    encode_tiled,
)
from LTX_2_MLX.runtime.memory import GIB, budget_bytes
from LTX_2_MLX.shapes import Compression, LatentShape, VideoShape

# Activations may take this share of the budget: the rest is for weights, frames in flight and other stages' results.
_BUDGET_SHARE = 0.5
# Shorter spans than the published 80 frames: all the frames of a span stand in memory while its tiles are blended.
_TILE_FRAMES, _TILE_FRAMES_OVERLAP = 40, 16
_TILE_OVERLAP = 64
# Of the frames of one span of time, in float32: those being added up, those of the span before, and one sum.
BLEND_COPIES = 3
_SMALLEST_TILE_CELLS = 4


def encode_frames(
    encoder: VideoEncoder,
    chunks: Iterable[np.ndarray],
    *,
    size: tuple[int, int],
    num_frames: int | None,
    tile_size: int | None = None,
    budget: int | None = None,
) -> mx.array:
    """The normalised latent ``(1, T', H', W', C)`` of a clip that comes in chunks ``(T, H, W, 3)`` uint8.

    Args:
        encoder: Its weights' dtype is the precision.
        chunks: 8k + 1 frames in all (of the encoder's own compression).
        size: Height and width of the frames.
        num_frames: How many will come; None where only reading them tells, which is enough without tiles.
        tile_size: Side of a tile in pixels; None: whole frames wherever memory allows.
        budget: Bytes for activations; see ``choose_tiling``.

    Raises:
        RequestError: If a size is not legal, or tiles are needed and the number of frames is unknown.
        MemoryBudgetError: If no tile is small enough.
    """
    latent = VideoShape(num_frames or 1, *size).latent(encoder.compression)
    frames = (to_signed(chunk)[None] for chunk in chunks)
    tiling = choose_tiling(encoder, latent, tile_size, budget)
    if tiling is None:
        return join_frames(*encoder.stream(frames))
    if num_frames is None:
        raise RequestError(
            "The clip does not say how many frames it has, and tiles have to know. "
            "Write it anew as .mp4, or leave out --tile-size."
        )
    return join_frames(*encode_tiled(encoder, frames, encode_plan(latent, tiling, encoder.compression)))


def decode_frames(
    decoder: VideoDecoder,
    latent: mx.array,
    tile_size: int | None = None,
    key: mx.array | None = None,
    budget: int | None = None,
) -> Iterator[np.ndarray]:
    """Consecutive chunks ``(T, H, W, 3)`` uint8 of the video of a normalised latent ``(1, T', H', W', C)``.

    Args:
        decoder: Its weights' dtype is the precision.
        latent: Of one film.
        tile_size: Side of a tile in pixels; None: whole frames where memory allows.
        key: Key of the noise that a timestep-conditioned decoder adds.
        budget: Bytes for activations; see ``choose_tiling``.

    Raises:
        MemoryBudgetError: If no tile is small enough.
        OutputError: If the network gives NaN or infinite values.
    """
    shape = LatentShape(*latent.shape[1:4])
    tiling = choose_tiling(decoder, shape, tile_size, budget)
    if tiling is None:
        chunks = decoder.stream([latent], key=key)
    else:
        chunks = decode_tiled(decoder, latent, decode_plan(shape, tiling, decoder.compression), key)
    for chunk in chunks:
        yield signed_to_uint8(chunk[0])


def activation_budget(limit_gib: float | None = None) -> int:
    """Bytes that activations of encoding and decoding may take, of a user's limit or of what the machine lends."""
    return int(budget_bytes(limit_gib) * _BUDGET_SHARE)


def choose_tiling(
    network: VideoEncoder | VideoDecoder, latent: LatentShape, tile_size: int | None = None, budget: int | None = None
) -> Tiling | None:
    """Tiles that a clip needs: None, whole frames, wherever they fit.

    Args:
        network: What will run.
        latent: Size of the clip's latent.
        tile_size: Side of a tile in pixels that the user wants.
        budget: Bytes for the network's activations; half of the machine's budget unless given.

    Raises:
        RequestError: If ``tile_size`` does not fit the compression.
        MemoryBudgetError: If not even the smallest tiles fit.
    """
    if tile_size is not None:
        return square_tiles(tile_size, network.compression)
    budget = activation_budget() if budget is None else budget
    if _activation_bytes(network, latent.height, latent.width) <= budget:
        return None
    compression = network.compression
    pixels = prod((_TILE_FRAMES, latent.height * compression.height, latent.width * compression.width))
    left = budget - BLEND_COPIES * 3 * mx.float32.size * pixels
    side = max(latent.height, latent.width) - 1
    while left > 0 and side >= _SMALLEST_TILE_CELLS:
        if _activation_bytes(network, min(side, latent.height), min(side, latent.width)) <= left:
            return square_tiles(side * max(compression.height, compression.width), compression)
        side -= 1
    raise MemoryBudgetError(
        f"Frames of {latent.width * compression.width}×{latent.height * compression.height} pixels do not fit into the "
        f"{budget / GIB:.1f} GiB that this stage may use, not even in tiles. Use smaller frames, or --fp16."
    )


def square_tiles(side: int, compression: Compression) -> Tiling:
    """Tiles of ``side`` pixels that share 64, or a quarter of it where that is less; 40 frames that share 16.

    Raises:
        RequestError: If ``side`` does not fit the compression.
    """
    if side == 0:
        raise RequestError("A tile of 0 pixels is none. Leave --tile-size out for whole frames wherever memory allows.")
    overlap = min(_TILE_OVERLAP, side // 4)
    height, width = (
        TileSize.from_pixels(side, max(overlap // cell, 1) * cell, cell)
        for cell in (compression.height, compression.width)
    )
    cell = compression.time
    return Tiling(TileSize(max(_TILE_FRAMES // cell, 2), max(_TILE_FRAMES_OVERLAP // cell, 1)), height, width)


def _activation_bytes(network: VideoEncoder | VideoDecoder, height: int, width: int) -> int:
    """What a run over a latent of this size takes beside the weights."""
    item_bytes = network.conv_in.conv.weight.dtype.size
    if isinstance(network, VideoDecoder):
        return run_bytes(decoder_layers(network.config), (1, 1, height, width), item_bytes)
    pixels = (height * network.compression.height, width * network.compression.width)
    return run_bytes(encoder_layers(network.config), (1, 1, *pixels), item_bytes)
