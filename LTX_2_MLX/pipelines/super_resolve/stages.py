"""Stages of super-resolution with their estimates: latents and frames by one stage, or one after the other.

Data that has to wait (the source when it is read more than once, frames of tiles, latents until the transformer is
freed) waits in temporary files, so memory does not grow with the clip's length.

The factors of the estimates count arrays that live at once. They were fitted on the CPU backend by
``scripts/bench_super_resolve.py plan``; what a GPU saves (unfolded convolutions, scores) is left out there.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.diffusion.state import seeded_noise
from LTX_2_MLX.media.frames import FrameStream, signed_to_levels
from LTX_2_MLX.models.flashvsr.block_attention import Sparsity, max_elements, topk_ratio
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.flashvsr.stream import BlockShare, Decoder, FrameDecoder, LatentStream
from LTX_2_MLX.models.flashvsr.transformer import FIRST_FRAMES, NEXT_FRAMES, TransformerStream
from LTX_2_MLX.models.tae import ConditionalConfig, TinyConfig
from LTX_2_MLX.models.wan.tiled_decoder import PUBLISHED_TILE, TiledDecoder
from LTX_2_MLX.models.wan.transformer import WanTransformer, WanTransformerConfig
from LTX_2_MLX.models.wan.vae import WanDecoder, WanVAEConfig
from LTX_2_MLX.ops.color import adain_transfer, wavelet_transfer
from LTX_2_MLX.ops.device import largest_array_bytes, on_cpu
from LTX_2_MLX.pipelines.requests import SuperResolveRequest as Request
from LTX_2_MLX.pipelines.sharing import run_group
from LTX_2_MLX.pipelines.super_resolve.decoders import DECODERS, LATENT_CHANNELS
from LTX_2_MLX.pipelines.super_resolve.files import Files
from LTX_2_MLX.pipelines.super_resolve.lq_frames import Fit, LQChunk, in_groups, lq_chunks
from LTX_2_MLX.pipelines.super_resolve.shares import TileResult, all_tiles, block_share, own_tiles
from LTX_2_MLX.pipelines.super_resolve.tiles import Layout, Tile
from LTX_2_MLX.planning.plan import Estimate, format_bytes, network_weights_bytes
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.runtime.spool import Spool

STAGE = "super-resolve"
LATENT_STAGE = "super-resolve latents"
DECODE_STAGE = "super-resolve decode"
COLOR_FIXES = {"wavelet": wavelet_transfer, "adain": adain_transfer}

# Pixels of a cell of the latent and of a token along each side.
_LATENT_CELL = 8
_TOKEN_CELL = 16
# Tokens of the published prompt.
_PROMPT_TOKENS = 512
# Arrays of one token's features that live in a block: queries, keys, values, their rotated copies, the feed-forward.
_TOKEN_ARRAYS = 30.4
# Floats of one token in the projector, and what unfolding adds on the CPU.
_PROJECTOR_FLOATS = 20_000
_PROJECTOR_UNFOLDED = 80_000
# Arrays of one pixel's channels at full size: of a tiny decoder's last layer, two frames at a time, and of a Wan
# decoder's, four frames.
_TINY_ARRAYS = 6.5
_WAN_ARRAYS = 34
# What the CPU adds by unfolding a convolution's input: 9 taps of two frames, 27 of four and their padding.
_TINY_UNFOLDED = 18
_WAN_UNFOLDED = 133
# Floats of one pixel: while the colours of the frames are fixed, and of the frames beside a decoder at work.
_COLOR_FLOATS = 130
_FRAME_FLOATS = 30
_FLOAT_BYTES = mx.float32.size
# Frames of a latent frame, which are made together.
_GROUP_FRAMES = 4


@dataclass
class Work:
    """What the stages hand on: the clip, and the temporary files with its frames and latents.

    Attributes:
        stream: The source.
        open_files: Closes the temporary files.
        source: The source's frames, once they are in a file.
        latents: A file for each tile of this machine, by the tile's number.
    """

    stream: FrameStream
    open_files: ExitStack
    source: Spool | None = None
    latents: dict[int, Spool] = field(default_factory=dict)

    @property
    def num_frames(self) -> int | None:
        """Frames of the source; None where only reading it tells."""
        return self.stream.num_frames if self.source is None else len(self.source)

    @property
    def levels(self) -> type:
        """Type of the frames."""
        return np.uint8 if self.stream.bit_depth == 8 else np.uint16

    def spool(self, shape: tuple[int, ...], dtype: type = np.uint8) -> Spool:
        """A new temporary file for arrays of one shape."""
        return self.open_files.enter_context(Spool(shape, dtype))

    def spool_source(self) -> None:
        """Read the source into a temporary file, so that it can be read again."""
        self.source = self.spool((self.stream.height, self.stream.width, 3), self.levels)
        for chunk in self.stream:
            self.source.append(chunk)

    def tile_frames(self, tile: Tile) -> Iterator[np.ndarray]:
        """The source's frames, cut to a tile."""
        frames = self.stream.frames() if self.source is None else self.source
        return (tile.cut(frame) for frame in frames)


