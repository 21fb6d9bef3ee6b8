"""Stages after denoising: a video latent to a larger one, and to frames within the machine's memory.

Decoding runs over consecutive frames with the exact result, whatever the video's length. Tiles, which are not exact,
are used where a frame is too large for that, or where the user gives their size.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from math import inf, prod
from typing import Any, ClassVar, NamedTuple

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.read_ahead import StoredNetwork
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.state import key_for
from LTX_2_MLX.errors import CheckpointError, MemoryBudgetError, RequestError
from LTX_2_MLX.media.audio import Waveform
from LTX_2_MLX.media.frames import FrameStream, signed_to_levels
from LTX_2_MLX.models.interfaces import PublishedNetwork
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, VideoDecoder, VideoVAEConfig, decoder_layers
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder, encoder_layers
from LTX_2_MLX.models.ltx.video_vae_memory import decoder_bytes, largest_array, run_bytes
from LTX_2_MLX.models.ltx.video_vae_tiling import TileSize, Tiling, decode_plan, decode_tiled
from LTX_2_MLX.ops.collective import ALONE, Group
from LTX_2_MLX.ops.conv import conv3d_scratch_bytes
from LTX_2_MLX.ops.device import largest_array_bytes, on_cpu
from LTX_2_MLX.pipelines.generation.companion_files import upscaler_config
from LTX_2_MLX.pipelines.generation.prompt import contexts_bytes
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState, Result, contents
from LTX_2_MLX.pipelines.sharing import run_group, smallest
from LTX_2_MLX.planning.plan import Estimate, dtype_for, network_weights_bytes
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.runner import StageRunner, check_result
from LTX_2_MLX.runtime.this_machine import GIB, budget_bytes, winograd_convolutions
from LTX_2_MLX.shapes import Compression, LatentShape, VideoShape

# Activations may take this share of the budget: the rest is for weights, frames in flight and other stages' results.
_BUDGET_SHARE = 0.5
# Shorter spans than the published 80 frames: all the frames of a span stand in memory while its tiles are blended.
_TILE_FRAMES = 40
_TILE_FRAMES_OVERLAP = 16
_TILE_OVERLAP = 64
# Of the frames of one span of time, in float32: those being added up, those of the span before, and one sum.
_BLEND_COPIES = 3
_CHANNELS = 3
_SMALLEST_TILE_CELLS = 4
# Arrays of a residual block of the latent upscaler. The CPU's have the input of a convolution, padded, among them;
# measured.
_UPSCALER_GPU_ARRAYS = 6
_UPSCALER_CPU_ARRAYS = 13
# The widest weight, of a 3×3 convolution, and its copies while it is turned to MLX's axis order.
_WEIGHT_COPIES = 3
_WEIGHT_TAPS = 9


@dataclass(frozen=True)
class UpscaleLatent:
    """Latent upscaler: larger latents, as the upscaler's file says; those of other names pass through.

    Attributes:
        name: The stage's name.
        upscaler: The upscaler's file.
        weights: The checkpoint of the same generation, with the statistics of the latent.
        shape: Size of the latent that comes in.
        dtype: Precision of the network; the statistics stay float32.
        work: What it does, for the plan.
        waiting_bytes: Memory of results that wait for later stages.
        latents: Names of the latents that are upscaled, each as a clip of its own.
        small_as: Name under which the video is handed on as it was, too.
    """

    name: str
    upscaler: Checkpoint
    weights: Checkpoint
    shape: LatentShape
    dtype: mx.Dtype
    work: str = ""
    waiting_bytes: int = 0
    latents: tuple[str, ...] = ("video",)
    small_as: str | None = None
    needs: ClassVar[tuple[Result, ...]] = ("latents",)
    gives: ClassVar[Result] = "latents"

    @property
    def saved_as(self) -> str:
        """The stage's name."""
        return self.name

    def estimate(self) -> Estimate:
        """The last layers, at the larger size.

        Raises:
            CheckpointError: If the upscaler belongs to another autoencoder.
        """
        config = config_of(LatentUpscaler, self.upscaler)
        channels = config_of(LatentStatistics, self.weights).channels
        if config.in_channels != channels:
            raise CheckpointError(
                f"{self.upscaler.path} upscales latents of {config.in_channels} channels, those of "
                f"{self.weights.path} have {channels}. Use the upscaler that was published with this model."
            )
        item_bytes = self.dtype.size
        mid_channels = config.mid_channels
        larger = config.output_shape(self.shape)
        # The arrays of a residual block at the larger size.
        activations = (
            (_UPSCALER_CPU_ARRAYS if on_cpu() else _UPSCALER_GPU_ARRAYS) * larger.num_tokens * mid_channels * item_bytes
        )
        if on_cpu():
            first = (self.shape.num_frames, self.shape.height * self.shape.width, config.in_channels, mid_channels)
            block = (larger.num_frames, larger.height * larger.width, mid_channels, mid_channels)
            activations += max(conv3d_scratch_bytes(*first), conv3d_scratch_bytes(*block))
        widest_weight = _WEIGHT_COPIES * _WEIGHT_TAPS * mid_channels**2 * item_bytes
        return Estimate(
            name=self.name,
            work=self.work,
            dtype=self.dtype,
            file=self.upscaler.path,
            weights_bytes=network_weights_bytes([LatentUpscaler], self.upscaler, dtype=self.dtype),
            activation_bytes=activations + widest_weight + self.waiting_bytes,
            # A group norm's values are float32.
            array_bytes=larger.num_tokens * mid_channels * mx.float32.size,
            stored=(StoredNetwork(self.upscaler, LatentUpscaler),),
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Upscale the normalised latents; the results are normalised again."""

        def work(networks: tuple[LatentUpscaler, LatentStatistics]) -> Arrays:
            upscaler, statistics = networks
            larger = {}
            runner.progress.advance(self.name, 0, len(self.latents))
            for name in self.latents:
                larger[name] = upscaler.upscale(state.latents[name], statistics)
                mx.eval(larger[name])
                runner.progress.advance(self.name, len(larger), len(self.latents))
            return larger

        larger = runner.run(self.name, self._load, work)
        check_result(self.name, larger)
        small = {} if self.small_as is None else {self.small_as: state.latents["video"]}
        return replace(state, latents=state.latents | small | larger)

    def facts(self) -> dict[str, Any]:
        """Both files, the precision, and which latents they are."""
        return {
            "files": contents(self.upscaler.path, *self.weights.paths),
            "dtype": str(self.dtype),
            "latents": list(self.latents),
            "small_as": self.small_as,
        }

    def _load(self) -> tuple[LatentUpscaler, LatentStatistics]:
        upscaler = load(LatentUpscaler, self.upscaler, dtype=self.dtype)
        return upscaler, load(LatentStatistics, self.weights, dtype=dtype_for("latent statistics"))


@dataclass(frozen=True)
class DecodeVideo:
    """Video decoder: a latent to a stream of frames, made as they are read.

    Attributes:
        weights: The checkpoint with the decoder.
        dtype: Precision of the network.
        shape: Size of the latent.
        compression: Pixels per latent step.
        frame_rate: Frames per second of the video.
        seed: Of the noise that some decoders mix in.
        tile_size: Side of a tile in pixels; None: whole frames wherever memory allows.
        budget: Bytes for activations, by which tiles are chosen.
        num_frames: Frames of the video; None: all that the latent holds.
        crop: Height and width of the video, cut at the bottom and the right; None: all that the latent holds.
        bit_depth: Of the frames.
        winograd: Whether Metal may take Winograd's convolutions, which are exact enough in float32.
    """

    weights: Checkpoint
    dtype: mx.Dtype
    shape: LatentShape
    compression: Compression
    frame_rate: Fraction
    seed: int = 0
    tile_size: int | None = None
    budget: int | None = None
    num_frames: int | None = None
    crop: tuple[int, int] | None = None
    bit_depth: int = 8
    winograd: bool = False
    name = "decode"
    needs: ClassVar[tuple[Result, ...]] = ("latents",)
    gives: ClassVar[Result] = "frames"
    saved_as = "frames"
    network: ClassVar[type[PublishedNetwork[Any]]] = VideoDecoder

    def estimate(self) -> Estimate:
        """One chunk of frames, or one tile and the frames that tiles are blended into.

        Raises:
            RequestError: If the frames are too small for the decoder, or the tiles do not suit it.
            MemoryBudgetError: If no tile is small enough.
        """
        config = config_of(VideoDecoder, self.weights)
        cell = self.compression
        size = self.shape.pixels(cell)
        height, width = config.fewest_cells * cell.height, config.fewest_cells * cell.width
        if size.height < height or size.width < width:
            raise RequestError(
                f"The video would be {size.height}×{size.width}, but this checkpoint's decoder mirrors its borders and "
                f"needs at least {height}×{width}."
            )
        memory = decode_memory(config, self.shape, self.dtype, self.tile_size, self.budget, winograd=self.winograd)
        return Estimate(
            name=self.name,
            work=f"{size.height}×{size.width}, {self.size().num_frames} frames",
            dtype=self.dtype,
            file=self.weights.path,
            weights_bytes=network_weights_bytes([VideoDecoder], self.weights, dtype=self.dtype),
            activation_bytes=memory.num_bytes,
            streams=True,
            array_bytes=memory.array_bytes,
            stored=(StoredNetwork(self.weights, VideoDecoder),),
        )

    def run(self, runner: StageRunner, state: GenerationState) -> FrameStream:
        """The video; its decoder is freed after the last chunk, or when the stream is closed.

        Several machines share the work, and the first one has the frames.
        """
        return self.stream(self._chunks(runner, state.latents["video"]), state.sound)

    def stream(self, chunks: Iterator[np.ndarray], sound: Arrays) -> FrameStream:
        """A stream of the video's size from chunks ``(T, H, W, 3)`` uint8, with the sound of the generation's state."""
        size = self.size()
        audio = None
        if sound:
            audio = Waveform(np.asarray(sound["waveform"]), int(np.asarray(sound["sample_rate"])))
        return FrameStream(chunks, size.height, size.width, self.frame_rate, size.num_frames, audio)

    def facts(self) -> dict[str, Any]:
        """The checkpoint, its precision and what tiles follow from."""
        cut = {} if self.crop is None else {"size": asdict(self.size())}
        return cut | {
            "shape": asdict(self.shape),
            "seed": self.seed,
            "weights": contents(*self.weights.paths),
            "dtype": str(self.dtype),
            "tile_size": self.tile_size,
            "budget": self.budget,
            "winograd": self.winograd,
        }

    def chunks_of(self, decoder: Any, latent: mx.array, group: Group = ALONE) -> Iterator[np.ndarray]:
        """Chunks ``(T, H, W, 3)`` of all the frames that the latent holds; of several processes the first one has them.

        ``decoder`` is of the class ``network``, loaded.
        """
        key = key_for(self.seed, self.name)
        return decode_frames(decoder, latent, self.tile_size, key, self.budget, self.bit_depth, group)

    def size(self) -> VideoShape:
        """Size of the video."""
        size = self.shape.pixels(self.compression)
        if self.crop is not None:
            size = replace(size, height=self.crop[0], width=self.crop[1])
        return size if self.num_frames is None else replace(size, num_frames=self.num_frames)

    def _chunks(self, runner: StageRunner, latent: mx.array) -> Iterator[np.ndarray]:
        size = self.size()
        num_frames = size.num_frames
        chunks = runner.stream(
            self.name,
            partial(load, self.network, self.weights, dtype=self.dtype),
            partial(self.chunks_of, latent=latent, group=ALONE if launch.RANK is None else run_group()),
        )
        made = _by_winograd(chunks) if self.winograd else chunks
        done = 0
        try:
            for chunk in made:
                chunk = chunk[: num_frames - done, : size.height, : size.width]
                done += len(chunk)
                runner.progress.advance(self.name, done, num_frames)
                yield chunk
                if done == num_frames:
                    break
            if launch.RANK is not None:
                # The other machines go on to the end.
                deque(chunks, maxlen=0)
        finally:
            chunks.close()


def _by_winograd(chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The chunks, each made with Winograd's convolutions; what happens between two of them has none."""
    while True:
        with winograd_convolutions(True):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def frame_stages(request: Request) -> list[UpscaleLatent | DecodeVideo]:
    """Stages from the last denoised latent to frames, by the decoder that the video autoencoder's file holds.

    The frame rate is doubled before it if so requested.
    """
    models = request.models
    shape = request.output_grid.shape
    stages: list[UpscaleLatent | DecodeVideo] = []
    if request.temporal_upscale:
        upscaler, shape = _temporal_upscaler(request, shape)
        stages.append(upscaler)
    settings: dict[str, Any] = {
        "weights": models.video_vae,
        "dtype": mx.float32 if request.decode_dtype else models.dtype,
        "shape": shape,
        "compression": models.compression,
        "frame_rate": request.output_rate,
        "seed": request.seed,
        "tile_size": request.tile_size,
        "budget": activation_budget(request.memory_limit_gb),
    }
    if request.given is not None and request.given.clip is not None:
        size = request.given.clip.shape
        settings |= {"num_frames": size.num_frames, "crop": (size.height, size.width)}
    if not models.decodes_by_diffusion:
        return [*stages, DecodeVideo(**settings, winograd=bool(request.decode_dtype))]
    # Few runs decode by diffusion.
    from LTX_2_MLX.pipelines.generation.decode_diffusion import DecodeByDiffusion

    return [*stages, DecodeByDiffusion(**settings, attention=request.decoder_attention)]


def _temporal_upscaler(request: Request, shape: LatentShape) -> tuple[UpscaleLatent, LatentShape]:
    """The stage that doubles the frame rate of a latent, and the size of what it makes."""
    models = request.models
    assert models.temporal_upscaler is not None
    config = upscaler_config(models.temporal_upscaler, temporal=True, flag="--temporal-weights")
    stage = UpscaleLatent(
        name="temporal_upscaler",
        upscaler=models.temporal_upscaler,
        weights=models.video_vae,
        shape=shape,
        dtype=models.dtype,
        work=f"{request.num_frames} to {request.output_shape.num_frames} frames",
        waiting_bytes=contexts_bytes(request),
    )
    return stage, config.output_shape(shape)


def decode_frames(
    decoder: VideoDecoder,
    latent: mx.array,
    tile_size: int | None = None,
    key: mx.array | None = None,
    budget: int | None = None,
    bit_depth: int = 8,
    group: Group = ALONE,
) -> Iterator[np.ndarray]:
    """Consecutive chunks ``(T, H, W, 3)`` of the video of a normalised latent ``(1, T', H', W', C)``.

    They are uint8, or uint16 for more than 8 bits.

    Args:
        decoder: Its weights' dtype is the precision.
        latent: Of one video.
        tile_size: Side of a tile in pixels; None: whole frames where memory allows.
        key: Key of the noise that a timestep-conditioned decoder adds.
        budget: Bytes for activations; see ``choose_tiling``.
        bit_depth: Of the frames.
        group: Processes that share the layers out, or the tiles. The first one has the frames.

    Raises:
        MemoryBudgetError: If no tile is small enough.
        OutputError: If the network gives NaN or infinite values.
    """
    shape = LatentShape(*latent.shape[1:4])
    tiling = choose_tiling(decoder, shape, tile_size, budget)
    if group.size > 1:
        tiling = shared_tiling(tiling)
    if tiling is None:
        chunks = decoder.stream([latent], key=key, group=group)
    else:
        chunks = decode_tiled(decoder, latent, decode_plan(shape, tiling, decoder.compression), key, group)
    for chunk in chunks:
        yield signed_to_levels(chunk[0], bit_depth)


class DecodeMemory(NamedTuple):
    """Bytes of decoding beside the weights, and of its largest array."""

    num_bytes: int
    array_bytes: int


def decode_memory(
    config: VideoVAEConfig,
    latent: LatentShape,
    dtype: mx.Dtype,
    tile_size: int | None,
    budget: int | None = None,
    *,
    winograd: bool = False,
) -> DecodeMemory:
    """Memory of decoding a latent, in chunks of whole frames or in tiles.

    Tiles are used where chunks do not fit, or where ``tile_size`` is given; ``budget`` is that of ``choose_tiling``.
    With ``winograd`` a GPU also holds what these convolutions transform.

    Raises:
        MemoryBudgetError: If no tile is small enough.
    """
    decoder = VideoDecoder(config)
    decoder.set_dtype(dtype)
    tiling = choose_tiling(decoder, latent, tile_size, budget)
    tile = latent
    joined = 0
    if tiling is not None:
        tile = LatentShape(
            num_frames=_tiled_size(latent.num_frames, tiling.time),
            height=_tiled_size(latent.height, tiling.height),
            width=_tiled_size(latent.width, tiling.width),
        )
        span = replace(latent, num_frames=tile.num_frames).pixels(config.decoder_compression)
        joined = _CHANNELS * mx.float32.size * span.num_frames * span.height * span.width
    num_bytes = decoder_bytes(config, tile, item_bytes=dtype.size, winograd=winograd)
    largest = largest_array(decoder_layers(config), (1, 1, tile.height, tile.width), dtype.size)
    return DecodeMemory(num_bytes + _BLEND_COPIES * joined, max(largest, joined))


def _tiled_size(size: int, tile: TileSize | None) -> int:
    return size if tile is None else min(size, tile.size)


def activation_budget(limit_gib: float | None = None) -> int:
    """Bytes that activations of encoding and decoding may take: a share of the memory limit, detected unless given."""
    return int(budget_bytes(limit_gib) * _BUDGET_SHARE)


def choose_tiling(
    network: VideoEncoder | VideoDecoder, latent: LatentShape, tile_size: int | None = None, budget: int | None = None
) -> Tiling | None:
    """Tiles that a clip needs: None, whole frames, wherever they fit.

    Args:
        network: The encoder or decoder.
        latent: Size of the clip's latent.
        tile_size: Side of a tile in pixels that the user asked for.
        budget: Bytes for the network's activations; half of the machine's budget unless given.

    Raises:
        RequestError: If ``tile_size`` does not fit the compression.
        MemoryBudgetError: If not even the smallest tiles fit.
    """
    if tile_size is not None:
        return square_tiles(tile_size, network.compression)
    budget = activation_budget() if budget is None else budget
    if _fits(network, latent.height, latent.width, budget):
        return None
    compression = network.compression
    frames = min(_TILE_FRAMES, latent.pixels(compression).num_frames)
    pixels = prod((frames, latent.height * compression.height, latent.width * compression.width))
    left = budget - _BLEND_COPIES * _CHANNELS * mx.float32.size * pixels
    side = max(latent.height, latent.width) - 1
    while left > 0 and side >= _SMALLEST_TILE_CELLS:
        if _fits(network, min(side, latent.height), min(side, latent.width), left):
            return square_tiles(side * max(compression.height, compression.width), compression)
        side -= 1
    raise MemoryBudgetError(
        f"Frames of {latent.width * compression.width}×{latent.height * compression.height} pixels do not fit into the "
        f"{budget / GIB:.1f} GiB that this stage may use, not even in tiles. Use smaller frames, or --fp16."
    )


def shared_tiling(tiling: Tiling | None) -> Tiling | None:
    """The smallest of the tiles that the machines have chosen; None where all have whole frames."""

    def area(choice: dict[str, Any] | None) -> float:
        if choice is None:
            return inf
        return prod(choice[axis]["size"] for axis in ("height", "width") if choice[axis] is not None)

    def found(choice: dict[str, Any] | None) -> Tiling | None:
        if choice is None:
            return None
        return Tiling(**{axis: None if tile is None else TileSize(**tile) for axis, tile in choice.items()})

    return smallest(tiling, area, found)


def square_tiles(side: int, compression: Compression) -> Tiling:
    """Tiles of ``side`` pixels that share 64, or a quarter of it where that is less; 40 frames that share 16.

    Raises:
        RequestError: If ``side`` does not fit the compression.
    """
    if side == 0:
        raise RequestError("--tile-size is 0. Leave it out for whole frames wherever memory allows.")
    overlap = min(_TILE_OVERLAP, side // 4)
    height = TileSize.from_pixels(side, max(overlap // compression.height, 1) * compression.height, compression.height)
    width = TileSize.from_pixels(side, max(overlap // compression.width, 1) * compression.width, compression.width)
    frames = max(_TILE_FRAMES // compression.time, 2)
    shared = max(_TILE_FRAMES_OVERLAP // compression.time, 1)
    return Tiling(TileSize(frames, shared), height, width)


def _fits(network: VideoEncoder | VideoDecoder, height: int, width: int, budget: int) -> bool:
    """Whether a run over a latent of this size stays within a budget, and its arrays within what the device holds."""
    item_bytes = network.conv_in.conv.weight.dtype.size
    if isinstance(network, VideoDecoder):
        layers = decoder_layers(network.config)
    else:
        layers = encoder_layers(network.config)
        height *= network.compression.height
        width *= network.compression.width
    most = largest_array_bytes(item_bytes)
    if most is not None and largest_array(layers, (1, 1, height, width), item_bytes) > most:
        return False
    return run_bytes(layers, (1, 1, height, width), item_bytes) <= budget
