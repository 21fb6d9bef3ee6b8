"""A Wan decoder that looks at one tile of the latent at a time, to hold less at once."""

from collections.abc import Iterable, Iterator

import mlx.core as mx
import numpy as np

from LTX_2_MLX.layers.streaming import WHOLE_CLIP, StreamState, join_frames, stream_layer
from LTX_2_MLX.models.wan.vae import WanDecoder

# Top, bottom, left and right of a tile in latent cells.
Tile = tuple[int, int, int, int]


# Rows and columns of a tile, and from one to the next, in latent cells: what the published pipelines pass.
PUBLISHED_TILE, PUBLISHED_STRIDE = (60, 104), (30, 52)


class TiledDecoder:
    """``WanDecoder`` tile by tile, blended where tiles overlap.

    Each tile goes through the whole clip on its own, so a stream keeps what every tile remembers and gives the same
    frames as a whole clip does. A tile that covers the latent changes nothing.

    Source: Hakaze/wan2gp-flashvsr, src/models/wan_video_vae.py at 4f0afc1 (``tiled_decode``).
    """

    def __init__(
        self,
        decoder: WanDecoder,
        size: tuple[int, int] = PUBLISHED_TILE,
        stride: tuple[int, int] = PUBLISHED_STRIDE,
    ):
        """Rows and columns of a tile, and from one tile's start to the next, in latent cells."""
        self.decoder = decoder
        self.compression = decoder.compression
        self.size = size
        self.stride = stride

    def decode(self, latent: mx.array) -> mx.array:
        """The frames of a whole clip, clipped to [-1, 1]."""
        return join_frames(*self.stream([latent]))

    def stream(self, latents: Iterable[mx.array]) -> Iterator[mx.array]:
        """One chunk of frames per latent frame, as ``WanDecoder.stream``."""
        return stream_layer(self, latents, 1)

    def __call__(self, latent: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        """Frames of a latent, or of the next latent frames of one; every tile has a state of its own."""
        rows, columns = latent.shape[2:4]
        tiles = tile_places(rows, columns, self.size, self.stride)
        if len(tiles) == 1:
            return mx.clip(self.decoder(latent, state[tiles[0]]), -1, 1)
        frames_sum = weights_sum = mx.array(0.0)
        for tile in tiles:
            top, bottom, left, right = tile
            frames = self.decoder(latent[:, :, top:bottom, left:right], state[tile])
            weights = self.mask(tile, rows, columns)
            margins = [*self._margins(tile, rows, columns), (0, 0)]
            weighted = mx.pad(frames.astype(mx.float32) * weights, [(0, 0), (0, 0), *margins])
            frames_sum = state.checkpoint(frames_sum + weighted)
            weights_sum = weights_sum + mx.pad(weights, margins)
        return mx.clip(frames_sum / weights_sum, -1, 1)

    def mask(self, tile: Tile, rows: int, columns: int) -> mx.array:
        """Weights of a tile's pixels ``(H, W, 1)``: rising from its inner sides, the smaller of both axes."""
        top, bottom, left, right = tile
        compression, (size, stride) = self.compression, (self.size, self.stride)
        vertical = _ramp(
            (bottom - top) * compression.height, (size[0] - stride[0]) * compression.height, top > 0, bottom < rows
        )
        horizontal = _ramp(
            (right - left) * compression.width, (size[1] - stride[1]) * compression.width, left > 0, right < columns
        )
        return mx.array(np.minimum(vertical[:, None], horizontal[None])[..., None])

    def _margins(self, tile: Tile, rows: int, columns: int) -> list[tuple[int, int]]:
        top, bottom, left, right = tile
        height, width = self.compression.height, self.compression.width
        return [(top * height, (rows - bottom) * height), (left * width, (columns - right) * width)]


def tile_places(rows: int, columns: int, size: tuple[int, int], stride: tuple[int, int]) -> list[Tile]:
    """Tiles at multiples of the stride, row by row; none starts once the one before reaches the end."""
    return [
        (top, min(top + size[0], rows), left, min(left + size[1], columns))
        for top in _starts(rows, size[0], stride[0])
        for left in _starts(columns, size[1], stride[1])
    ]


def _starts(length: int, size: int, stride: int) -> list[int]:
    return [start for start in range(0, length, stride) if start == 0 or start - stride + size < length]


def _ramp(length: int, overlap: int, before: bool, after: bool) -> np.ndarray:
    """Ones, rising over ``overlap`` pixels from an end that has a neighbour."""
    weights = np.ones(length, np.float32)
    rise = np.arange(1, overlap + 1, dtype=np.float32)[:length] / overlap
    if before:
        weights[: len(rise)] = rise
    if after:
        weights[-len(rise) :] = rise[::-1]
    return weights
