"""Memory of the diffusion decoder beside its weights, and the tiles that fit into a budget.

Counted from the arrays that live at once; the factors of a piece of frames are measured on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

import mlx.core as mx

from LTX_2_MLX.errors import MemoryBudgetError
from LTX_2_MLX.models.ltx.diffusion_decoder import PIECE_TOKENS
from LTX_2_MLX.models.ltx.diffusion_decoder_blocks import (
    MLP_RATIO,
    MLP_TOKENS,
    NUM_SLABS,
    AttentionMode,
    piece_frames,
)
from LTX_2_MLX.models.ltx.diffusion_decoder_config import Axes, DiffusionDecoderConfig
from LTX_2_MLX.models.ltx.diffusion_decoder_tiling import (
    AxisTiling,
    DiffusionTiling,
    DiffusionTilingLimits,
    axis_plan,
    decode_plan,
    padded_shape,
    tile_sizes,
)
from LTX_2_MLX.ops.neighborhood_attention import attention_bytes
from LTX_2_MLX.ops.tiling import TiledAxis, TilePlan
from LTX_2_MLX.shapes import LatentShape

# Longest tile in time, in frames: memory does not grow with clips that are longer. Those of the usual length are
# decoded in one tile.
_LONGEST_TILE = 136
# Latent frames that stages 1 to 3 run on at a time, beside those that they see, from the fastest to the smallest.
_PIECES = (24, 12, 6, 3, 1)
# Arrays of a piece of frames, of its own width: in the network's precision, and in float32 where positions are rotated.
_PIECE_ARRAYS = 7
_ROTATED_ARRAYS = 4
# Keys, values, and one of the two while frames are appended to it.
_WINDOW_ARRAYS = 3
_HIDDEN_ARRAYS = 3
# Arrays of a piece that live while its feed-forward is computed.
_BLOCK_ARRAYS = 2
# Frames of a tile in float32 while they are weighted and added to others.
_BLEND_COPIES = 4.0
_FLOAT = 4
_GIB = 2**30


_Choice = tuple[AxisTiling, TiledAxis]


@dataclass(frozen=True)
class DecodingPlan:
    """How a latent is decoded.

    Attributes:
        tiling: Tiles of stages 4 and 5.
        frames_at_once: Latent frames that stages 1 to 3 run on at a time.
        num_bytes: Memory beside the weights.
    """

    tiling: DiffusionTiling
    frames_at_once: int
    num_bytes: int


@lru_cache(maxsize=256)
def decoding_plan(
    config: DiffusionDecoderConfig,
    latent: LatentShape,
    *,
    budget: int,
    dtype: mx.Dtype,
    mode: AttentionMode = "chunked",
    side: int | None = None,
) -> DecodingPlan:
    """The plan that fits and does least work: large tiles repeat less of it.

    Args:
        config: The decoder's.
        latent: Size of the latent.
        budget: Bytes beside the weights.
        dtype: Precision of the network.
        mode: See ``AttentionMode``.
        side: Side of the tiles in pixels, instead of the largest that fit.

    Raises:
        MemoryBudgetError: If not even the smallest tiles fit.
    """
    shape = padded_shape(config, latent)
    axes = [_choices(config, shape, axis, side) for axis in range(3)]
    for frames_at_once in _PIECES:
        plan = _least_work(config, shape, axes, budget, dtype, mode, frames_at_once)
        if plan is not None:
            return plan
    video = latent.pixels(config.compression)
    raise MemoryBudgetError(
        f"The diffusion decoder finds no tile of {video.height}×{video.width} that fits into the {budget / _GIB:.1f} "
        f"GiB that this stage may use. Pass a smaller size, or --video-decoder conv with its file."
    )


def _least_work(
    config: DiffusionDecoderConfig,
    latent: LatentShape,
    axes: Sequence[Sequence[_Choice]],
    budget: int,
    dtype: mx.Dtype,
    mode: AttentionMode,
    frames_at_once: int,
) -> DecodingPlan | None:
    """Of the tiles that fit, those with the fewest cells in all; None where none fits."""
    best: tuple[tuple[int, int], DecodingPlan] | None = None
    for choice in product(*axes):
        plan = TilePlan(*(tiled for _, tiled in choice))
        num_bytes = decoding_bytes(config, latent, plan, frames_at_once, dtype, mode)
        key = (_work(plan), num_bytes)
        if num_bytes <= budget and (best is None or key < best[0]):
            tiling = DiffusionTiling(*(chosen for chosen, _ in choice))
            best = (key, DecodingPlan(tiling, frames_at_once, num_bytes))
    return None if best is None else best[1]


def _choices(config: DiffusionDecoderConfig, latent: LatentShape, axis: int, side: int | None) -> list[_Choice]:
    """Tiles to choose from along one axis, in the sizes that its overlap allows."""
    video = latent.pixels(config.compression)
    length = (video.num_frames, video.height, video.width)[axis]
    limits = DiffusionTilingLimits.of(config)
    overlap = limits.overlap_pixels if axis else limits.overlap_frames
    sizes = tile_sizes(limits, axis, length)
    if axis == 0:
        sizes = [size for size in sizes if size <= max(_LONGEST_TILE, sizes[0])]
    elif side is not None:
        sizes = [side]
    by_number: dict[int, _Choice] = {}
    for size in reversed(sizes):
        tiling = AxisTiling(size, overlap)
        tiled = axis_plan(config, latent, axis, tiling)
        # So many tiles repeat as much work whatever their size: the smallest ones are kept.
        by_number[len(tiled.sources)] = (tiling, tiled)
    return list(by_number.values())


def _work(plan: TilePlan) -> int:
    """Cells of all tiles together."""
    return prod(sum(map(len, axis.sources)) for axis in (plan.time, plan.height, plan.width))


def decoding_bytes(
    config: DiffusionDecoderConfig,
    latent: LatentShape,
    plan: TilePlan,
    frames_at_once: int,
    dtype: mx.Dtype,
    mode: AttentionMode,
) -> int:
    """Memory of decoding a latent, no smaller than the decoder's smallest, beside the weights."""
    video = latent.pixels(config.compression)
    stride = config.upsamples[3].stride
    ghosts = config.ghost_frames * config.compression.time // stride[0]
    cells = [max(map(len, axis.sources)) for axis in (plan.time, plan.height, plan.width)]
    cells[0] = min(cells[0] + ghosts, plan.time.sources[-1].stop + ghosts)
    frames = max(map(len, plan.time.targets))
    frame_bytes = video.height * video.width * config.out_channels * _FLOAT
    held = _held_bytes(config, latent, cells[0], frames_at_once, dtype)
    making = held + features_bytes(config, latent, frames_at_once, dtype)
    waiting = frames * frame_bytes * (1 if len(plan.time.targets) > 1 else 0)
    spatial = frames * frame_bytes * (1 if len(plan.height.targets) * len(plan.width.targets) > 1 else 0)
    tile = tile_bytes(config, (cells[0], cells[1], cells[2]), frames, dtype, mode)
    blending = int(_BLEND_COPIES * frames * frame_bytes)
    return max(making + waiting, held + waiting + spatial + tile, held + blending)