@dataclass(frozen=True)
class Setup:
    """A request with its files and its tiles."""

    request: Request
    files: Files
    layout: Layout

    def load_generator(self) -> tuple[LQProjection, WanTransformer]:
        """The networks that make latents."""
        dtype = self.request.mlx_dtype
        projection = load(LQProjection, self.files.projector, dtype=dtype)
        return projection, load(WanTransformer, self.files.transformer, dtype=dtype)

    def load_decoder(self) -> Decoder:
        """The decoder, in tiles if the request says so."""
        network = DECODERS[self.files.decoder_name].network
        decoder = cast(Decoder, load(network, self.files.decoder, dtype=self.request.mlx_dtype))
        return TiledDecoder(decoder) if isinstance(decoder, WanDecoder) and self.decodes_in_tiles else decoder

    @property
    def decodes_in_tiles(self) -> bool:
        """Whether a Wan decoder sees one tile at a time: as asked, or where whole frames make too large an array."""
        config = config_of(DECODERS[self.files.decoder_name].network, self.files.decoder)
        if not isinstance(config, WanVAEConfig):
            return False
        dtype = self.request.mlx_dtype
        most = largest_array_bytes(dtype.size)
        whole = _wan_array_bytes(config, *self.largest_target(), dtype)
        return self.request.tile_vae or (most is not None and whole > most)

    def generator_bytes(self) -> int:
        """Weights of the networks that make latents."""
        dtype = self.request.mlx_dtype
        transformer = network_weights_bytes([WanTransformer], self.files.transformer, dtype=dtype)
        return transformer + network_weights_bytes([LQProjection], self.files.projector, dtype=dtype)

    def decoder_bytes(self) -> int:
        """Weights of the decoder."""
        network = DECODERS[self.files.decoder_name].network
        return network_weights_bytes([network], self.files.decoder, dtype=self.request.mlx_dtype)

    def largest_target(self) -> tuple[int, int]:
        """Height and width of the largest tile as the networks see it."""
        return max((fit.target for fit in self.layout.fits), key=lambda size: size[0] * size[1])

    def cache_bytes(self) -> int:
        """Keys and values of earlier chunks."""
        config = config_of(WanTransformer, self.files.transformer)
        return cache_bytes(config, *self.largest_target(), self.request)

    def latent_bytes(self) -> int:
        """Activations of projector and transformer beside the cache."""
        config = config_of(WanTransformer, self.files.transformer)
        return _latent_bytes(config, *self.largest_target(), self.request.mlx_dtype)

    def frame_bytes(self) -> int:
        """Activations of the decoder and of the frames after it."""
        config = config_of(DECODERS[self.files.decoder_name].network, self.files.decoder)
        frames = _frame_bytes(config, *self.largest_target(), self.request, tiled=self.decodes_in_tiles)
        return frames + _joining_bytes(self.layout)

    def latent_array_bytes(self) -> int:
        """The largest array of the transformer: of a first chunk's tokens inside the feed-forward."""
        config = config_of(WanTransformer, self.files.transformer)
        return 3 * _slice_tokens(*self.largest_target()) * config.ffn_dim * self.request.mlx_dtype.size

    def frame_array_bytes(self) -> int:
        """The largest array of the decoder, or of four frames in float32."""
        height, width = self.largest_target()
        config = config_of(DECODERS[self.files.decoder_name].network, self.files.decoder)
        frames = _GROUP_FRAMES * height * width * 3 * _FLOAT_BYTES
        if isinstance(config, WanVAEConfig):
            if self.decodes_in_tiles:
                height, width = _tile_pixels(height, width)
            return max(frames, _wan_array_bytes(config, height, width, self.request.mlx_dtype))
        return max(frames, _tiny_array_bytes(config, height, width, self.request.mlx_dtype))


