"""Videos and images to larger ones by Real-ESRGAN, frame by frame.

The file tells which network it is. Frames are cut into tiles and put into batches by the memory they take; one
batch is in memory at a time, so the length of the video does not matter.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from math import isqrt
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from LTX_2_MLX.checkpoints.load import build, load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.resolve import open_checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.media.frames import FrameStream, to_levels, to_unit
from LTX_2_MLX.media.image import StillImage
from LTX_2_MLX.models.rrdbnet import RRDBNet
from LTX_2_MLX.models.srvgg import SRVGG
from LTX_2_MLX.ops.collective import ALONE, Group
from LTX_2_MLX.ops.color import adain_transfer, wavelet_transfer
from LTX_2_MLX.ops.context_tiles import in_tiles, pad_reflected
from LTX_2_MLX.ops.conv import WINOGRAD_CHANNELS
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.ops.sampling import resize
from LTX_2_MLX.pipelines.requests import ColorFix, upscaled_size
from LTX_2_MLX.pipelines.requests import UpscaleRequest as Request
from LTX_2_MLX.pipelines.sharing import run_group, shared_frames
from LTX_2_MLX.planning.plan import Estimate, Plan, network_weights_bytes, plan
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner, run_stages
from LTX_2_MLX.runtime.this_machine import budget_bytes

STAGE = "upscale"
NETWORKS: tuple[type[RRDBNet] | type[SRVGG], ...] = (RRDBNet, SRVGG)
Network = RRDBNet | SRVGG

# Strengths of denoising that take one checkpoint.
_UNMIXED = (None, 1)
# Larger pieces gain nothing: convolutions are as fast or faster on pieces of this size.
_MAX_WORKING_BYTES = 2 * 2**30
_MAX_BATCH_BYTES = 2**28
_MAX_BATCH = 8
_SMALLEST_TILE = 64
# Input pixels around a tile: all that the network reads up to the second, else the first, because 23 dense blocks read
# 349 pixels to each side.
_USUAL_CONTEXT = 32
_EXACT_CONTEXT = 64
# Arrays of the widest layer's size that a network holds at once, measured (tests/pipelines/test_upscale.py compares).
_SRVGG_ARRAYS = 4
_RRDBNET_ARRAYS = 5
_WINOGRAD_ARRAYS = 4
_NARROW_SRVGG_ARRAYS = 3.2
_RRDBNET_ARRAYS_ON_CPU = 4.1
# Float copies while the result becomes integers; and while it is resized: of the network's result, of it with one side
# resized, and of the final size. Measured.
_FINISHING_COPIES = 5
_RESIZING_COPIES = (3, 4, 10)
# Of the final size, while colours are corrected: of the network's own size, of a resized one. Measured.
_COLOR_COPIES = (12.0, 19.5)


@dataclass(frozen=True)
class Tiles:
    """How a frame is cut: side of a tile (None: whole frames) and context around it, in input pixels."""

    tile: int | None = None
    context: int = 0


def upscale(stream: FrameStream, request: Request | None = None, runner: StageRunner | None = None) -> FrameStream:
    """The video at ``request.scale`` times its size, computed while it is read.

    Raises:
        CheckpointError: If a file is missing or of another network. Errors in the input are raised while reading.
        RequestError: If the tiles do not suit the network.
    """
    request = request or Request()
    to_run = stages(stream.height, stream.width, request)
    return run_stages(to_run, runner or StageRunner(), stream)


def upscale_images(
    images: Iterable[StillImage], request: Request | None = None, runner: StageRunner | None = None
) -> Iterator[StillImage]:
    """Each image at ``request.scale`` times its size, with alpha and 16 bits where it has them.

    Raises:
        CheckpointError: If a file is missing or of another network.
        RequestError: If the tiles do not suit the network.
    """
    request = request or Request()
    runner = runner or StageRunner()

    def work(network: Network) -> Iterator[StillImage]:
        for done, image in enumerate(_upscaled_images(network, images, request), start=1):
            yield image
            runner.progress.advance(STAGE, done, None)

    return runner.stream(STAGE, _loader(request), work)


def weight_files(request: Request) -> list[Path]:
    """Files of the network, and of the one that it is mixed with. Raises CheckpointError if one is missing."""
    names = [request.model_path]
    if request.denoise_strength not in _UNMIXED:
        names.append(request.weak_model_path)
    return [open_checkpoint(name, "upscaler").path for name in names]


def plan_for(height: int, width: int, request: Request, source_bytes: int = 0, writer_bytes: int = 0) -> Plan:
    """Memory of the run for frames or images of this size, where decoding and encoding take so much beside it.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit it.
    """
    budget = budget_bytes(request.memory_limit_gb)
    run = stages(height, width, request)
    return plan(run, budget_bytes=budget, source_bytes=source_bytes, writer_bytes=writer_bytes)


def stages(height: int, width: int, request: Request) -> list["Upscale"]:
    """The upscaling of frames of this size."""
    return [Upscale(request, height, width)]


@dataclass(frozen=True)
class Upscale:
    """Stage from a video to a larger one.

    Attributes:
        request: The options.
        height: Rows of an input frame.
        width: Columns of an input frame.
    """

    request: Request
    height: int
    width: int
    name: str = STAGE

    def estimate(self) -> Estimate:
        """Memory, from the file's header and the frames' size."""
        checkpoint = open_checkpoint(self.request.model_path, "upscaler")
        # MLX is lazy: the network's arrays are never computed.
        sketch = build(NETWORKS, checkpoint)
        sketch.set_dtype(self.request.dtype)
        network = type(sketch)
        new_height, new_width = upscaled_size(self.height, self.width, self.request.scale)
        sizes = f"{self.height}×{self.width} to {new_height}×{new_width}"
        return Estimate(
            name=self.name,
            work=f"{network.__name__} {sizes}",
            dtype=self.request.dtype,
            file=checkpoint.path,
            weights_bytes=network_weights_bytes([network], checkpoint, dtype=self.request.dtype),
            activation_bytes=activation_bytes(sketch, self.height, self.width, self.request),
            streams=True,
            array_bytes=array_bytes(sketch, self.height, self.width, self.request),
            size=f"Upscale: {sizes}",
        )

    def run(self, runner: StageRunner, stream: FrameStream) -> FrameStream:
        """The larger video, computed while it is read."""
        height, width = upscaled_size(stream.height, stream.width, self.request.scale)
        work = partial(upscaled_chunks, stream=stream, request=self.request, progress=runner.progress)
        return stream.replace(
            chunks=runner.stream(self.name, _loader(self.request), work),
            height=height,
            width=width,
        )


def bytes_per_pixel(network: Network) -> int:
    """Memory of the network's work for each input pixel, about."""
    if isinstance(network, SRVGG):
        by_winograd = network.width >= WINOGRAD_CHANNELS
        arrays_on_cpu = _WINOGRAD_ARRAYS if by_winograd else _NARROW_SRVGG_ARRAYS
        arrays = arrays_on_cpu if on_cpu() else _SRVGG_ARRAYS
        return int(arrays * max(network.width, 3 * network.scale**2) * network.dtype.size)
    # The last layers work at the output's size.
    arrays = _RRDBNET_ARRAYS_ON_CPU if on_cpu() else _RRDBNET_ARRAYS
    return int(arrays * network.scale**2 * network.width * network.dtype.size)


