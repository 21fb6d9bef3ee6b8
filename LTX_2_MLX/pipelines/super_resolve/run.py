"""The road from a clip to its super-resolved clip, chunk by chunk, in memory that its length does not change.

What has to wait (the source when it is read more than once, tiles until all are made, latents until the transformer
is gone) waits on disk.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.diffusion.noise import seeded_noise
from LTX_2_MLX.media.frames import FrameStream, signed_to_uint8
from LTX_2_MLX.models.flashvsr.block_attention import Sparsity, topk_ratio
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.flashvsr.stream import Decoder, FrameDecoder, LatentStream
from LTX_2_MLX.models.flashvsr.transformer import FIRST_FRAMES, NEXT_FRAMES, TransformerStream
from LTX_2_MLX.models.wan.tiled_decoder import TiledDecoder
from LTX_2_MLX.models.wan.transformer import WanTransformer
from LTX_2_MLX.models.wan.vae import WanDecoder
from LTX_2_MLX.ops.color import adain_transfer, wavelet_transfer
from LTX_2_MLX.pipelines.super_resolve.areas import Areas, areas_of
from LTX_2_MLX.pipelines.super_resolve.decoders import DECODERS, LATENT_CHANNELS
from LTX_2_MLX.pipelines.super_resolve.files import Files, open_files
from LTX_2_MLX.pipelines.super_resolve.lq_frames import Fit, LQChunk, in_groups, lq_chunks
from LTX_2_MLX.pipelines.super_resolve.request import DECODE_STAGE, LATENT_STAGE, STAGE, Request
from LTX_2_MLX.pipelines.super_resolve.tiles import Tile, feather, join_picture
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.runtime.spool import Spool

COLOR_FIXES = {"wavelet": wavelet_transfer, "adain": adain_transfer}


def super_resolve(
    stream: FrameStream, request: Request | None = None, runner: StageRunner | None = None
) -> FrameStream:
    """The clip at ``request.scale`` times its size, as many frames as it has, made while it is read.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit the others.
        RequestError: If the picture is too small. What reading the clip tells is raised then.
    """
    request, runner = request or Request(), runner or StageRunner()
    files, areas = open_files(request), areas_of(stream.height, stream.width, request)
    if files.note:
        runner.progress.note(files.note)
    height, width = areas.output
    road = _Road(stream, request, files, areas, runner)
    return stream.replace(chunks=road.chunks(), height=height, width=width)


@dataclass
class _Networks:
    """What is loaded at once; None where another stage has it."""

    projection: LQProjection | None = None
    transformer: WanTransformer | None = None
    decoder: Decoder | None = None


@dataclass
class _Road:
    """One run."""

    stream: FrameStream
    request: Request
    files: Files
    areas: Areas
    runner: StageRunner

    def chunks(self) -> Iterator[np.ndarray]:
        """The result's frames, ``(T, H, W, 3)`` uint8."""
        with ExitStack() as stack:
            stack.callback(self.stream.close)
            if self.request.unload_dit:
                yield from self._in_two_stages(stack)
            else:
                yield from self.runner.stream(STAGE, self._load(True, True), partial(self._in_one_stage, stack))

    def _load(self, transformer: bool, decoder: bool) -> Callable[[], _Networks]:
        dtype, files = self.request.mlx_dtype, self.files

        def networks() -> _Networks:
            loaded = _Networks()
            if transformer:
                loaded.projection = load(LQProjection, files.projector, dtype=dtype)
                loaded.transformer = load(WanTransformer, files.transformer, dtype=dtype)
            if decoder:
                loaded.decoder = load(DECODERS[files.decoder_name].network, files.decoder, dtype=dtype)
                if isinstance(loaded.decoder, WanDecoder) and self.request.tile_vae:
                    loaded.decoder = TiledDecoder(loaded.decoder)
            return loaded

        return networks

    def _in_one_stage(self, stack: ExitStack, networks: _Networks) -> Iterator[np.ndarray]:
        def made(area: int, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            pairs = self._latents(networks, frames, self.areas.fits[area])
            return self._frames(networks.decoder, pairs, self.areas.fits[area])

        if len(self.areas.tiles) == 1:
            frames = (self.areas.tiles[0].cut(frame) for frame in self.stream.frames())
            yield from _told(made(0, frames), self.runner.progress, STAGE, self.stream.num_frames)
            return
        source = self._spooled_source(stack)
        yield from self._joined(stack, lambda area: made(area, self._cut(source, area)), STAGE, len(source))

    def _in_two_stages(self, stack: ExitStack) -> Iterator[np.ndarray]:
        source = self._spooled_source(stack)
        sizes = [(fit.target[0] // 8, fit.target[1] // 8, LATENT_CHANNELS) for fit in self.areas.fits]
        spools = [stack.enter_context(Spool(size, np.float32)) for size in sizes]

        def make_latents(networks: _Networks) -> None:
            done = 0
            for area, (fit, spool) in enumerate(zip(self.areas.fits, spools, strict=True)):
                for latent, chunk in self._latents(networks, self._cut(source, area), fit):
                    spool.append(np.array(latent[0].astype(mx.float32)))
                    done += chunk.wanted
                    self.runner.progress.advance(LATENT_STAGE, done, len(source) * len(spools))

        self.runner.run(LATENT_STAGE, self._load(True, False), make_latents)

        def decode(networks: _Networks) -> Iterator[np.ndarray]:
            def made(area: int) -> Iterator[np.ndarray]:
                fit = self.areas.fits[area]
                chunks = lq_chunks(self._cut(source, area))
                return self._frames(networks.decoder, _with_latents(chunks, spools[area]), fit)

            if len(spools) == 1:
                yield from _told(made(0), self.runner.progress, DECODE_STAGE, len(source))
            else:
                yield from self._joined(stack, made, DECODE_STAGE, len(source))

        yield from self.runner.stream(DECODE_STAGE, self._load(False, True), decode)

    def _spooled_source(self, stack: ExitStack) -> Spool:
        source = stack.enter_context(Spool((self.stream.height, self.stream.width, 3)))
        for chunk in self.stream:
            source.append(chunk)
        return source

    def _cut(self, source: Spool, area: int) -> Iterator[np.ndarray]:
        return (self.areas.tiles[area].cut(frame) for frame in source)

    def _latents(
        self, networks: _Networks, frames: Iterable[np.ndarray], fit: Fit
    ) -> Iterator[tuple[mx.array, LQChunk]]:
        """Each chunk's latent and its low-quality frames."""
        request, noise = self.request, seeded_noise(self.request.seed)
        sparsity = Sparsity(request.attention, topk_ratio(request.sparse_ratio, *fit.target), request.local_range)
        prompt = self.files.read_prompt()
        transformer = TransformerStream(networks.transformer, prompt, sparsity, request.kv_ratio)
        latents = LatentStream(networks.projection, transformer, request.causal)
        for index, chunk in enumerate(lq_chunks(frames)):
            count = NEXT_FRAMES if index else FIRST_FRAMES
            shape = (1, count, fit.target[0] // 8, fit.target[1] // 8, LATENT_CHANNELS)
            yield latents.step(in_groups(chunk.seen, fit.lq), noise(f"super_resolve.chunk_{index}", shape)), chunk

    def _frames(self, decoder: Decoder, pairs: Iterable[tuple[mx.array, LQChunk]], fit: Fit) -> Iterator[np.ndarray]:
        """Frames of one area, ``(T, H, W, 3)`` uint8, those beyond the clip's end left out."""
        frames = FrameDecoder(decoder)
        for latent, chunk in pairs:
            left = chunk.wanted
            for index, lq_frames in enumerate(in_groups(chunk.shown, fit.lq)):
                if left <= 0:
                    return
                made = self._coloured(frames.step(latent[:, index : index + 1], lq_frames), lq_frames)
                yield signed_to_uint8(fit.restore(made))[0, :left]
                left -= made.shape[1]

    def _coloured(self, frames: mx.array, lq_frames: mx.array) -> mx.array:
        if self.request.color_fix == "none":
            return frames
        return COLOR_FIXES[self.request.color_fix](frames, lq_frames)

    def _joined(
        self, stack: ExitStack, made: Callable[[int], Iterator[np.ndarray]], stage: str, num_frames: int
    ) -> Iterator[np.ndarray]:
        """Make every tile's frames, then the pictures of them."""
        scale, (height, width) = self.request.scale, self.areas.output
        spools, total = [], num_frames * len(self.areas.tiles)
        for area, fit in enumerate(self.areas.fits):
            spools.append(stack.enter_context(Spool((*fit.output, 3))))
            for chunk in _told(made(area), self.runner.progress, stage, total, before=area * num_frames):
                spools[-1].append(chunk)
        pairs = zip(self.areas.tiles, self.areas.fits, strict=True)
        places = [_placed(tile, fit, scale, height, width) for tile, fit in pairs]
        overlap = round(self.request.overlap * scale)
        weights = [feather(place, height, width, overlap) for place in places]
        for parts in zip(*spools, strict=True):
            yield np.rint(join_picture(parts, places, weights, height, width)).astype(np.uint8)[None]


def _placed(tile: Tile, fit: Fit, scale: float, height: int, width: int) -> Tile:
    """Where a tile's result lies in the ``height`` x ``width`` picture, in the size that its fit gives it."""
    top = min(round(tile.top * scale), height - fit.output[0])
    left = min(round(tile.left * scale), width - fit.output[1])
    return Tile(left, top, left + fit.output[1], top + fit.output[0])


def _with_latents(chunks: Iterable[LQChunk], spool: Spool) -> Iterator[tuple[mx.array, LQChunk]]:
    first = 0
    for chunk in chunks:
        count = NEXT_FRAMES if first else FIRST_FRAMES
        latent = mx.array(np.stack([spool[first + i] for i in range(count)]))[None]
        first += count
        yield latent, chunk


def _told(
    chunks: Iterator[np.ndarray], progress: Progress, stage: str, total: int | None, before: int = 0
) -> Iterator[np.ndarray]:
    """The same chunks; ``progress`` hears of their frames."""
    done = before
    for chunk in chunks:
        done += len(chunk)
        progress.advance(stage, done, total)
        yield chunk
