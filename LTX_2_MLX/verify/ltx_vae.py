"""LTX-2's video autoencoder, the latent upscalers and the temporal second pass."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, LatentStatisticsConfig, Level, VideoDecoder, VideoEncoder
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last, signed_frames


def video_vae(case: Case) -> Outputs:
    """Encode or decode a clip; where the case holds values inside the run, block by block as well."""
    outputs = _encoded(case) if "video_u8" in case.inputs() else _decoded(case)
    return {name: channels_first(value) for name, value in outputs.items()}


def _encoded(case: Case) -> dict[str, mx.array]:
    encoder = load(VideoEncoder, case.checkpoint())
    frames = signed_frames(case.inputs()["video_u8"])
    latent = encoder.encode(frames)
    unnormalized = encoder.per_channel_statistics.denormalise(latent)
    stages = _stages(encoder.levels(), "down_blocks", frames)
    return {"latent": latent, "latent_unnormalized": unnormalized} | stages


def _decoded(case: Case) -> dict[str, mx.array]:
    decoder = load(VideoDecoder, case.checkpoint())
    io = case.inputs()
    latent = channels_last(io["latent"])
    noise = channels_last(io["noise"]) if "noise" in io else None
    timestep = mx.array(io["timestep"]) if "timestep" in io else None
    outputs = {"video": decoder.decode(latent, noise=noise, timestep=timestep)}
    if noise is None:
        outputs |= _stages(decoder.levels(len(latent)), "up_blocks", latent)
    return outputs


def _stages(levels: list[Level], blocks: str, x: mx.array) -> dict[str, mx.array]:
    names = ["conv_in", *(f"{blocks}.{number}" for number in range(len(levels) - 2))]
    outputs = {}
    for name, level in zip(names, levels[:-1], strict=True):
        x = outputs[f"stage.{name}"] = level.push(x, True)
    return outputs


def latent_upscaler(case: Case) -> Outputs:
    """Upscale a latent in space or time."""
    io = case.inputs()
    upscaler = load(LatentUpscaler, case.checkpoint())
    latent = channels_last(io["latent"])
    statistics = _statistics(io)
    outputs = {
        "latent": upscaler.upscale(latent, statistics),
        "raw": upscaler(statistics.denormalise(latent)),
    }
    return {name: channels_first(value) for name, value in outputs.items()}


def _statistics(io: dict[str, np.ndarray]) -> LatentStatistics:
    statistics = LatentStatistics(LatentStatisticsConfig(channels=len(io["mean_of_means"])))
    statistics.update({"mean": mx.array(io["mean_of_means"]), "std": mx.array(io["std_of_means"])})
    return statistics


def temporal_second_pass(case: Case) -> Outputs:
    """Frames through encoder, temporal upscaler and decoder: twice the rate."""
    checkpoint = case.checkpoint()
    statistics = load(LatentStatistics, checkpoint)
    latent = load(VideoEncoder, checkpoint).encode(signed_frames(case.inputs()["video_u8"]))
    upscaled = load(LatentUpscaler, checkpoint).upscale(latent, statistics)
    video = load(VideoDecoder, checkpoint).decode(upscaled)
    return {
        "latent": channels_first(latent),
        "latent_upsampled": channels_first(upscaled),
        "frames": mx.clip((video[0] + 1) / 2, 0, 1),
    }