def array_bytes(
    config: DiffusionDecoderConfig, latent: LatentShape, plan: DecodingPlan, dtype: mx.Dtype, mode: AttentionMode
) -> int:
    """Bytes of the largest array of decoding a latent by a plan.

    The frames that tiles are blended into, a tile between stages 4 and 5, its pixels, the features that are held, or an
    array inside a block.
    """
    shape = padded_shape(config, latent)
    tiles = decode_plan(config, shape, plan.tiling)
    video = shape.pixels(config.compression)
    times, rows, columns = (max(map(len, axis.sources)) for axis in (tiles.time, tiles.height, tiles.width))
    frames = max(max(map(len, tiles.time.targets)), config.stage5_kernel[0])
    stride = config.upsamples[3].stride
    times += config.ghost_frames * config.compression.time // stride[0]
    width4, width5 = config.stage_channels[3:]
    tile = (frames, rows * stride[1], columns * stride[2])
    return max(
        frames * video.height * video.width * config.out_channels * _FLOAT,
        times * rows * columns * prod(stride) * width5 * dtype.size,
        prod(tile) * config.patch_size**2 * config.out_channels * _FLOAT,
        _held_bytes(config, shape, times, plan.frames_at_once, dtype),
        _block_array_bytes(width5, config.stage5_kernel, tile, dtype, mode),
        _block_array_bytes(width4, config.stage_kernels[3], (times, rows, columns), dtype),
        *(_stage_array_bytes(config, shape, stage, plan.frames_at_once, dtype) for stage in range(3)),
    )


def _stage_array_bytes(
    config: DiffusionDecoderConfig, latent: LatentShape, stage: int, frames_at_once: int, dtype: mx.Dtype
) -> int:
    """Bytes of the largest array of one of the stages before the tiles."""
    frames = min(frames_at_once + 2 * config.features_halo, latent.num_frames + config.ghost_frames)
    _, rows, columns = config.strides_before(stage)
    sizes = (config.frames_before(frames, stage, starts_clip=True), latent.height * rows, latent.width * columns)
    width = config.stage_channels[stage]
    return max(prod(sizes) * width * dtype.size, _block_array_bytes(width, config.stage_kernels[stage], sizes, dtype))


