"""Waveform to audio latent in pieces, so that memory does not grow with the length.

The encoder is causal: each piece is encoded with as many frames before it as its values depend on, so the pieces end to
end are the latent of the whole waveform.
"""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from LTX_2_MLX.models.ltx.audio_vae import AudioEncoder
from LTX_2_MLX.ops.mel import log_mel

# Latent frames of a piece; 4 seconds with the published rate of 25 per second.
PIECE_FRAMES = 100


def encode_audio(
    encoder: AudioEncoder, waveform: np.ndarray, sample_rate: int, piece_frames: int = PIECE_FRAMES
) -> Iterator[mx.array]:
    """Consecutive pieces of a waveform's normalised latent, ``(B, T, M / 4, C)`` float32 each, evaluated.

    Args:
        encoder: The audio VAE's encoder.
        waveform: ``(B, S, C)`` in [-1, 1].
        sample_rate: Samples per second.
        piece_frames: Latent frames of a piece.

    Raises:
        RequestError: If the sound is shorter than half a Fourier window.
    """
    mel = log_mel(waveform, sample_rate, encoder.config.mel)
    compression = encoder.config.compression
    num_latents = -(-mel.shape[1] // compression)
    for start in range(0, num_latents, piece_frames):
        stop = min(start + piece_frames, num_latents)
        # A latent frame ends with the mel frame of its number times the compression.
        first = max(start - encoder.config.encoder_context, 0)
        latent = encoder(mx.array(mel[:, compression * first : compression * (stop - 1) + 1]))[:, start - first :]
        mx.eval(latent)
        yield latent
