"""Layout of detail-fidelity rendering: where keyframes stand, how rounds are tiled, which sound a tile attends to.

Source: Lightricks/LTX-2, packages/ltx-pipelines/src/ltx_pipelines/dfr_layout.py at 400fd31, and
huggingface/diffusers 0.42.1, pipelines/ltx2/{dfr_layout,pipeline_ltx2_dfr_temporal_refine}.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.tiling import Interval, blend_weights, split_evenly

SEGMENT_LENGTHS = (24, 32)
# Highest rate that coordinates are given at, and the playback rate above which the newer form uses it.
CONDITIONING_RATE_LIMIT = 60.0
_SNAP_ABOVE = 30.0
# Overlap of the spatial stage's tiles in height and width, in cells.
SPATIAL_OVERLAP = 12
_SPATIAL_TILES = 2


@dataclass(frozen=True)
class Canvas:
    """The clip that is made, a multiple of a segment long; what was asked for is cut from it at the end.

    Attributes:
        num_frames: Pixel frames.
        segment: Frames between two keyframes.
        positions: Pixel frames of the keyframes; frame 0 is none.
    """

    num_frames: int
    segment: int
    positions: tuple[int, ...]

    @classmethod
    def for_frames(cls, num_frames: int) -> "Canvas":
        """The canvas that adds fewest frames; of two equal ones the one with the longer segment."""
        content = num_frames - 1
        segment = min(SEGMENT_LENGTHS, key=lambda length: (-content % length, -length))
        padded = content + -content % segment
        return cls(padded + 1, segment, tuple(range(segment, padded + 1, segment)))


@dataclass(frozen=True)
class RoundTile:
    """One tile of a temporal round, in frames and latent frames of the whole clip.

    Attributes:
        first_frame: First pixel frame.
        last_frame: Last pixel frame, part of the tile.
        first_latent: First latent frame.
        stop_latent: The latent frame after the last one.
        dropped_latents: Latent frames in front that belong to the tile before: the lead-in and the shared seam.
        keyframes: Pixel frames of the given keyframes in the tile.
        slots: Pixel frames of the keyframes that the round generates.
    """

    first_frame: int
    last_frame: int
    first_latent: int
    stop_latent: int
    dropped_latents: int
    keyframes: tuple[int, ...]
    slots: tuple[int, ...]
    compression: int

    @property
    def num_frames(self) -> int:
        """Pixel frames of the tile."""
        return self.last_frame - self.first_frame + 1

    @property
    def slot_seeds(self) -> tuple[int, ...]:
        """Latent frame of the tile's own start that each slot begins with."""
        last = self.stop_latent - self.first_latent - 1
        return tuple(min(round((slot - self.first_frame) / self.compression), last) for slot in self.slots)