def activation_bytes(network: Network, height: int, width: int, request: Request) -> int:
    """Memory of a batch beside the weights, about: of the network's work, or of finishing its result."""
    tiles = tiles_for(network, height, width, request)
    pixels = height * width
    if tiles.tile is not None:
        side = tiles.tile + 2 * tiles.context
        pixels = min(side, height) * min(side, width)
    own = network.scale
    asked = request.scale
    finishing: float = _FINISHING_COPIES * own**2
    if asked != own:
        whole, half_resized, resized = _RESIZING_COPIES
        finishing = whole * own**2 + half_resized * own * asked + resized * asked**2
    if request.color_fix != "none":
        finishing = max(finishing, _COLOR_COPIES[asked != own] * asked**2)
    frame_bytes = max(pixels * bytes_per_pixel(network), int(height * width * 3 * mx.float32.size * finishing))
    return _batch_size(network, height, width) * frame_bytes


def array_bytes(network: Network, height: int, width: int, request: Request) -> int:
    """Bytes of the largest array: the last layer's input of a tile, or the result in float32."""
    tiles = tiles_for(network, height, width, request)
    pixels = height * width
    if tiles.tile is not None:
        side = tiles.tile + 2 * tiles.context
        pixels = min(side, height) * min(side, width)
    values = network.width * (network.scale**2 if isinstance(network, RRDBNet) else 1)
    layer = pixels * max(values, 3 * network.scale**2) * network.dtype.size
    finished = int(height * width * max(network.scale, request.scale) ** 2 * 3 * mx.float32.size)
    return _batch_size(network, height, width) * max(layer, finished)


