"""Temporal upscaling pipeline: a clip to twice its frame rate, in the latent space of LTX-2's video autoencoder.

N frames become 2 N - 1 at twice the rate, so the clip's duration stays. Frames are encoded as they are read and decoded
as they are asked for: only the latent is in memory as a whole. Each network is freed before the next one is loaded.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from LTX_2_MLX.checkpoints.catalog import ENTRIES, Entry, Role
from LTX_2_MLX.checkpoints.reader import Checkpoint, refuse_unsupported
from LTX_2_MLX.checkpoints.resolve import (
    AUTO,
    DEMO_NOTE,
    ResolvedFile,
    generation_of,
    newest_set,
    open_upscaler,
    resolve,
)
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.media.frames import FrameStream, subdivide_times
from LTX_2_MLX.media.writer import waiting_bytes
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.pipelines.generation.companion_files import upscaler_config
from LTX_2_MLX.pipelines.generation.decode import DecodeVideo, UpscaleLatent, activation_budget
from LTX_2_MLX.pipelines.generation.encode import EncodeClip
from LTX_2_MLX.pipelines.generation.files import usual_dtype
from LTX_2_MLX.pipelines.generation.split_files import autoencoder_in
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.pipelines.requests import UpscaleTemporalRequest as Request
from LTX_2_MLX.planning.plan import Plan, plan
from LTX_2_MLX.runtime.runner import StageRunner, run_stages
from LTX_2_MLX.runtime.this_machine import budget_bytes
from LTX_2_MLX.shapes import LatentShape


def stages(
    stream: FrameStream, request: Request, note: Callable[[str], None] = lambda text: None
) -> list[EncodeClip | UpscaleLatent | DecodeVideo]:
    """The stages of the request for a clip of the stream's size. ``note`` gets a line on each automatic choice.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit the others.
        RequestError: If the tile size does not fit the autoencoder.
    """
    model = autoencoder_file(request, note)
    weights = Checkpoint(model.path)
    refuse_unsupported(weights)
    if VideoDecoder.Config.from_header(weights.header) is None:
        raise CheckpointError(
            f"{model.path} holds no convolutional video autoencoder. Give a combined LTX-2 or LTX-2.3 checkpoint with "
            f"--weights, or LTX-2.5's ltx-2.5-video-vae-conv-bf16.safetensors."
        )
    if model.entry is None:
        model = replace(model, family=generation_of(weights))
    upscaler = open_upscaler(request.temporal_weights, "temporal-upscaler", model, note)
    config = upscaler_config(upscaler, temporal=True, flag="--temporal-weights")
    budget = activation_budget(request.memory_limit_gb)
    dtype = usual_dtype(weights) if request.precision is None else request.dtype
    encode = EncodeClip(weights, dtype, stream, request.tile_size, budget)
    latent = encode.shape.latent(encode.config.encoder_compression)
    upscale = UpscaleLatent(
        name="temporal_upscaler",
        upscaler=upscaler,
        weights=weights,
        shape=latent,
        dtype=dtype,
        work=_lengths(stream),
    )
    decode = DecodeVideo(
        weights=weights,
        dtype=dtype,
        shape=config.output_shape(latent),
        compression=encode.config.decoder_compression,
        frame_rate=2 * stream.frame_rate,
        seed=request.seed,
        tile_size=request.tile_size,
        budget=budget,
        bit_depth=stream.bit_depth,
    )
    return [encode, upscale, decode]


def autoencoder_file(request: Request, note: Callable[[str], None]) -> ResolvedFile:
    """The file with the video autoencoder: the given one, or the newest with a temporal upscaler beside it.

    Raises:
        CheckpointError: If it is not on this machine, or a folder holds several.
    """
    if request.weights == AUTO:
        roles: list[Role] = ["temporal-upscaler"] if request.temporal_weights == AUTO else []
        models = [entry for entry in ENTRIES if _has_autoencoder(entry)]
        found = newest_set(models, lambda entry: roles, note)
        if found is None:
            note(DEMO_NOTE)
        return found or resolve(AUTO, "model")
    file = resolve(request.weights, "model")
    return ResolvedFile(autoencoder_in(file.path)) if file.path.is_dir() else file


def _has_autoencoder(entry: Entry) -> bool:
    return "video VAE" in entry.networks or "convolutional decoder" in entry.networks


def weight_files(stream: FrameStream, request: Request) -> list[Path]:
    """Files of the networks for a clip of the stream's size. Raises as ``stages`` does."""
    encode, upscale, _ = stages(stream, request)
    assert isinstance(encode, EncodeClip) and isinstance(upscale, UpscaleLatent)
    return [*encode.weights.paths, upscale.upscaler.path]


def plan_for(stream: FrameStream, request: Request | None = None) -> Plan:
    """The plan for a clip of the stream's size, which is not read.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit the others.
    """
    request = request or Request()
    sizes = [f"Output: {stream.height}×{stream.width}, {_lengths(stream)}"]
    return plan(
        stages(stream, request),
        sizes=sizes,
        budget_bytes=budget_bytes(request.memory_limit_gb),
        source_bytes=stream.decoding_bytes,
        writer_bytes=waiting_bytes(stream.height, stream.width, stream.bit_depth),
    )


def upscale_temporal(
    stream: FrameStream, request: Request | None = None, runner: StageRunner | None = None
) -> FrameStream:
    """The clip at twice its rate: 2 N - 1 frames for N. A clip of one frame passes through.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit. Errors of the clip itself are
            raised while frames are read.
        RequestError: If the tile size does not fit the autoencoder.
    """
    request = request or Request()
    runner = runner or StageRunner()
    if stream.num_frames == 1:
        return stream
    run = stages(stream, request, runner.progress.note)
    # Files that do not fit are refused before a frame is read.
    plan(run)
    return stream.replace(
        chunks=_chunks(stream, run, runner),
        frame_rate=2 * stream.frame_rate,
        num_frames=_doubled(stream.num_frames),
        times=None if stream.times is None else subdivide_times(stream.times, 2),
    )


def _chunks(
    stream: FrameStream, run: list[EncodeClip | UpscaleLatent | DecodeVideo], runner: StageRunner
) -> Iterator[np.ndarray]:
    encode, upscale, decode = run
    assert isinstance(decode, DecodeVideo)
    counted = _Counted(stream)
    state: GenerationState = run_stages([encode, upscale], runner, stream.replace(chunks=counted))
    # Only reading the clip tells its length.
    shape = LatentShape(*state.latents["video"].shape[1:4])
    video = replace(decode, shape=shape, num_frames=_doubled(counted.num_frames)).run(runner, state)
    del state
    try:
        for chunk in video:
            yield chunk[:, : stream.height, : stream.width]
    finally:
        video.close()


class _Counted:
    """The chunks of a clip, whose frames are counted as they pass."""

    def __init__(self, stream: FrameStream):
        self.num_frames = 0
        self._stream = stream

    def __iter__(self) -> Iterator[np.ndarray]:
        for chunk in self._stream:
            self.num_frames += len(chunk)
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _lengths(stream: FrameStream) -> str:
    rates = f"{float(stream.frame_rate):g} to {float(2 * stream.frame_rate):g} fps"
    if stream.num_frames is None:
        return rates
    return f"{stream.num_frames} to {_doubled(stream.num_frames)} frames, {rates}"


def _doubled(num_frames: int | None) -> int | None:
    return None if num_frames is None else 2 * num_frames - 1
