"""LTX-2.5's video autoencoder files: one with a convolutional decoder, one with a diffusion decoder."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder
from LTX_2_MLX.models.ltx.diffusion_decoder_tiling import decode
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last, readable, signed_frames
from LTX_2_MLX.verify.ltx_diffusion_decoder import GivenNoise, tiling_of


def convolutional_file(case: Case) -> Outputs:
    """Decode a latent and encode the video again."""
    checkpoint = case.checkpoint()
    video = load(VideoDecoder, checkpoint, dtype=case.dtype).decode(channels_last(case.inputs()["latent"]))
    latent = load(VideoEncoder, checkpoint, dtype=case.dtype).encode(mx.clip(video, -1, 1))
    return {"video": channels_first(video), "latent_again": channels_first(latent)}


def diffusion_file(case: Case) -> Outputs:
    """Encode a video and decode its latent."""
    checkpoint = case.checkpoint()
    call = case.spec["call"]
    latent = load(VideoEncoder, checkpoint, dtype=case.dtype).encode(signed_frames(case.inputs()["video_u8"]))
    decoder = load(DiffusionVideoDecoder, checkpoint, dtype=case.dtype)
    chunks = decode(decoder, latent, GivenNoise(case), tiling=tiling_of(call["tiling"]), mode=call["mode"])
    frames = np.concatenate([readable(mx.clip((chunk + 1) / 2, 0, 1)) for chunk in chunks], axis=1)
    return {"latent": channels_first(latent), "frames": frames[0]}
