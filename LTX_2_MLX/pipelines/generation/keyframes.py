"""Carried keyframes of detail-fidelity rendering at a larger size, by way of their pixels.

Source: huggingface/diffusers 0.42.1, pipelines/ltx2/pipeline_ltx2_dfr.py (``rebuild_epilogue_keyframes``).
"""

import mlx.core as mx
import numpy as np
from PIL import Image

from LTX_2_MLX.media.frames import signed_to_uint8, to_signed
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder, VideoEncoder


def enlarge(image: np.ndarray, scale: int = 2) -> np.ndarray:
    """An 8-bit image ``(H, W, 3)`` at ``scale`` times the size, by Pillow's Lanczos filter."""
    height, width = image.shape[:2]
    larger = Image.fromarray(image).resize((scale * width, scale * height), Image.Resampling.LANCZOS)
    return np.asarray(larger)


def enlarged_keyframe(latent: mx.array, decoder: VideoDecoder, encoder: VideoEncoder, scale: int = 2) -> mx.array:
    """The latent ``(1, 1, H, W, C)`` of a single frame, decoded, enlarged and encoded as a clip of its own.

    The decoder looks across frames, and the latent upscaler's norms run over the whole clip, so keyframes that lie
    far apart go through neither together.
    """
    frame = signed_to_uint8(decoder.decode(latent)[0, 0])
    return encoder.encode(to_signed(enlarge(frame, scale))[None, None])