def upscale_pixels(
    network: Network,
    pixels: mx.array,
    scale: float,
    tiles: Tiles,
    color_fix: ColorFix = "none",
    group: Group = ALONE,
) -> mx.array:
    """Pixels ``(B, H, W, 3)`` in [0, 1] at ``scale`` times their size, float32, not clipped.

    The processes of ``group`` have the same pixels, share the tiles out, and all get the result.

    Bicubic on floats where the network's own factor is another, as sgl-project/sglang,
    python/sglang/multimodal_gen/runtime/postprocess/realesrgan_upscaler.py at a56b7a68.
    """
    height, width = pixels.shape[1:3]
    larger = enlarge(network, pixels.astype(network.dtype), tiles, group).astype(mx.float32)
    size = upscaled_size(height, width, scale)
    larger = resize(larger, *size, "cubic")
    if color_fix == "none":
        return larger
    transfer = wavelet_transfer if color_fix == "wavelet" else adain_transfer
    reference = resize(pixels.astype(mx.float32), *size, "cubic")
    # The network's layers are freed before the correction takes its memory.
    mx.eval(larger, reference)
    # The transfers take an axis of time.
    return transfer(larger[:, None], reference[:, None])[:, 0]


def enlarge(network: Network, pixels: mx.array, tiles: Tiles, group: Group = ALONE) -> mx.array:
    """The network's own result, ``(B, network.scale * H, network.scale * W, 3)``.

    Sides that are no multiple of what the network folds are continued by their mirror image and cut back.
    """
    height, width = pixels.shape[1:3]
    padded = pad_reflected(pixels, -height % network.multiple, -width % network.multiple)
    if tiles.tile is None:
        larger = network(padded)
    else:
        larger = in_tiles(network, padded, scale=network.scale, tile=tiles.tile, context=tiles.context, group=group)
    return larger[:, : height * network.scale, : width * network.scale]


def upscale_image(network: Network, image: StillImage, request: Request, group: Group = ALONE) -> StillImage:
    """One image at ``request.scale`` times its size; the processes of ``group`` share its tiles out.

    Alpha and grey go through the network as three equal colours, and become their luma afterwards.

    Raises:
        OutputError: If a value is NaN or infinite.
    """
    height, width = image.pixels.shape[:2]
    tiles = tiles_for(network, height, width, request)
    levels_of = partial(to_levels, bit_depth=8 * image.pixels.itemsize)

    def enlarged(levels: np.ndarray, color_fix: ColorFix = "none") -> mx.array:
        return upscale_pixels(network, to_unit(levels[None]), request.scale, tiles, color_fix, group)[0]

    def grey_levels(pixels: mx.array) -> np.ndarray:
        return np.repeat(levels_of(luma(mx.clip(pixels, 0, 1)))[..., None], 3, axis=-1)

    larger = enlarged(image.pixels, request.color_fix)
    pixels = grey_levels(larger) if image.grey else levels_of(larger)
    alpha = image.alpha
    if alpha is not None:
        alpha = levels_of(luma(enlarged(np.repeat(alpha[..., None], 3, axis=-1))))
    return replace(image, pixels=pixels, alpha=alpha)


def _upscaled_images(network: Network, images: Iterable[StillImage], request: Request) -> Iterator[StillImage]:
    """Larger images; several machines share the tiles of a large one out, and others image by image."""

    def is_cut(image: StillImage) -> bool:
        height, width = image.pixels.shape[:2]
        return tiles_for(network, height, width, request).tile is not None

    group = run_group()
    for cut, run in groupby(images, key=is_cut):
        if cut or group.size == 1:
            for image in run:
                yield upscale_image(network, image, request, group)
        else:
            yield from _shared_images(network, run, request)