@dataclass(frozen=True)
class SuperResolve:
    """Latents and frames by one stage, chunk by chunk."""

    setup: Setup
    name: str = STAGE

    def estimate(self) -> Estimate:
        """Weights of all networks; activations of the larger half."""
        setup = self.setup
        cache = setup.cache_bytes()
        return Estimate(
            name=self.name,
            work=f"keys and values {format_bytes(cache)}",
            dtype=setup.request.mlx_dtype,
            file=setup.files.transformer.path,
            weights_bytes=setup.generator_bytes() + setup.decoder_bytes(),
            activation_bytes=cache + max(setup.latent_bytes(), setup.frame_bytes()),
            streams=True,
            array_bytes=max(setup.latent_array_bytes(), setup.frame_array_bytes()),
        )

    def run(self, runner: StageRunner, work: Work) -> Iterator[np.ndarray]:
        """Frames ``(T, H, W, 3)`` uint8, made while they are read."""
        return runner.stream(self.name, self._load, partial(self._frames, runner.progress, work))

    def _load(self) -> tuple[LQProjection, WanTransformer, Decoder]:
        return (*self.setup.load_generator(), self.setup.load_decoder())

    def _frames(
        self, progress: Progress, work: Work, networks: tuple[LQProjection, WanTransformer, Decoder]
    ) -> Iterator[np.ndarray]:
        projection, transformer, decoder = networks
        layout = self.setup.layout
        if len(layout.tiles) > 1:
            work.spool_source()
        share = block_share(run_group(), transformer, projection, layout, self.setup.request.mode)

        def tile_result(number: int) -> Iterator[np.ndarray]:
            frames = work.tile_frames(layout.tiles[number])
            latents = _make_latents(self.setup, projection, transformer, frames, layout.fits[number], share)
            return _decode(self.setup, decoder, latents, layout.fits[number])

        return _whole_frames(self.setup, work, tile_result, partial(progress.advance, self.name))


@dataclass(frozen=True)
class MakeLatents:
    """All latents of the clip, into temporary files."""

    setup: Setup
    name: str = LATENT_STAGE

    def estimate(self) -> Estimate:
        """Weights and activations of projector and transformer."""
        setup = self.setup
        cache = setup.cache_bytes()
        return Estimate(
            name=self.name,
            work=f"keys and values {format_bytes(cache)}",
            dtype=setup.request.mlx_dtype,
            file=setup.files.transformer.path,
            weights_bytes=setup.generator_bytes(),
            activation_bytes=cache + setup.latent_bytes(),
            array_bytes=setup.latent_array_bytes(),
        )

    def run(self, runner: StageRunner, work: Work) -> Work:
        """The same work with its latents."""
        work.spool_source()
        runner.run(self.name, self.setup.load_generator, partial(self._spool_latents, runner.progress, work))
        return work

    def _spool_latents(self, progress: Progress, work: Work, networks: tuple[LQProjection, WanTransformer]) -> None:
        layout = self.setup.layout
        projection, transformer = networks
        share = block_share(run_group(), transformer, projection, layout)
        numbers = own_tiles(layout, run_group())
        num_done = 0
        num_all = (work.num_frames or 0) * len(numbers)
        for number in numbers:
            fit = layout.fits[number]
            spool = work.spool(_latent_frame_shape(fit), np.float32)
            frames = work.tile_frames(layout.tiles[number])
            for latent, chunk in _make_latents(self.setup, projection, transformer, frames, fit, share):
                spool.append(np.array(latent[0].astype(mx.float32)))
                num_done += chunk.num_output
                progress.advance(self.name, num_done, num_all)
            work.latents[number] = spool


@dataclass(frozen=True)
class DecodeLatents:
    """Latents from temporary files to frames."""

    setup: Setup
    name: str = DECODE_STAGE

    def estimate(self) -> Estimate:
        """Weights and activations of the decoder."""
        setup = self.setup
        return Estimate(
            name=self.name,
            work=f"decoder {setup.files.decoder_name}",
            dtype=setup.request.mlx_dtype,
            file=setup.files.decoder.path,
            weights_bytes=setup.decoder_bytes(),
            activation_bytes=setup.frame_bytes(),
            streams=True,
            array_bytes=setup.frame_array_bytes(),
        )

    def run(self, runner: StageRunner, work: Work) -> Iterator[np.ndarray]:
        """Frames ``(T, H, W, 3)`` uint8, made while they are read."""
        return runner.stream(self.name, self.setup.load_decoder, partial(self._frames, runner.progress, work))

    def _frames(self, progress: Progress, work: Work, decoder: Decoder) -> Iterator[np.ndarray]:
        layout = self.setup.layout

        def tile_result(number: int) -> Iterator[np.ndarray]:
            if len(layout.tiles) == 1 and run_group().rank:
                # The first machine has the latents of a whole frame.
                return iter(())
            chunks = lq_chunks(work.tile_frames(layout.tiles[number]))
            latents = _read_latents(chunks, work.latents[number])
            return _decode(self.setup, decoder, latents, layout.fits[number])

        return _whole_frames(self.setup, work, tile_result, partial(progress.advance, self.name))


