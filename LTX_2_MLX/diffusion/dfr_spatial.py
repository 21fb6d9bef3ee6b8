"""The spatial doubling at the end of detail-fidelity rendering: one denoising run whose every step goes tile by tile.

Source: huggingface/diffusers 0.42.1, pipelines/ltx2/pipeline_ltx2_dfr.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from LTX_2_MLX.diffusion.dfr_layout import SpatialTile
from LTX_2_MLX.diffusion.sampler import Denoise
from LTX_2_MLX.diffusion.state import LatentState, State, StreamArrays
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.ops.tiling import Interval
from LTX_2_MLX.shapes import LatentShape


@dataclass(frozen=True)
class TokenTile:
    """The tokens of one tile.

    Attributes:
        indices: ``(N,)``, in the whole stream: the tile's own cells, then appended tokens that overlap it.
        weights: ``(N,)``; those of all tiles sum to one for every token.
        origin: First corner of the tile: seconds, pixel row and column.
    """

    indices: np.ndarray
    weights: np.ndarray
    origin: np.ndarray

    def state(self, video: LatentState) -> LatentState:
        """The tile's part of the stream, with positions counted from its first corner."""
        indices = mx.array(self.indices)
        keyframe_mask = video.keyframe_mask
        return replace(
            video,
            latent=video.latent[:, indices],
            clean_latent=video.clean_latent[:, indices],
            denoise_mask=video.denoise_mask[:, indices],
            positions=video.positions[:, :, indices] - mx.array(self.origin)[None, :, None, None],
            keyframe_mask=None if keyframe_mask is None else keyframe_mask[:, indices],
        )


def token_tiles(video: LatentState, shape: LatentShape, tiles: Sequence[SpatialTile]) -> list[TokenTile]:
    """The tokens of each tile.

    An appended token belongs to every tile that it overlaps on all three axes, in equal shares.

    Args:
        video: The stream, its own cells before appended tokens.
        shape: Latent size of the video.
        tiles: Tiles of the video's cells.

    Raises:
        RequestError: If an appended token lies in no tile.
    """
    positions = np.array(video.positions)[0]
    own = [_cells(tile, shape) for tile in tiles]
    appended = positions[:, shape.num_tokens :]
    origins = [positions[:, cells, 0].min(axis=1) for cells in own]
    inside = []
    for cells, origin in zip(own, origins, strict=True):
        end = positions[:, cells, 1].max(axis=1)
        overlaps = (appended[..., 0] < end[:, None]) & (appended[..., 1] > origin[:, None])
        inside.append(overlaps.all(axis=0))
    shares = np.sum(inside, axis=0)
    if not shares.all():
        raise RequestError(f"{np.sum(shares == 0)} tokens of keyframes lie outside the video of the spatial stage.")
    result = []
    for tile, cells, origin, members in zip(tiles, own, origins, inside, strict=True):
        extra = np.flatnonzero(members)
        indices = np.concatenate([cells, shape.num_tokens + extra]).astype(np.int32)
        weights = np.concatenate([tile.weights.reshape(-1), 1 / shares[extra]]).astype(np.float32)
        result.append(TokenTile(indices, weights, origin))
    return result


def _cells(tile: SpatialTile, shape: LatentShape) -> np.ndarray:
    """Token numbers of a tile's cells, columns fastest."""
    frames = _range(tile.time)[:, None, None]
    rows = _range(tile.height)[:, None]
    cells: np.ndarray = (frames * shape.height + rows) * shape.width + _range(tile.width)
    return cells.reshape(-1)


def _range(interval: Interval) -> np.ndarray:
    return np.arange(interval.start, interval.stop)


def denoise_in_tiles(denoise: Denoise, tiles: Sequence[TokenTile]) -> Denoise:
    """``denoise`` for a sampler: the tiles' clean estimates of the video, added up by their weights.

    All tiles attend to the whole of the other stream, which has to be frozen.
    """

    def denoise_whole(state: State, sigma: float, step: int) -> StreamArrays:
        video = state["video"]
        total = mx.zeros_like(video.latent)
        for tile in tiles:
            estimate = denoise({**state, "video": tile.state(video)}, sigma, step)["video"]
            weighted = estimate * mx.array(tile.weights)[None, :, None]
            total = total.at[:, mx.array(tile.indices)].add(weighted)
            mx.eval(total)
        given: StreamArrays = {name: stream.clean_latent for name, stream in state.items()}
        return {**given, "video": total}

    return denoise_whole
