"""Decoding with the diffusion decoder: padding to its smallest size, tiles of stages 4 and 5, and their plans.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/{diffusion_video_decoder,diffusion_tiling}.py
and tiling.py at 400fd31.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from LTX_2_MLX.errors import MemoryBudgetError, RequestError
from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder
from LTX_2_MLX.models.ltx.diffusion_decoder_blocks import AttentionMode
from LTX_2_MLX.models.ltx.diffusion_decoder_config import Axes, DiffusionDecoderConfig
from LTX_2_MLX.ops.collective import ALONE, Group
from LTX_2_MLX.ops.tiling import Interval, Tile, TiledAxis, TilePlan, blend_tiles, split_axis, tiled_axis
from LTX_2_MLX.shapes import LatentShape, VideoShape

# Shape of the noise, and the frame, row and column of the video at which it begins.
Noise = Callable[[tuple[int, ...], Axes], mx.array]

# Copies of stage 5's tokens that live at once, as the reference counts them.
_COPIES = {"chunked": 5, "combined": 11}
_GIB = 2**30
# Bytes of an element of features and of the sum of tiles (16 bit, as the reference counts).
_ITEM_BYTES = 2
# Tile sizes are planned in steps of the whole autoencoder's compression.
_STEPS = (8, 32, 32)
_LEAST_SIZES = (16, 64, 64)
# Latent frames that stages 1 to 3 run on at a time, over those that they see on one side.
_PIECE_OF_HALO = 4


@dataclass(frozen=True)
class AxisTiling:
    """Size and overlap of tiles along one axis, in frames or pixels."""

    size: int
    overlap: int


@dataclass(frozen=True)
class DiffusionTiling:
    """Tiles of the three axes; None: not tiled."""

    time: AxisTiling | None = None
    height: AxisTiling | None = None
    width: AxisTiling | None = None


@dataclass(frozen=True)
class DiffusionTilingLimits:
    """What tiles of a decoder have to keep.

    Attributes:
        cell: Frames and pixels of a cell of stage 4's input.
        smallest: Cells that a tile needs at least.
        halo_stage4: Cells on each side that stage 4 sees.
        halo_stage5: The same of the diffusion stage.
        overlap_frames: Least overlap in time.
        overlap_pixels: Least overlap in height and width.
    """

    cell: Axes
    smallest: Axes
    halo_stage4: Axes
    halo_stage5: Axes
    overlap_frames: int
    overlap_pixels: int

    @classmethod
    def of(cls, config: DiffusionDecoderConfig) -> "DiffusionTilingLimits":
        """The limits that follow from windows and depths."""
        stride = config.upsamples[3].stride
        kernel4, kernel5 = config.stage_kernels[3], config.stage5_kernel
        depth4, depth5 = config.stage_depths[3], config.stage_depths[4]
        halo4 = _axes(lambda axis: depth4 * (kernel4[axis] // 2))
        halo5 = _axes(lambda axis: -(-depth5 * (kernel5[axis] // 2) // stride[axis]))
        halo = _axes(lambda axis: max(halo4[axis], halo5[axis]))
        cell = (stride[0], stride[1] * config.patch_size, stride[2] * config.patch_size)
        return cls(
            cell=cell,
            smallest=_axes(lambda axis: max(kernel4[axis], -(-kernel5[axis] // stride[axis]))),
            halo_stage4=halo4,
            halo_stage5=halo5,
            overlap_frames=_round_up(halo[0] * cell[0], _STEPS[0]),
            overlap_pixels=_round_up(max(halo[1:]) * cell[1], _STEPS[1]),
        )


def _axes(of: Callable[[int], int]) -> Axes:
    return of(0), of(1), of(2)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def decode_plan(config: DiffusionDecoderConfig, latent: LatentShape, tiling: DiffusionTiling | None) -> TilePlan:
    """Tiles on stage 4's input of a latent, and where they fall in the video.

    Raises:
        RequestError: If tiles are too small, or overlap by less than the stages see.
    """
    tiling = tiling or DiffusionTiling()
    axes = (tiling.time, tiling.height, tiling.width)
    return TilePlan(*(axis_plan(config, latent, axis, axes[axis]) for axis in range(3)))


def axis_plan(config: DiffusionDecoderConfig, latent: LatentShape, axis: int, tiling: AxisTiling | None) -> TiledAxis:
    """Tiles along one axis: 0 for time, 1 for height, 2 for width. Errors are those of ``decode_plan``."""
    limits = DiffusionTilingLimits.of(config)
    grid = config.features_shape(latent.num_frames, latent.height, latent.width)
    tiles = _split(limits, axis, grid[axis], tiling)
    if axis == 0:
        return tiled_axis(tiles, [_frames(tile, limits.cell[0]) for tile in tiles])
    return tiled_axis(tiles, [tile.scaled(limits.cell[axis]) for tile in tiles])


def _frames(tile: Interval, stride: int) -> Interval:
    """A span of cells in frames: the clip's first cell stands for one frame less than the others."""
    dropped = stride == 2
    return Interval(
        start=tile.start * stride - (dropped and tile.start > 0),
        stop=tile.stop * stride - dropped,
        fade_in=tile.fade_in * stride,
        fade_out=tile.fade_out * stride,
    )