def _held_bytes(
    config: DiffusionDecoderConfig, latent: LatentShape, cells: int, frames_at_once: int, dtype: mx.Dtype
) -> int:
    """Stage 4's input that is held for a tile in time: its cells and at most one piece more."""
    total = config.cells_before(latent.num_frames + config.ghost_frames)
    _, height, width = config.features_shape(1, latent.height, latent.width)
    held = min(cells + config.cells_before(frames_at_once + 1), total)
    return held * height * width * config.stage_channels[3] * dtype.size


def features_bytes(config: DiffusionDecoderConfig, latent: LatentShape, frames_at_once: int, dtype: mx.Dtype) -> int:
    """Memory of stages 1 to 3 over one piece of latent frames, its features included."""
    total = latent.num_frames + config.ghost_frames
    frames = min(frames_at_once + 2 * config.features_halo, total)
    largest = 0
    for stage in range(3):
        _, rows, columns = config.strides_before(stage)
        sizes = (config.frames_before(frames, stage, starts_clip=True), latent.height * rows, latent.width * columns)
        tokens = sizes[0] * sizes[1] * sizes[2] * config.stage_channels[stage] * dtype.size
        width, kernel = config.stage_channels[stage], config.stage_kernels[stage]
        largest = max(largest, tokens + block_bytes(width, config.head_dim, kernel, sizes, dtype))
    wanted = config.cells_before(min(frames_at_once, total))
    _, height, width = config.features_shape(1, latent.height, latent.width)
    features = wanted * height * width * config.stage_channels[3] * dtype.size
    return max(largest, 2 * features)


def tile_bytes(config: DiffusionDecoderConfig, cells: Axes, frames: int, dtype: mx.Dtype, mode: AttentionMode) -> int:
    """Memory of stages 4 and 5 over a tile of stage 4's input, ghost frames included, that gives so many frames."""
    width4, width5 = config.stage_channels[3:]
    input_bytes = prod(cells) * width4 * dtype.size
    stage4 = input_bytes + block_bytes(width4, config.head_dim, config.stage_kernels[3], cells, dtype)
    stride = config.upsamples[3].stride
    sizes = (max(frames, config.stage5_kernel[0]), cells[1] * stride[1], cells[2] * stride[2])
    made = prod(cells) * prod(stride) * width5 * dtype.size
    context = prod(sizes) * width5 * dtype.size
    pixels = prod(sizes) * config.patch_size**2 * config.out_channels * _FLOAT
    stage5 = 2 * context + pixels + block_bytes(width5, config.head_dim, config.stage5_kernel, sizes, dtype, mode)
    return max(stage4, made, made + context, stage5, context + 3 * pixels)


def block_bytes(
    width: int, head_dim: int, kernel: Axes, sizes: Axes, dtype: mx.Dtype, mode: AttentionMode = "combined"
) -> int:
    """Memory of a block over a clip of this size, beside the clip itself."""
    frames, height, columns = sizes
    piece = min(piece_frames(height, columns, PIECE_TOKENS), frames)
    slabs = NUM_SLABS if mode == "chunked" else 1
    seen = columns if slabs == 1 else -(-columns // slabs) + 2 * (kernel[2] // 2)
    window = slabs * min(kernel[0] + 2 * piece, frames) * height * seen
    rows = piece * height
    attention = _WINDOW_ARRAYS * window * width * dtype.size + rows * columns * width * dtype.size
    attention += rows * seen * width * (_PIECE_ARRAYS * dtype.size + _ROTATED_ARRAYS * _FLOAT)
    attention += attention_bytes(kernel, (piece, height, seen), width, head_dim, dtype)
    tokens = rows * columns
    hidden = _HIDDEN_ARRAYS * min(tokens, MLP_TOKENS) * MLP_RATIO * width * dtype.size
    return max(attention, hidden + 3 * tokens * width * dtype.size) + _BLOCK_ARRAYS * tokens * width * dtype.size


def _block_array_bytes(width: int, kernel: Axes, sizes: Axes, dtype: mx.Dtype, mode: AttentionMode = "combined") -> int:
    """Bytes of the largest array of a block: of the frames that a piece sees, rotated, or of the feed-forward."""
    frames, height, columns = sizes
    piece = min(piece_frames(height, columns, PIECE_TOKENS), frames)
    slabs = NUM_SLABS if mode == "chunked" else 1
    seen = columns if slabs == 1 else -(-columns // slabs) + 2 * (kernel[2] // 2)
    window = min(kernel[0] + 2 * piece, frames) * height * seen * width * dtype.size
    rotated = piece * height * seen * width * _FLOAT
    hidden = min(piece * height * columns, MLP_TOKENS) * MLP_RATIO * width * dtype.size
    return max(window, rotated, hidden)
