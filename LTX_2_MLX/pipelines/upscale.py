"""Clips and pictures to larger ones by Real-ESRGAN, frame by frame.

The file tells which network it is. Frames are cut into tiles and put into batches by the memory they take; one
batch is in memory at a time, so the length of the clip does not matter.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import isqrt

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.recognise import config_of, recognise
from LTX_2_MLX.checkpoints.resolve import open_checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.media.frames import FrameStream, to_uint8, to_unit
from LTX_2_MLX.media.image import StillImage
from LTX_2_MLX.models.rrdbnet import RRDBNet
from LTX_2_MLX.models.srvgg import SRVGG
from LTX_2_MLX.ops.context_tiles import in_tiles, pad_reflected
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.ops.resize import resize
from LTX_2_MLX.pipelines.requests import UpscaleRequest as Request
from LTX_2_MLX.pipelines.requests import upscaled_size
from LTX_2_MLX.planning.plan import Estimate, Plan, network_weights_bytes
from LTX_2_MLX.runtime.memory import budget_bytes
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner

STAGE = "upscale"
NETWORKS: tuple[type[RRDBNet] | type[SRVGG], ...] = (RRDBNet, SRVGG)
Network = RRDBNet | SRVGG

# Larger pieces gain nothing: convolutions are as fast or faster on pieces of this size.
_MAX_WORKING_BYTES = 2 * 2**30
_MAX_BATCH_BYTES = 2**28
_MAX_BATCH = 8
_SMALLEST_TILE = 64
# Float copies that live while the result becomes integers; and while it is resized, of the result, of it with one side
# resized, and of what comes of that; measured.
_FINISHING_COPIES, _RESIZING_COPIES = 5, (3, 4, 10)
# Surroundings of a tile where the network looks too far to be given all it sees: 23 dense blocks see 349 pixels.
_USUAL_CONTEXT, _EXACT_CONTEXT = 32, 64


@dataclass(frozen=True)
class Tiles:
    """How a frame is cut: side of a tile (None: whole frames) and context around it, in input pixels."""

    tile: int | None = None
    context: int = 0


def plan(height: int, width: int, request: Request) -> Plan:
    """What is done to frames or pictures of this size.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit it.
    """
    checkpoint = open_checkpoint(request.model_path, "upscaler")
    network = recognise(NETWORKS, checkpoint)
    config = config_of(network, checkpoint)
    new_height, new_width = upscaled_size(height, width, request.scale)
    work = f"{network.__name__} {height}×{width} to {new_height}×{new_width}"
    lazy = network(config)
    lazy.set_dtype(request.dtype)
    working = working_bytes(lazy, height, width, request)
    stage = Estimate(
        name=STAGE,
        work=work,
        file=checkpoint.path,
        weights_bytes=network_weights_bytes([network], checkpoint, dtype=request.dtype),
        activation_bytes=working,
        streams=True,
    )
    sizes = (f"Upscale: {height}×{width} to {new_height}×{new_width}",)
    return Plan(sizes=sizes, stages=(stage,), budget_bytes=budget_bytes(request.memory_limit_gb))


def upscale(stream: FrameStream, request: Request | None = None, runner: StageRunner | None = None) -> FrameStream:
    """The clip at ``request.scale`` times its size, made while it is read.

    Raises:
        CheckpointError: If a file is missing or of another network. What reading the clip tells is raised then.
        RequestError: If the tiles do not suit the network.
    """
    request, runner = request or Request(), runner or StageRunner()
    height, width = upscaled_size(stream.height, stream.width, request.scale)
    loader = _loader(request)
    work = partial(_chunks, stream=stream, request=request, progress=runner.progress)
    return stream.replace(chunks=runner.stream(STAGE, loader, work), height=height, width=width)


def upscale_pictures(
    pictures: Iterable[StillImage], request: Request | None = None, runner: StageRunner | None = None
) -> Iterator[StillImage]:
    """Each picture at ``request.scale`` times its size, with alpha and 16 bits where it has them.

    Raises:
        CheckpointError: If a file is missing or of another network.
        RequestError: If the tiles do not suit the network.
    """
    request, runner = request or Request(), runner or StageRunner()

    def work(network: Network) -> Iterator[StillImage]:
        for done, picture in enumerate(pictures):
            yield upscale_picture(network, picture, request)
            runner.progress.advance(STAGE, done + 1, None)

    return runner.stream(STAGE, _loader(request), work)


def upscale_pixels(network: Network, pixels: mx.array, scale: float, tiles: Tiles) -> mx.array:
    """Pixels ``(B, H, W, 3)`` in [0, 1] at ``scale`` times their size, float32, not clipped.

    Bicubic on floats where the network's own factor is another, as sgl-project/sglang,
    python/sglang/multimodal_gen/runtime/postprocess/realesrgan_upscaler.py at a56b7a68.
    """
    height, width = pixels.shape[1:3]
    larger = enlarge(network, pixels.astype(network.dtype), tiles).astype(mx.float32)
    return resize(larger, *upscaled_size(height, width, scale), "cubic")


def enlarge(network: Network, pixels: mx.array, tiles: Tiles) -> mx.array:
    """The network's own result, ``(B, network.scale * H, network.scale * W, 3)``.

    Sides that are no multiple of what the network folds are continued by their mirror image and cut back.
    """
    height, width = pixels.shape[1:3]
    padded = pad_reflected(pixels, -height % network.multiple, -width % network.multiple)
    if tiles.tile is None:
        larger = network(padded)
    else:
        larger = in_tiles(network, padded, scale=network.scale, tile=tiles.tile, context=tiles.context)
    return larger[:, : height * network.scale, : width * network.scale]


def upscale_picture(network: Network, picture: StillImage, request: Request) -> StillImage:
    """One picture at ``request.scale`` times its size.

    Alpha goes through the network as three equal colours, and becomes their luma afterwards.
    """
    tiles = tiles_for(network, *picture.pixels.shape[:2], request)
    largest = np.iinfo(picture.pixels.dtype).max

    def larger(levels: np.ndarray) -> mx.array:
        return upscale_pixels(network, mx.array(levels.astype(np.float32) / largest)[None], request.scale, tiles)[0]

    def rounded(pixels: mx.array) -> np.ndarray:
        return np.array(mx.round(mx.clip(pixels, 0, 1) * largest)).astype(picture.pixels.dtype)

    pixels, alpha = rounded(larger(picture.pixels)), picture.alpha
    if alpha is not None:
        alpha = rounded(luma(larger(np.repeat(alpha[..., None], 3, axis=-1))))
    return replace(picture, pixels=pixels, alpha=alpha)


def luma(pixels: mx.array) -> mx.array:
    """Brightness of colours ``(..., 3)`` by BT.601, as OpenCV turns colours to grey: ``(...)``."""
    return (pixels * mx.array([0.299, 0.587, 0.114])).sum(axis=-1)


def tiles_for(network: Network, height: int, width: int, request: Request) -> Tiles:
    """How frames of this size are cut.

    Raises:
        RequestError: If the tiles do not suit the network.
    """
    context = request.tile_overlap
    if context is None:
        context = network.reach if network.reach <= _EXACT_CONTEXT else _USUAL_CONTEXT
        context += -context % network.multiple
    for name, value in (("tile_size", request.tile_size or 0), ("tile_overlap", context)):
        if value % network.multiple:
            raise RequestError(
                f"{name} is {value}, but this network folds pixels by {network.multiple}: use a multiple of it."
            )
    if request.tile_size == 0:
        return Tiles()
    tile = request.tile_size or _fitting_tile(network, height, width, context, budget_bytes(request.memory_limit_gb))
    return Tiles() if tile is None or tile >= max(height, width) else Tiles(tile, context)


def _fitting_tile(network: Network, height: int, width: int, context: int, budget: int) -> int | None:
    working = min(_MAX_WORKING_BYTES, budget // 4)
    pixels = working // network.bytes_per_pixel
    if height * width <= pixels:
        return None
    side = isqrt(pixels) - 2 * context
    return max(side - side % _SMALLEST_TILE, _SMALLEST_TILE)


def working_bytes(network: Network, height: int, width: int, request: Request) -> int:
    """Memory that a batch takes beside the weights, about: the network's, or that of finishing its result."""
    tiles = tiles_for(network, height, width, request)
    around = 2 * tiles.context
    piece = height * width if tiles.tile is None else min(tiles.tile + around, height) * min(tiles.tile + around, width)
    finishing = _FINISHING_COPIES * network.scale**2
    if request.scale != network.scale:
        sides = (network.scale, network.scale), (network.scale, request.scale), (request.scale, request.scale)
        finishing = sum(copies * a * b for copies, (a, b) in zip(_RESIZING_COPIES, sides, strict=True))
    frame = max(piece * network.bytes_per_pixel, int(height * width * 3 * mx.float32.size * finishing))
    return _batch_size(network, height, width) * frame


