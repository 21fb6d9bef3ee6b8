"""LTX-2's video autoencoder, its tiles, the latent upscalers and the temporal second pass."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, LatentStatisticsConfig, Level, VideoDecoder, VideoEncoder
from LTX_2_MLX.verify import Outputs, component
from LTX_2_MLX.verify.case import Case


def channels_last(array: np.ndarray) -> mx.array:
    """``(B, C, T, H, W)`` as stored to ``(B, T, H, W, C)``, float32."""
    return mx.array(np.moveaxis(array, 1, -1).astype(np.float32))


def channels_first(array: mx.array) -> np.ndarray:
    """``(B, T, H, W, C)`` to the references' ``(B, C, T, H, W)``, float32."""
    return np.moveaxis(np.array(array.astype(mx.float32)), -1, 1)


def signed_frames(u8: np.ndarray) -> mx.array:
    """Stored uint8 ``(B, 3, T, H, W)`` to [-1, 1], channels last."""
    return channels_last(u8) / 127.5 - 1


@component("ltx2/video_vae")
def video_vae(case: Case) -> Outputs:
    """Encode or decode a clip; where the case holds values inside the run, block by block as well."""
    io, checkpoint = case.inputs(), case.checkpoint()
    if "video_u8" in io:
        encoder, frames = load(VideoEncoder, checkpoint), signed_frames(io["video_u8"])
        latent = encoder.encode(frames)
        outputs = {
            "latent": latent,
            "latent_unnormalized": encoder.per_channel_statistics.denormalise(latent),
        } | _stages(encoder.levels(), "down_blocks", frames)
    else:
        decoder, latent = load(VideoDecoder, checkpoint), channels_last(io["latent"])
        noise = channels_last(io["noise"]) if "noise" in io else None
        timestep = mx.array(io["timestep"]) if "timestep" in io else None
        outputs = {"video": decoder.decode(latent, noise=noise, timestep=timestep)}
        if noise is None:
            outputs |= _stages(decoder.levels(len(latent)), "up_blocks", latent)
    return {name: channels_first(value) for name, value in outputs.items()}


def _stages(levels: list[Level], blocks: str, x: mx.array) -> dict[str, mx.array]:
    names = ["conv_in", *(f"{blocks}.{number}" for number in range(len(levels) - 2))]
    outputs = {}
    for name, level in zip(names, levels[:-1], strict=True):
        x = outputs[f"stage.{name}"] = level.push(x, True)
    return outputs


@component("ltx2/latent_upscaler")
def latent_upscaler(case: Case) -> Outputs:
    """Upscale a latent in space or time."""
    io, upscaler = case.inputs(), load(LatentUpscaler, case.checkpoint())
    latent, statistics = channels_last(io["latent"]), _statistics(io)
    outputs = {
        "latent": upscaler.upscale(latent, statistics),
        "raw": upscaler(statistics.denormalise(latent)),
    }
    return {name: channels_first(value) for name, value in outputs.items()}


def _statistics(io: dict[str, np.ndarray]) -> LatentStatistics:
    statistics = LatentStatistics(LatentStatisticsConfig(channels=len(io["mean_of_means"])))
    statistics.update({"mean": mx.array(io["mean_of_means"]), "std": mx.array(io["std_of_means"])})
    return statistics