def round_tiles(seams: Sequence[int], num_tiles: int, compression: int = 8) -> list[RoundTile]:
    """Tiles of a round, cut at keyframes; each but the first takes one segment more in front.

    Args:
        seams: Pixel frames of the given keyframes, the last frame among them.
        num_tiles: Tiles at most; there are no more than segments.
        compression: Pixel frames per latent frame.
    """
    boundaries = [0, *seams]
    tiles = []
    start = 0
    for count in _shares(len(seams), num_tiles):
        lead = max(start - 1, 0)
        first_latent = boundaries[lead] // compression
        tiles.append(
            RoundTile(
                first_frame=boundaries[lead],
                last_frame=boundaries[start + count],
                first_latent=first_latent,
                stop_latent=boundaries[start + count] // compression + 1,
                dropped_latents=boundaries[start] // compression - first_latent + (start > 0),
                keyframes=tuple(frame for frame in boundaries[lead : start + count + 1] if frame),
                slots=tuple((boundaries[i] + boundaries[i + 1]) // 2 for i in range(lead, start + count)),
                compression=compression,
            )
        )
        start += count
    return tiles


def _shares(num_segments: int, num_tiles: int) -> list[int]:
    """Segments of each tile, the first tiles having the most."""
    num_tiles = min(num_tiles, num_segments)
    least, more = divmod(num_segments, num_tiles)
    return [least + (i < more) for i in range(num_tiles)]


def next_keyframes(seams: Sequence[int], tiles: Sequence[RoundTile]) -> list[int]:
    """Pixel frames of all keyframes after a round: the given ones and those that it has generated."""
    return sorted({*seams, *(slot for tile in tiles for slot in tile.slots)})


def even_slots(count: int, num_frames: int) -> list[int]:
    """Pixel frames of ``count`` generated keyframes spread evenly between the first frame and the last."""
    return [round(frame) for frame in np.linspace(0, num_frames - 1, count + 2).tolist()[1:-1]]


def conditioning_rate(frame_rate: float, *, snap: bool = True) -> float:
    """Frame rate of the coordinates for a playback rate.

    Args:
        frame_rate: Of playback.
        snap: The newer form: 60 wherever playback is above 30. Otherwise playback's own, 60 at most.
    """
    if snap:
        return CONDITIONING_RATE_LIMIT if frame_rate > _SNAP_ABOVE else frame_rate
    return min(frame_rate, CONDITIONING_RATE_LIMIT)


@dataclass(frozen=True)
class AudioWindow:
    """The stage-1 sound of one tile: which tokens it reads.

    Attributes:
        first_frame: First pixel frame of the tile.
        num_frames: Pixel frames of the tile.
        playback_rate: Frames per second of playback in this round.
        conditioning_rate: Frame rate of the coordinates.
        source_seconds: Duration of the stage-1 canvas, the same in every round.
        latents_per_second: Audio tokens per second.
    """

    first_frame: int
    num_frames: int
    playback_rate: float
    conditioning_rate: float
    source_seconds: float
    latents_per_second: float = 25.0

    @property
    def num_tokens(self) -> int:
        """Tokens of the window."""
        return round(self.num_frames / self.conditioning_rate * self.latents_per_second)

    def reads(self, num_source: int) -> np.ndarray:
        """Where among ``num_source`` tokens each token of the window is read, float32."""
        start = self.first_frame / self.playback_rate / self.source_seconds * num_source
        span = self.num_frames / self.playback_rate / self.source_seconds * num_source
        steps = np.arange(self.num_tokens, dtype=np.float32) * np.float32(span / max(self.num_tokens, 1))
        reads: np.ndarray = np.clip(np.float32(start) + steps, 0, num_source - 1).astype(np.float32)
        return reads

    def resample(self, audio: mx.array) -> mx.array:
        """Tokens ``(B, N, D)`` of stage 1 to those of the window, linear between neighbours."""
        reads = self.reads(audio.shape[1])
        below = np.floor(reads).astype(np.int32)
        above = np.minimum(below + 1, audio.shape[1] - 1)
        share = mx.array(reads - below)[None, :, None]
        return audio[:, mx.array(below)] * (1 - share) + audio[:, mx.array(above)] * share


@dataclass(frozen=True)
class SpatialTile:
    """One tile of the spatial stage, in latent cells, with the weights of its axes."""

    time: Interval
    height: Interval
    width: Interval
    time_weights: np.ndarray
    height_weights: np.ndarray
    width_weights: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """``(T, H, W)``; those of all tiles sum to one."""
        weights: np.ndarray = self.time_weights[:, None, None] * self.height_weights[:, None] * self.width_weights
        return weights


def spatial_tiles(
    num_frames: int,
    height: int,
    width: int,
    num_tiles: int,
    seams: Sequence[int],
    *,
    overlap: int = SPATIAL_OVERLAP,
) -> list[SpatialTile]:
    """Tiles of the spatial stage: time slowest, width fastest.

    Args:
        num_frames: Latent frames.
        height: Latent rows.
        width: Latent columns.
        num_tiles: Tiles in time.
        seams: Latent frames of the last round's keyframes.
        overlap: Latent rows and columns that neighbours share, where the size allows as many.
    """
    times = _time_tiles(num_frames, num_tiles, seams)
    rows = _space_tiles(height, overlap)
    columns = _space_tiles(width, overlap)
    return [
        SpatialTile(time, row, column, time_weights, row_weights, column_weights)
        for time, time_weights in times
        for row, row_weights in rows
        for column, column_weights in columns
    ]


def _space_tiles(length: int, overlap: int) -> list[tuple[Interval, np.ndarray]]:
    if length < _SPATIAL_TILES:
        return [(Interval(0, length), np.ones(length, np.float32))]
    overlap = min(overlap, length - _SPATIAL_TILES)
    return [(tile, blend_weights(tile)) for tile in split_evenly(length, _SPATIAL_TILES, overlap)]


def _time_tiles(num_frames: int, num_tiles: int, seams: Sequence[int]) -> list[tuple[Interval, np.ndarray]]:
    """Tiles cut at seams, their run-up without weight; blended evenly where no seam lies inside."""
    inner = [seam for seam in seams if 0 < seam < num_frames - 1]
    run_up = min((seams[0] if seams else 0) + 1, num_frames - num_tiles)
    if num_tiles < 2 or num_frames < num_tiles:
        return [(Interval(0, num_frames), np.ones(num_frames, np.float32))]
    if not inner:
        return [(tile, blend_weights(tile)) for tile in split_evenly(num_frames, num_tiles, run_up)]
    boundaries = [*inner, num_frames - 1]
    tiles = []
    owned = 0
    last = -1
    for count in _shares(len(boundaries), num_tiles):
        last += count
        stop = boundaries[last] + 1
        start = max(owned - run_up, 0)
        weights = np.ones(stop - start, np.float32)
        weights[: owned - start] = 0
        tiles.append((Interval(start, stop), weights))
        owned = stop
    return tiles
