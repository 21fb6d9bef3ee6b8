"""Clip encoding stage: frames, as they come, to a latent."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import MediaError, RequestError
from LTX_2_MLX.layers.streaming import join_frames
from LTX_2_MLX.media.frames import FrameStream, to_signed
from LTX_2_MLX.models.ltx.video_vae import VideoVAEConfig
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder, encoder_layers
from LTX_2_MLX.models.ltx.video_vae_memory import largest_array, run_bytes
from LTX_2_MLX.models.ltx.video_vae_tiling import encode_plan, encode_tiled
from LTX_2_MLX.ops.collective import ALONE, Group
from LTX_2_MLX.pipelines.generation.decode import choose_tiling, shared_tiling, square_tiles
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.pipelines.sharing import run_group
from LTX_2_MLX.planning.plan import Estimate, network_weights_bytes
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner, check_result
from LTX_2_MLX.shapes import VideoShape


@dataclass(frozen=True)
class EncodeClip:
    """Video encoder: a clip to its latent, padded to sizes that the autoencoder takes.

    The last frame is repeated up to 8k + 1 frames, edge pixels up to multiples of the compression.

    Attributes:
        weights: The checkpoint with the encoder.
        dtype: Precision of the network.
        clip: Size and length of the clip; its frames come in when the stage runs.
        tile_size: Side of a tile in pixels; None: whole frames wherever memory allows.
        budget: Bytes for activations, by which tiles are chosen.
    """

    weights: Checkpoint
    dtype: mx.Dtype
    clip: FrameStream
    tile_size: int | None = None
    budget: int | None = None
    name = "encode"

    @property
    def config(self) -> VideoVAEConfig:
        """The autoencoder's."""
        return config_of(VideoEncoder, self.weights)

    @property
    def shape(self) -> VideoShape:
        """Size of the padded clip; one frame where its length is unknown."""
        cell = self.config.encoder_compression
        height = max(-(-self.clip.height // cell.height), self.config.fewest_cells) * cell.height
        width = max(-(-self.clip.width // cell.width), self.config.fewest_cells) * cell.width
        return VideoShape(padded_length(self.clip.num_frames or 1, cell.time), height, width)

    def estimate(self) -> Estimate:
        """One chunk of frames."""
        if self.tile_size is not None:
            square_tiles(self.tile_size, self.config.encoder_compression)
        shape = self.shape
        return Estimate(
            name=self.name,
            work=f"{shape.height}×{shape.width}",
            dtype=self.dtype,
            file=self.weights.path,
            weights_bytes=network_weights_bytes([VideoEncoder], self.weights, dtype=self.dtype),
            activation_bytes=run_bytes(
                encoder_layers(self.config), (1, 1, shape.height, shape.width, 3), self.dtype.size
            ),
            array_bytes=largest_array(
                encoder_layers(self.config), (1, 1, shape.height, shape.width, 3), self.dtype.size
            ),
        )

    def run(self, runner: StageRunner, stream: FrameStream) -> GenerationState:
        """Encode the clip and close it. Several machines share the work; each has the clip, and gets the latent.

        Raises:
            MediaError: If the clip has no frame.
        """
        shape = self.shape
        chunks = padded_chunks(stream, shape, self.config.encoder_compression.time, runner.progress)

        def work(encoder: VideoEncoder) -> mx.array:
            return encode_frames(
                encoder,
                chunks,
                size=(shape.height, shape.width),
                num_frames=None if stream.num_frames is None else shape.num_frames,
                tile_size=self.tile_size,
                budget=self.budget,
                group=run_group(),
            )

        try:
            latent = runner.run(self.name, lambda: load(VideoEncoder, self.weights, dtype=self.dtype), work)
        finally:
            stream.close()
        check_result(self.name, {"latent": latent})
        return GenerationState(latents={"video": latent})


def padded_chunks(stream: FrameStream, shape: VideoShape, step: int, progress: Progress) -> Iterator[np.ndarray]:
    """Chunks ``(T, H, W, 3)`` uint8 of a clip padded to a size, and to a multiple of ``step`` frames and one more.

    Raises:
        MediaError: If the clip has no frame.
    """
    below = shape.height - stream.height
    right = shape.width - stream.width
    num_frames = 0
    last = None
    for chunk in stream:
        padded = np.pad(chunk, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
        num_frames += len(padded)
        last = padded[-1:]
        progress.advance(EncodeClip.name, num_frames, stream.num_frames)
        yield padded
    if last is None:
        raise MediaError("The clip has no frame.")
    for _ in range(padded_length(num_frames, step) - num_frames):
        yield last


def padded_length(num_frames: int, step: int) -> int:
    """The next multiple of ``step``, plus one."""
    return -(-(num_frames - 1) // step) * step + 1


def encode_frames(
    encoder: VideoEncoder,
    chunks: Iterable[np.ndarray],
    *,
    size: tuple[int, int],
    num_frames: int | None,
    tile_size: int | None = None,
    budget: int | None = None,
    group: Group = ALONE,
) -> mx.array:
    """The latent of a clip in chunks ``(T, H, W, 3)`` uint8 or uint16; the rest as for ``encode_pixels``."""
    pixels = (to_signed(chunk)[None] for chunk in chunks)
    return encode_pixels(
        encoder, pixels, size=size, num_frames=num_frames, tile_size=tile_size, budget=budget, group=group
    )


def encode_pixels(
    encoder: VideoEncoder,
    pixels: Iterable[mx.array],
    *,
    size: tuple[int, int],
    num_frames: int | None,
    tile_size: int | None = None,
    budget: int | None = None,
    group: Group = ALONE,
) -> mx.array:
    """The normalised latent ``(1, T', H', W', C)`` of a clip that comes in chunks ``(1, T, H, W, 3)`` in [-1, 1].

    Args:
        encoder: Its weights' dtype is the precision.
        pixels: 8k + 1 frames in all (of the encoder's own compression).
        size: Height and width of the frames.
        num_frames: Number of frames; None where only reading them tells, which is enough without tiles.
        tile_size: Side of a tile in pixels; None: whole frames wherever memory allows.
        budget: Bytes for activations; see ``choose_tiling``.
        group: Processes that share the layers out, or the tiles. All have the clip and get the latent.

    Raises:
        RequestError: If a size is not legal, or tiles are needed and the number of frames is unknown.
        MemoryBudgetError: If no tile is small enough.
    """
    latent = VideoShape(num_frames or 1, *size).latent(encoder.compression)
    tiling = choose_tiling(encoder, latent, tile_size, budget)
    if group.size > 1:
        tiling = shared_tiling(tiling)
    if tiling is None:
        return _joined(encoder.stream(pixels, group=group), group)
    if num_frames is None:
        raise RequestError(
            "The clip does not say how many frames it has, which tiles have to know. "
            "Convert it to .mp4, or leave out --tile-size."
        )
    return _joined(encode_tiled(encoder, pixels, encode_plan(latent, tiling, encoder.compression), group), group)


def _joined(pieces: Iterable[mx.array], group: Group) -> mx.array:
    """The pieces of a latent, which the first process of a group has, as one for all of them."""
    latent = [join_frames(*pieces)] if group.rank == 0 else list(pieces)
    return group.first_arrays(latent)[0]