def _make_latents(
    setup: Setup,
    projection: LQProjection,
    transformer: WanTransformer,
    frames: Iterable[np.ndarray],
    fit: Fit,
    share: BlockShare | None,
) -> Iterator[tuple[mx.array, LQChunk]]:
    """Each chunk's latent and its low-quality frames; with a share of several machines' the first one has them."""
    request = setup.request
    noise = partial(seeded_noise, request.seed)
    sparsity = Sparsity(request.attention, topk_ratio(request.sparse_ratio, *fit.target), request.local_range)
    stream = TransformerStream(transformer, setup.files.read_prompt(), sparsity, request.kv_ratio)
    latents = LatentStream(projection, stream, request.causal)
    for index, chunk in enumerate(lq_chunks(frames)):
        num_latents = NEXT_FRAMES if index else FIRST_FRAMES
        shape = (1, num_latents, *_latent_frame_shape(fit))
        chunk_noise = noise(f"super_resolve.chunk_{index}", shape)
        groups = in_groups(chunk.projected, fit.lq)
        latent = latents.step(groups, chunk_noise) if share is None else latents.shared_step(groups, chunk_noise, share)
        if latent is not None:
            yield latent, chunk


def _read_latents(chunks: Iterable[LQChunk], spool: Spool) -> Iterator[tuple[mx.array, LQChunk]]:
    """The same as ``_make_latents`` gives, from a temporary file."""
    first = 0
    for chunk in chunks:
        num_latents = NEXT_FRAMES if first else FIRST_FRAMES
        frames = [spool[first + offset] for offset in range(num_latents)]
        first += num_latents
        yield mx.array(np.stack(frames))[None], chunk


def _decode(
    setup: Setup, decoder: Decoder, latents: Iterable[tuple[mx.array, LQChunk]], fit: Fit
) -> Iterator[np.ndarray]:
    """Frames of one tile, ``(T, H, W, 3)`` uint8, without those beyond the clip's end."""
    frame_decoder = FrameDecoder(decoder)
    for latent, chunk in latents:
        num_left = chunk.num_output
        for index, lq_frames in enumerate(in_groups(chunk.decoded, fit.lq)):
            if num_left <= 0:
                return
            frames = frame_decoder.step(latent[:, index : index + 1], lq_frames)
            if setup.request.color_fix != "none":
                frames = COLOR_FIXES[setup.request.color_fix](frames, lq_frames)
            yield signed_to_levels(fit.restore(frames), 8 * chunk.decoded.itemsize)[0, :num_left]
            num_left -= frames.shape[1]


def _whole_frames(
    setup: Setup, work: Work, tile_result: TileResult, report: Callable[[int, int | None], None]
) -> Iterator[np.ndarray]:
    """Frames of all tiles; ``report`` receives the number of those that are done, and of all."""
    scale = setup.request.scale
    overlap = round(setup.request.overlap * scale)
    return all_tiles(setup.layout, work, tile_result, group=run_group(), report=report, overlap=overlap, scale=scale)


def _latent_frame_shape(fit: Fit) -> tuple[int, int, int]:
    height, width = fit.target
    return height // _LATENT_CELL, width // _LATENT_CELL, LATENT_CHANNELS


def cache_bytes(config: WanTransformerConfig, height: int, width: int, request: Request) -> int:
    """Keys and values of earlier chunks and of the prompt, for a tile of ``height`` × ``width`` pixels."""
    token_bytes = config.dim * 2 * request.mlx_dtype.size
    # Two slices are kept at least. The block at work holds one more; the prompt's keys and values stay.
    slices = config.num_layers * max(2, int(request.kv_ratio)) + 1
    tokens = _slice_tokens(height, width) * slices + config.num_layers * _PROMPT_TOKENS
    return token_bytes * tokens


