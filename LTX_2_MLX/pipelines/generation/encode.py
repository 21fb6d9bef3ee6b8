"""Encoding of clips: frames, as they come, to a latent."""

from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.layers.streaming import join_frames
from LTX_2_MLX.media.frames import to_signed
from LTX_2_MLX.models.ltx.video_vae import VideoEncoder
from LTX_2_MLX.models.ltx.video_vae_tiling import encode_plan, encode_tiled
from LTX_2_MLX.pipelines.generation.decode import choose_tiling
from LTX_2_MLX.shapes import VideoShape


def encode_frames(
    encoder: VideoEncoder,
    chunks: Iterable[np.ndarray],
    *,
    size: tuple[int, int],
    num_frames: int | None,
    tile_size: int | None = None,
    budget: int | None = None,
) -> mx.array:
    """The latent of a clip in chunks ``(T, H, W, 3)`` uint8 or uint16; the rest as for ``encode_pixels``."""
    pixels = (to_signed(chunk)[None] for chunk in chunks)
    return encode_pixels(encoder, pixels, size=size, num_frames=num_frames, tile_size=tile_size, budget=budget)


def encode_pixels(
    encoder: VideoEncoder,
    pixels: Iterable[mx.array],
    *,
    size: tuple[int, int],
    num_frames: int | None,
    tile_size: int | None = None,
    budget: int | None = None,
) -> mx.array:
    """The normalised latent ``(1, T', H', W', C)`` of a clip that comes in chunks ``(1, T, H, W, 3)`` in [-1, 1].

    Args:
        encoder: Its weights' dtype is the precision.
        pixels: 8k + 1 frames in all (of the encoder's own compression).
        size: Height and width of the frames.
        num_frames: Number of frames; None where only reading them tells, which is enough without tiles.
        tile_size: Side of a tile in pixels; None: whole frames wherever memory allows.
        budget: Bytes for activations; see ``choose_tiling``.

    Raises:
        RequestError: If a size is not legal, or tiles are needed and the number of frames is unknown.
        MemoryBudgetError: If no tile is small enough.
    """
    latent = VideoShape(num_frames or 1, *size).latent(encoder.compression)
    tiling = choose_tiling(encoder, latent, tile_size, budget)
    if tiling is None:
        return join_frames(*encoder.stream(pixels))
    if num_frames is None:
        raise RequestError(
            "The clip does not say how many frames it has, which tiles have to know. "
            "Convert it to .mp4, or leave out --tile-size."
        )
    return join_frames(*encode_tiled(encoder, pixels, encode_plan(latent, tiling, encoder.compression)))
