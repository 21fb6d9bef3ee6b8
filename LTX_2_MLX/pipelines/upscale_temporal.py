"""A clip to one of twice the frame rate, by the temporal upscaler between the video autoencoder's two halves.

N frames become 2 N - 1 at twice the rate, so the clip's duration stays. Frames are encoded as they are read and decoded
as they are asked for: only the latent is there as a whole. Each network is gone before the next one comes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.recognise import config_of
from LTX_2_MLX.checkpoints.resolve import AUTO, DEMO_NOTE, resolve
from LTX_2_MLX.diffusion.noise import key_for
from LTX_2_MLX.errors import CheckpointError, MediaError
from LTX_2_MLX.media.frames import FrameStream, subdivide_times
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, VideoDecoder, VideoEncoder
from LTX_2_MLX.models.ltx.video_vae_config import VideoVAEConfig
from LTX_2_MLX.pipelines.film import planned
from LTX_2_MLX.pipelines.memory import clip_encoder_bytes, decode_bytes, upscaler_bytes
from LTX_2_MLX.pipelines.requests import UpscaleTemporalRequest as Request
from LTX_2_MLX.pipelines.stages import decode, upscale_latent
from LTX_2_MLX.pipelines.video_latents import activation_budget, encode_frames, square_tiles
from LTX_2_MLX.planning.plan import Plan
from LTX_2_MLX.runtime.memory import budget_bytes
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.runtime.validate import check_result
from LTX_2_MLX.shapes import VideoShape

ENCODE, UPSCALE, DECODE = "encode", "temporal_upscaler", "decode"


@dataclass(frozen=True)
class _Files:
    """Both files, opened, what they say of the autoencoder, and whether they stand in for files that are not here."""

    weights: Checkpoint
    upscaler: Checkpoint
    vae: VideoVAEConfig
    is_demo: bool

    @classmethod
    def of(cls, request: Request) -> "_Files":
        model = resolve(request.weights, "model")
        weights = Checkpoint(model.path)
        upscaler = Checkpoint(resolve(request.temporal_weights, "temporal-upscaler", model=model).path)
        config, channels = config_of(LatentUpscaler, upscaler), config_of(LatentStatistics, weights).channels
        if config.spatial_upsample:
            raise CheckpointError(
                f"{upscaler.path} upscales in space. Give --temporal-weights an upscaler in time, such as "
                f"ltx-2-temporal-upscaler-x2-1.0.safetensors."
            )
        if config.in_channels != channels:
            raise CheckpointError(
                f"{upscaler.path} upscales latents of {config.in_channels} channels, those of {weights.path} have "
                f"{channels}. Use the upscaler that was published with this model."
            )
        vae = config_of(VideoEncoder, weights)
        if request.tile_size is not None:
            square_tiles(request.tile_size, vae.encoder_compression)
        return cls(weights, upscaler, vae, is_demo=model.is_demo and request.weights == AUTO)

    def padded(self, stream: FrameStream) -> tuple[int, int]:
        """The clip's height and width made up to what the autoencoder takes."""
        cell, fewest = self.vae.encoder_compression, self.vae.fewest_cells
        height, width = (
            max(-(-side // step), fewest) * step
            for side, step in ((stream.height, cell.height), (stream.width, cell.width))
        )
        return height, width


def plan(stream: FrameStream, request: Request | None = None) -> Plan:
    """What the run does: sizes, and the three networks' turns.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit.
    """
    request = request or Request()
    files, dtype = _Files.of(request), request.dtype
    given, made = stream.num_frames, _doubled(stream.num_frames)
    rates = f"{float(stream.frame_rate):g} to {float(2 * stream.frame_rate):g} fps"
    frames = rates if given is None else f"{given} to {made} frames, {rates}"
    shape = VideoShape(_padded_length(given or 1, files.vae.encoder_compression.time), *files.padded(stream))
    size, latent = f"{shape.height}×{shape.width}", shape.latent(files.vae.encoder_compression)
    upscaler = config_of(LatentUpscaler, files.upscaler)
    larger, held = upscaler.output_shape(latent), {"item_bytes": dtype.size}
    working = (
        clip_encoder_bytes(files.vae, shape, **held),
        upscaler_bytes(upscaler, latent, waiting_bytes=0, **held),
        decode_bytes(
            files.vae, larger, tile_size=request.tile_size, budget=activation_budget(request.memory_limit_gb), **held
        ),
    )
    stages = (
        planned(ENCODE, size, files.weights, [VideoEncoder], dtype=dtype, activation_bytes=working[0]),
        planned(UPSCALE, frames, files.upscaler, [LatentUpscaler], dtype=dtype, activation_bytes=working[1]),
        planned(DECODE, size, files.weights, [VideoDecoder], dtype=dtype, activation_bytes=working[2]),
    )
    sizes = (f"Output: {stream.height}×{stream.width}, {frames}",)
    return Plan(sizes, stages, budget_bytes=budget_bytes(request.memory_limit_gb))


def upscale_temporal(
    stream: FrameStream, request: Request | None = None, runner: StageRunner | None = None
) -> FrameStream:
    """The clip at twice its rate: 2 N - 1 frames for N, everything else as it was.

    What the networks cannot take is made up and cut off again: the last frame is repeated up to 8k + 1 frames, edge
    pixels up to multiples of the compression. A clip of one frame passes through.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit. What reading the clip tells is
            raised while frames are read.
        RequestError: If the tile size does not fit the autoencoder.
    """
    request, runner = request or Request(), runner or StageRunner()
    if stream.num_frames == 1:
        return stream
    files = _Files.of(request)
    if files.is_demo:
        runner.progress.note(DEMO_NOTE)
    return stream.replace(
        chunks=_chunks(stream, request, files, runner),
        frame_rate=2 * stream.frame_rate,
        num_frames=_doubled(stream.num_frames),
        times=subdivide_times(stream.times, 2),
    )


def _doubled(num_frames: int | None) -> int | None:
    return None if num_frames is None else 2 * num_frames - 1


def _chunks(stream: FrameStream, request: Request, files: _Files, runner: StageRunner) -> Iterator[np.ndarray]:
    dtype, padding = request.dtype, _Padding(stream, files, runner.progress)
    try:
        latent = runner.run(
            ENCODE,
            partial(load, VideoEncoder, files.weights, dtype=dtype),
            lambda encoder: encode_frames(
                encoder,
                padding.chunks(),
                size=padding.size,
                num_frames=padding.padded_length(stream.num_frames),
                tile_size=request.tile_size,
                budget=activation_budget(request.memory_limit_gb),
            ),
        )
    finally:
        stream.close()
    check_result(ENCODE, {"latent": latent})
    latent = upscale_latent(runner, files.upscaler, files.weights, latent, dtype=dtype, name=UPSCALE)
    check_result(UPSCALE, {"latent": latent})
    left = _doubled(padding.num_frames)
    film = decode(
        runner,
        files.weights,
        latent,
        num_frames=left,
        key=key_for(request.seed, DECODE),
        dtype=dtype,
        tile_size=request.tile_size,
        budget=activation_budget(request.memory_limit_gb),
    )
    del latent
    try:
        for chunk in film:
            chunk = chunk[:left, : stream.height, : stream.width]
            left -= len(chunk)
            if len(chunk):
                yield chunk
            if not left:
                return
    finally:
        film.close()


class _Padding:
    """A clip made up to sizes that the autoencoder takes.

    Attributes:
        size: Height and width of what it gives.
        num_frames: Frames of the clip itself, counted as they pass.
    """

    def __init__(self, stream: FrameStream, files: _Files, progress: Progress):
        self.size, self.num_frames = files.padded(stream), 0
        self._stream, self._step, self._progress = stream, files.vae.encoder_compression.time, progress

    def chunks(self) -> Iterator[np.ndarray]:
        """Consecutive frames ``(T, H, W, 3)`` uint8."""
        below, right = self.size[0] - self._stream.height, self.size[1] - self._stream.width
        last = None
        for chunk in self._stream:
            padded = np.pad(chunk, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
            self.num_frames, last = self.num_frames + len(padded), padded[-1:]
            self._progress.advance(ENCODE, self.num_frames, self._stream.num_frames)
            yield padded
        if last is None:
            raise MediaError("The clip has no frame.")
        for _ in range(self.padded_length(self.num_frames) - self.num_frames):
            yield last

    def padded_length(self, num_frames: int | None) -> int | None:
        """Frames that ``num_frames`` are made up to."""
        return None if num_frames is None else _padded_length(num_frames, self._step)


def _padded_length(num_frames: int, step: int) -> int:
    return -(-(num_frames - 1) // step) * step + 1