def _split(limits: DiffusionTilingLimits, axis: int, length: int, tiling: AxisTiling | None) -> list[Interval]:
    if tiling is None:
        return [Interval(0, length)]
    unit = "frames" if axis == 0 else "pixels"
    least = limits.overlap_frames if axis == 0 else limits.overlap_pixels
    cell = limits.cell[axis]
    if tiling.size % cell or tiling.overlap % cell:
        raise RequestError(
            f"A tile of {tiling.size} {unit} with an overlap of {tiling.overlap} does not fit the decoder's grid of "
            f"{cell}. Use multiples of {cell}."
        )
    if tiling.overlap < least:
        raise RequestError(f"Tiles overlap by {tiling.overlap} {unit}, but this decoder needs at least {least}.")
    if tiling.size <= tiling.overlap or tiling.size < limits.smallest[axis] * cell:
        raise RequestError(
            f"A tile of {tiling.size} {unit} is too small for an overlap of {tiling.overlap}. Use a larger one."
        )
    if length < limits.smallest[axis]:
        return [Interval(0, length)]
    return _grow_last(split_axis(length, tiling.size // cell, tiling.overlap // cell), limits.smallest[axis])


def _grow_last(tiles: list[Interval], smallest: int) -> list[Interval]:
    """The tiles with the last one begun earlier where it would be smaller than the windows."""
    last = tiles[-1]
    if len(tiles) == 1 or len(last) >= smallest:
        return tiles
    before = tiles[-2]
    start = last.stop - smallest
    overlap = before.stop - start
    return [
        *tiles[:-2],
        Interval(before.start, before.stop, before.fade_in, overlap),
        Interval(start, last.stop, overlap, last.fade_out),
    ]


def fitting_tiling(
    config: DiffusionDecoderConfig,
    video: VideoShape,
    *,
    free_bytes: int,
    weights_bytes: int,
    mode: AttentionMode = "chunked",
) -> DiffusionTiling:
    """The tiles that fit into memory and repeat least work; of those the largest.

    Args:
        config: The decoder's.
        video: Size in pixels.
        free_bytes: Memory for weights and activations.
        weights_bytes: Of the decoder.
        mode: See ``AttentionMode``.

    Raises:
        MemoryBudgetError: If not even the smallest tiles fit.
    """
    limits = DiffusionTilingLimits.of(config)
    usable = free_bytes - max(weights_bytes, _GIB) - _GIB - _features_bytes(config, video)
    token_bytes = config.stage_channels[4] * _ITEM_BYTES * _COPIES[mode]
    overlaps = (limits.overlap_frames, limits.overlap_pixels, limits.overlap_pixels)
    lengths = (video.num_frames, video.height, video.width)
    times, heights, widths = (_candidates(limits, axis, lengths[axis], overlaps[axis]) for axis in range(3))
    best = None
    for frames, num_times in times:
        sum_bytes = 2 * frames * video.height * video.width * config.out_channels * _ITEM_BYTES
        for height, num_heights in heights:
            for width, num_widths in widths:
                tokens = frames * (height // config.patch_size) * (width // config.patch_size)
                if sum_bytes + tokens * token_bytes > usable:
                    continue
                volume = frames * height * width
                work = num_times * num_heights * num_widths * volume
                candidate = (work, -volume, num_times * num_heights * num_widths, frames, height, width)
                best = candidate if best is None else min(best, candidate)
    if best is None:
        raise MemoryBudgetError(
            f"The diffusion decoder finds no tile of {video.height}×{video.width} that fits into "
            f"{free_bytes / _GIB:.1f} GiB. Pass --video-decoder conv, or a smaller size."
        )
    *_, frames, height, width = best
    return DiffusionTiling(*(AxisTiling(size, o) for size, o in zip((frames, height, width), overlaps, strict=True)))


def _features_bytes(config: DiffusionDecoderConfig, video: VideoShape) -> int:
    latent = video.latent(config.compression)
    frames, height, width = config.features_shape(latent.num_frames + config.ghost_frames, latent.height, latent.width)
    return frames * height * width * config.stage_channels[3] * _ITEM_BYTES


def _candidates(limits: DiffusionTilingLimits, axis: int, length: int, overlap: int) -> list[tuple[int, int]]:
    """Sizes of tiles along one axis and how many of them the axis takes."""
    return [(size, len(split_axis(length, size, overlap))) for size in tile_sizes(limits, axis, length)]


def tile_sizes(limits: DiffusionTilingLimits, axis: int, length: int) -> list[int]:
    """Sizes that tiles of an axis may have, the smallest first, the last one no shorter than the axis."""
    step = _STEPS[axis]
    overlap = limits.overlap_pixels if axis else limits.overlap_frames
    smallest = _round_up(max(2 * overlap, limits.smallest[axis] * limits.cell[axis], _LEAST_SIZES[axis]), step)
    largest = max(_round_up(length, step), smallest)
    return list(range(smallest, largest + step, step))


def padded_shape(config: DiffusionDecoderConfig, latent: LatentShape) -> LatentShape:
    """Size of a latent once it is no smaller than the windows."""
    sizes = (latent.num_frames, latent.height, latent.width)
    return LatentShape(*(max(size, least) for size, least in zip(sizes, config.smallest_latent, strict=True)))


def decode(
    decoder: DiffusionVideoDecoder,
    latent: mx.array,
    noise: Noise,
    *,
    tiling: DiffusionTiling | None = None,
    mode: AttentionMode = "chunked",
    frames_at_once: int | None = None,
    group: Group = ALONE,
) -> Iterator[mx.array]:
    """Consecutive chunks ``(B, F, H, W, C)`` of a video, float32, about [-1, 1].

    Args:
        decoder: The network.
        latent: Normalised ``(B, T, H, W, C)``; one smaller than the windows is padded and the video cut back.
        noise: Standard normal numbers for a part of the video. A decoder of one step draws for each tile by itself,
            one of several once for the whole video.
        tiling: Tiles of stages 4 and 5; None: one for the whole video.
        mode: See ``AttentionMode``.
        frames_at_once: Latent frames that stages 1 to 3 run on at a time, beside the ones on both sides that they
            see; four times as many as these unless given. Memory then does not grow with the length of the clip.
        group: Processes that share the tiles out. The first one has the video, and the others yield nothing.
    """
    config = decoder.config
    padded, rows, columns = _padded(latent, config.smallest_latent)
    shape = LatentShape(*padded.shape[1:4])
    plan = decode_plan(config, shape, tiling)
    video = shape.pixels(config.compression)
    content = LatentShape(*latent.shape[1:4]).pixels(config.compression)
    ghosts = mx.repeat(padded[:, -1:], config.ghost_frames, axis=1)
    features = _FeatureWindow(decoder, mx.concatenate([padded, ghosts], axis=1), frames_at_once)
    batch = latent.shape[0]
    whole = None
    if config.num_steps > 1 or config.prediction != "x0":
        whole = noise((batch, video.num_frames, video.height, video.width, config.out_channels), (0, 0, 0))
    work = _TileWork(decoder, features, plan, noise, whole, mode)
    position = 0
    for chunk in blend_tiles(plan, work, group):
        kept = chunk[:, : max(content.num_frames - position, 0)]
        position += chunk.shape[1]
        if kept.shape[1]:
            top = rows * config.compression.height
            left = columns * config.compression.width
            yield kept[:, :, top : top + content.height, left : left + content.width]


class _FeatureWindow:
    """Stage 4's input of a clip, made piece by piece as tiles move forward in time."""

    def __init__(self, decoder: DiffusionVideoDecoder, latent: mx.array, frames_at_once: int | None):
        self.decoder = decoder
        self.latent = latent
        self.batch = latent.shape[0]
        self.num_cells = decoder.config.cells_before(latent.shape[1])
        self.frames_at_once = frames_at_once or _PIECE_OF_HALO * max(decoder.config.features_halo, 1)
        self.next_frame = 0
        self.start = 0
        self.held: mx.array | None = None

    def cells(self, start: int, stop: int) -> mx.array:
        """Frames ``[start, stop)`` of stage 4's input; ``start`` never falls from call to call."""
        while self.held is None or self.start + self.held.shape[1] < stop:
            piece = self._next_piece()
            self.held = piece if self.held is None else mx.concatenate([self.held, piece], axis=1)
            mx.eval(self.held)
        if start > self.start:
            # A copy of its own: a slice would keep what is before it.
            self.held = mx.contiguous(self.held[:, start - self.start :])
            mx.eval(self.held)
            self.start = start
        return self.held[:, : stop - start]

    def _next_piece(self) -> mx.array:
        config = self.decoder.config
        first = self.next_frame
        last = min(first + self.frames_at_once, self.latent.shape[1])
        begin = max(first - config.features_halo, 0)
        end = min(last + config.features_halo, self.latent.shape[1])
        self.next_frame = last
        return self.decoder.features(
            self.latent[:, begin:end], starts_clip=begin == 0, wanted=(first - begin, last - begin)
        )


class _TileWork:
    """Decodes one tile of the features after another."""

    def __init__(
        self,
        decoder: DiffusionVideoDecoder,
        features: "_FeatureWindow",
        plan: TilePlan,
        noise: Noise,
        whole: mx.array | None,
        mode: AttentionMode,
    ):
        self.decoder = decoder
        self.features = features
        self.targets = {
            axis: {source.start: target for source, target in zip(tiles.sources, tiles.targets, strict=True)}
            for axis, tiles in (("time", plan.time), ("height", plan.height), ("width", plan.width))
        }
        self.num_cells = plan.time.sources[-1].stop
        self.noise = noise
        self.whole = whole
        self.mode = mode

    def __call__(self, tile: Tile) -> mx.array:
        starts_clip = tile.time.start == 0
        ends_clip = tile.time.stop == self.num_cells
        stop = self.features.num_cells if ends_clip else tile.time.stop
        features = tile.crop(self.features.cells(tile.time.start, stop))
        target = self.targets["time"][tile.time.start]
        frames = max(len(target), self.decoder.config.stage5_kernel[0]) if ends_clip else len(target)
        noise = self._noise(tile, target, frames)
        video = self.decoder.decode_features(
            features, noise, starts_clip=starts_clip, ends_clip=ends_clip, mode=self.mode
        )
        return video[:, : len(target)]

    def _noise(self, tile: Tile, target: Interval, frames: int) -> mx.array:
        height = self.targets["height"][tile.height.start]
        width = self.targets["width"][tile.width.start]
        if self.whole is None:
            channels = self.decoder.config.out_channels
            shape = (self.features.batch, frames, len(height), len(width), channels)
            return self.noise(shape, (target.start, height.start, width.start))
        part = self.whole[:, target.start : target.stop, height.start : height.stop, width.start : width.stop]
        return mx.concatenate([part, mx.repeat(part[:, -1:], frames - len(target), axis=1)], axis=1)


def _padded(latent: mx.array, smallest: Axes) -> tuple[mx.array, int, int]:
    """A latent of at least the smallest size, and the rows and columns in front of the given ones."""
    missing = [max(least - length, 0) for least, length in zip(smallest, latent.shape[1:4], strict=True)]
    rows = missing[1] // 2
    columns = missing[2] // 2
    latent = _extended(latent, 1, 0, missing[0])
    latent = _extended(latent, 2, rows, missing[1] - rows)
    return _extended(latent, 3, columns, missing[2] - columns), rows, columns


def _extended(x: mx.array, axis: int, before: int, after: int) -> mx.array:
    """An array with its first and last slice of an axis repeated."""
    first = mx.take(x, mx.array([0]), axis=axis)
    last = mx.take(x, mx.array([x.shape[axis] - 1]), axis=axis)
    return mx.concatenate([mx.repeat(first, before, axis=axis), x, mx.repeat(last, after, axis=axis)], axis=axis)
