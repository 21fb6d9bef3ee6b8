"""LTX-2's video autoencoder, the latent upscalers and the temporal second pass."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, LatentStatisticsConfig, VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last, signed_frames


def video_vae(case: Case) -> Outputs:
    """Encode or decode a clip; where the case holds values inside the run, block by block as well."""
    outputs = _encoded(case) if "video_u8" in case.inputs() else _decoded(case)
    return {name: channels_first(value) for name, value in outputs.items()}


def _encoded(case: Case) -> dict[str, mx.array]:
    encoder = load(VideoEncoder, case.checkpoint(), dtype=case.dtype)
    frames = signed_frames(case.inputs()["video_u8"])
    latent = encoder.encode(frames)
    unnormalized = encoder.per_channel_statistics.denormalise(latent)
    stages = _encoder_stages(encoder, frames)
    return {"latent": latent, "latent_unnormalized": unnormalized} | stages


def _decoded(case: Case) -> dict[str, mx.array]:
    decoder = load(VideoDecoder, case.checkpoint(), dtype=case.dtype)
    io = case.inputs()
    latent = channels_last(io["latent"])
    noise = channels_last(io["noise"]) if "noise" in io else None
    timestep = mx.array(io["timestep"]) if "timestep" in io else None
    outputs = {"video": decoder.decode(latent, noise=noise, timestep=timestep)}
    if noise is None:
        outputs |= _decoder_stages(decoder, latent)
    return outputs


def _encoder_stages(encoder: VideoEncoder, frames: mx.array) -> dict[str, mx.array]:
    x = encoder.input_layer(frames)
    outputs = {"stage.conv_in": x}
    for number, block in enumerate(encoder.down_blocks):
        x = block(x)
        outputs[f"stage.down_blocks.{number}"] = x
    return outputs


def _decoder_stages(decoder: VideoDecoder, latent: mx.array) -> dict[str, mx.array]:
    timestep = decoder.scale_timestep(None, len(latent))
    x = decoder.input_layer(latent)
    outputs = {"stage.conv_in": x}
    for number, block in enumerate(decoder.up_blocks):
        x = decoder.up_block(block, x, timestep=timestep)
        outputs[f"stage.up_blocks.{number}"] = x
    return outputs


def latent_upscaler(case: Case) -> Outputs:
    """Upscale a latent in space or time."""
    io = case.inputs()
    upscaler = load(LatentUpscaler, case.checkpoint(), dtype=case.dtype)
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
    statistics = load(LatentStatistics, checkpoint, dtype=mx.float32)
    latent = load(VideoEncoder, checkpoint, dtype=case.dtype).encode(signed_frames(case.inputs()["video_u8"]))
    upscaled = load(LatentUpscaler, checkpoint, dtype=case.dtype).upscale(latent, statistics)
    video = load(VideoDecoder, checkpoint, dtype=case.dtype).decode(upscaled)
    return {
        "latent": channels_first(latent),
        "latent_upsampled": channels_first(upscaled),
        "frames": mx.clip((video[0] + 1) / 2, 0, 1),
    }