def _slice_tokens(height: int, width: int) -> int:
    """Tokens of a slice, which is two latent frames."""
    return 2 * (height // _TOKEN_CELL) * (width // _TOKEN_CELL)


def _latent_bytes(config: WanTransformerConfig, height: int, width: int, dtype: mx.Dtype) -> int:
    # The first chunk has three slices.
    tokens = 3 * _slice_tokens(height, width)
    block = int(tokens * _TOKEN_ARRAYS * config.dim) * dtype.size
    cells = (height // _TOKEN_CELL) * (width // _TOKEN_CELL)
    if not on_cpu():
        # Copies of the keys and values that attention gathers.
        block += max_elements() * dtype.size
        return max(block, cells * _PROJECTOR_FLOATS * dtype.size)
    projector = cells * (_PROJECTOR_FLOATS + _PROJECTOR_UNFOLDED) * dtype.size
    # A CPU stores the scores of every token for the prompt's.
    scores = tokens * config.num_heads * _PROMPT_TOKENS * 8
    return max(block, projector, scores)


def _frame_bytes(
    config: WanVAEConfig | TinyConfig | ConditionalConfig, height: int, width: int, request: Request, *, tiled: bool
) -> int:
    pixels = height * width
    if isinstance(config, WanVAEConfig):
        if tiled:
            tile_height, tile_width = _tile_pixels(height, width)
            pixels = tile_height * tile_width
        arrays: float = config.decoder_width * (_WAN_ARRAYS + (_WAN_UNFOLDED if on_cpu() else 0))
    else:
        widths = config.widths if isinstance(config, ConditionalConfig) else config.decoder_widths
        # The first convolution at full size reads the width of the level before.
        arrays = max(widths[-2:]) * (_TINY_ARRAYS + (_TINY_UNFOLDED if on_cpu() else 0))
    decoding = int(pixels * arrays) * request.mlx_dtype.size + height * width * _FRAME_FLOATS * _FLOAT_BYTES
    return max(decoding, height * width * _COLOR_FLOATS * _FLOAT_BYTES)


def _tile_pixels(height: int, width: int) -> tuple[int, int]:
    """Size of a Wan decoder's tile in a frame."""
    tile_height, tile_width = (side * _LATENT_CELL for side in PUBLISHED_TILE)
    return min(height, tile_height), min(width, tile_width)


def _wan_array_bytes(config: WanVAEConfig, height: int, width: int, dtype: mx.Dtype) -> int:
    """Bytes of the largest array of a Wan decoder: four frames of twice the width, after the last doubling."""
    return _GROUP_FRAMES * 2 * config.decoder_width * height * width * dtype.size


def _tiny_array_bytes(config: TinyConfig | ConditionalConfig, height: int, width: int, dtype: mx.Dtype) -> int:
    """Bytes of the largest array of a tiny decoder: at half size, where its memory blocks see pairs of frames.

    At full size it works in bands of rows that the device holds.
    """
    widths = config.widths if isinstance(config, ConditionalConfig) else config.decoder_widths
    half_size = height * width // 4 * 2 * 2 * widths[-2]
    most = largest_array_bytes(dtype.size)
    full_size = height * width * 2 * widths[-2]
    grown = full_size * dtype.size if most is None else min(full_size * dtype.size, most)
    return max(half_size * dtype.size, grown)


def _joining_bytes(layout: Layout) -> int:
    """Frames joined of tiles: their sum, their weights and the quotient, float32."""
    if len(layout.tiles) == 1:
        return 0
    height, width = layout.output
    return 3 * height * width * 3 * _FLOAT_BYTES


def temporary_bytes(stream: FrameStream, setup: Setup) -> int | None:
    """Temporary files of a run; None while the clip's length is unknown."""
    fits = setup.layout.fits
    if not setup.request.unload_dit and len(fits) == 1:
        return 0
    if stream.num_frames is None:
        return None
    level_bytes = 1 if stream.bit_depth == 8 else 2
    total = stream.num_frames * stream.height * stream.width * 3 * level_bytes
    if setup.request.unload_dit:
        # The networks look beyond the end by a first and a later chunk at most.
        num_latents = stream.num_frames // 4 + FIRST_FRAMES + NEXT_FRAMES + 1
        for fit in fits:
            height, width, channels = _latent_frame_shape(fit)
            total += num_latents * height * width * channels * _FLOAT_BYTES
    if len(fits) > 1:
        for fit in fits:
            height, width = fit.output
            total += stream.num_frames * height * width * 3 * level_bytes
    return total