def _shared_images(network: Network, images: Iterable[StillImage], request: Request) -> Iterator[StillImage]:
    """Larger images, each made by one of the machines; all of them have all images."""
    waiting: deque[StillImage] = deque()

    def noted() -> Iterator[StillImage]:
        for image in images:
            waiting.append(replace(image, pixels=np.empty((0, 0, 3), image.pixels.dtype), alpha=None))
            yield image

    def work(own: list[StillImage]) -> list[np.ndarray]:
        return [_planes(upscale_image(network, image, request)) for image in own]

    for planes in shared_frames(noted(), work):
        alpha = planes[..., 3] if planes.shape[-1] > 3 else None
        yield replace(waiting.popleft(), pixels=planes[..., :3], alpha=alpha)


def _planes(image: StillImage) -> np.ndarray:
    """Colours ``(H, W, 3)`` of an image, or ``(H, W, 4)`` with alpha."""
    return image.pixels if image.alpha is None else np.concatenate([image.pixels, image.alpha[..., None]], axis=-1)


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
    pixels = working // bytes_per_pixel(network)
    if height * width <= pixels:
        return None
    side = isqrt(pixels) - 2 * context
    return max(side - side % _SMALLEST_TILE, _SMALLEST_TILE)


def _batch_size(network: Network, height: int, width: int) -> int:
    # The CPU computes the frames of a batch one by one.
    if on_cpu():
        return 1
    return min(max(_MAX_BATCH_BYTES // (height * width * bytes_per_pixel(network)), 1), _MAX_BATCH)


def upscaled_chunks(
    network: Network, *, stream: FrameStream, request: Request, progress: Progress
) -> Iterator[np.ndarray]:
    """Chunks of the larger video, batch by batch."""
    tiles = tiles_for(network, stream.height, stream.width, request)
    batch_size = _batch_size(network, stream.height, stream.width)

    def work(batches: list[list[np.ndarray]]) -> list[np.ndarray]:
        larger = []
        for frames in batches:
            pixels = upscale_pixels(network, to_unit(np.stack(frames)), request.scale, tiles, request.color_fix)
            larger.append(to_levels(pixels, stream.bit_depth))
        return larger

    done = 0
    try:
        for chunk in shared_frames(_batches(stream.frames(), batch_size), work):
            done += len(chunk)
            progress.advance(STAGE, done, stream.num_frames)
            yield chunk
    finally:
        stream.close()


def _batches(frames: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    while batch := list(islice(frames, size)):
        yield batch


def _loader(request: Request) -> Callable[[], Network]:
    """Check the files' headers, and return the function that loads the network."""
    checkpoint = open_checkpoint(request.model_path, "upscaler")
    network = type(build(NETWORKS, checkpoint))
    if request.denoise_strength in _UNMIXED:
        return partial(load, NETWORKS, checkpoint, dtype=request.dtype)
    weak = open_checkpoint(request.weak_model_path, "upscaler")
    config = network.Config.from_header(checkpoint.header)
    if type(build(NETWORKS, weak)) is not network or network.Config.from_header(weak.header) != config:
        raise CheckpointError(f"{weak.path} is another network than {checkpoint.path}, so they cannot be mixed.")
    return partial(load_mixed, checkpoint, weak, request.denoise_strength, request.dtype)


def load_mixed(strong: Checkpoint, weak: Checkpoint, strength: float, dtype: mx.Dtype) -> Network:
    """One network between two checkpoints: every tensor is ``strength * strong + (1 - strength) * weak``.

    Source: xinntao/Real-ESRGAN, realesrgan/utils.py (``RealESRGANer.dni``) at a4abfb2979.
    """
    # Mixed in float32: half precision would round three times.
    model = load(NETWORKS, strong, dtype=mx.float32)
    weak_model = load(NETWORKS, weak, dtype=mx.float32)

    def mix(strong_array: mx.array, weak_array: mx.array) -> mx.array:
        return (strength * strong_array + (1 - strength) * weak_array).astype(dtype)

    model.update(tree_map(mix, model.parameters(), weak_model.parameters()))
    mx.eval(model.parameters())
    return model