def _batch_size(network: Network, height: int, width: int) -> int:
    # The CPU takes the pictures of a batch one by one.
    if on_cpu():
        return 1
    return min(max(_MAX_BATCH_BYTES // (height * width * network.bytes_per_pixel), 1), _MAX_BATCH)


def _chunks(network: Network, *, stream: FrameStream, request: Request, progress: Progress) -> Iterator[np.ndarray]:
    tiles, done = tiles_for(network, stream.height, stream.width, request), 0
    batch_size = _batch_size(network, stream.height, stream.width)
    try:
        for frames in _batches(stream.frames(), batch_size):
            pixels = to_unit(np.stack(frames))
            yield to_uint8(upscale_pixels(network, pixels, request.scale, tiles))
            done += len(frames)
            progress.advance(STAGE, done, stream.num_frames)
    finally:
        stream.close()


def _batches(frames: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    while batch := list(islice(frames, size)):
        yield batch


def _loader(request: Request) -> Callable[[], Network]:
    """What loads the network; headers are checked before."""
    checkpoint = open_checkpoint(request.model_path, "upscaler")
    network = recognise(NETWORKS, checkpoint)
    config = config_of(network, checkpoint)
    if request.denoise_strength in (None, 1):
        return partial(load, network, checkpoint, dtype=request.dtype)
    weak = open_checkpoint(request.weak_model_path, "upscaler")
    if recognise(NETWORKS, weak) is not network or config_of(network, weak) != config:
        raise CheckpointError(f"{weak.path} is another network than {checkpoint.path}, so they cannot be mixed.")
    return partial(load_mixed, network, checkpoint, weak, request.denoise_strength, request.dtype)


def load_mixed(
    network: type[Network], strong: Checkpoint, weak: Checkpoint, strength: float, dtype: mx.Dtype
) -> Network:
    """One network between two checkpoints: every tensor is ``strength * strong + (1 - strength) * weak``.

    Source: xinntao/Real-ESRGAN, realesrgan/utils.py (``RealESRGANer.dni``) at a4abfb2979.
    """
    # Mixed in float32: half precision would round three times.
    model, other = (load(network, checkpoint, dtype=mx.float32) for checkpoint in (strong, weak))
    model.update(
        tree_map(
            lambda own, weaker: (strength * own + (1 - strength) * weaker).astype(dtype),
            model.parameters(),
            other.parameters(),
        )
    )
    mx.eval(model.parameters())
    return model
