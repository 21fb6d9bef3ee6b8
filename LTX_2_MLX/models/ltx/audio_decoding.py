"""Audio latent to waveform in pieces, so that memory does not grow with the length.

Each piece is decoded with as many frames around it as its samples depend on, so the pieces end to end are the waveform
of the whole latent.
"""

from collections.abc import Iterator

import mlx.core as mx

from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder
from LTX_2_MLX.models.ltx.vocoder import BandwidthExtensionVocoder, Vocoder

# Latent frames of a piece; 10 seconds with the published rate of 25 per second.
PIECE_FRAMES = 250


def decode_audio(
    decoder: AudioDecoder,
    vocoder: Vocoder | BandwidthExtensionVocoder,
    latent: mx.array,
    piece_frames: int = PIECE_FRAMES,
) -> Iterator[mx.array]:
    """Consecutive pieces of a latent's waveform, ``(B, S, 2)`` each, evaluated.

    Args:
        decoder: The audio VAE's decoder.
        vocoder: The vocoder of the same checkpoint.
        latent: Normalised, ``(B, T, M / 4, C)``.
        piece_frames: Latent frames of a piece.
    """
    num_frames = latent.shape[1]
    for start in range(0, num_frames, piece_frames):
        stop = min(start + piece_frames, num_frames)
        waveform = _decode_piece(decoder, vocoder, latent, start, stop)
        mx.eval(waveform)
        yield waveform


def _decode_piece(
    decoder: AudioDecoder,
    vocoder: Vocoder | BandwidthExtensionVocoder,
    latent: mx.array,
    start: int,
    stop: int,
) -> mx.array:
    """Samples of the latent frames from ``start`` to ``stop``."""
    compression = decoder.config.compression
    num_latents = latent.shape[1]

    def first_mel_frame(latent_frame: int) -> int:
        # The first latent frame holds one mel frame, every later one ``compression``.
        return max(compression * (latent_frame - 1) + 1, 0)

    mel_start = first_mel_frame(start)
    mel_stop = first_mel_frame(stop)
    context_start = max(mel_start - vocoder.context, 0)
    context_stop = min(mel_stop + vocoder.context, first_mel_frame(num_latents))
    # The latent frame of a mel frame is its number over the compression, rounded up.
    latent_start = max(-(-context_start // compression) - decoder.config.decoder_context, 0)
    latent_stop = -(-(context_stop - 1) // compression) + 1

    mel = decoder(latent[:, latent_start:latent_stop])
    offset = compression * latent_start
    mel = mel[:, context_start - offset : context_stop - offset]
    mx.eval(mel)
    waveform = vocoder(mel)
    samples = vocoder.samples_per_frame
    return waveform[:, (mel_start - context_start) * samples : (mel_stop - context_start) * samples]
