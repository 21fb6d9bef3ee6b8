"""Latents to tokens and back, and the positions of tokens in seconds and pixels."""

from dataclasses import dataclass
from fractions import Fraction

import mlx.core as mx
import numpy as np

from LTX_2_MLX.shapes import Compression, LatentShape


def patchify_video(latent: mx.array) -> mx.array:
    """Latent ``(B, T, H, W, C)`` to tokens ``(B, T * H * W, C)``, columns fastest."""
    return latent.flatten(1, 3)


def unpatchify_video(tokens: mx.array, shape: LatentShape) -> mx.array:
    """The first ``shape.num_tokens`` tokens to a latent ``(B, T, H, W, C)``, without appended ones."""
    size = (shape.num_frames, shape.height, shape.width)
    return tokens[:, : shape.num_tokens].reshape(tokens.shape[0], *size, tokens.shape[2])


def patchify_audio(latent: mx.array) -> mx.array:
    """Latent ``(B, T, M, C)`` to tokens ``(B, T, C * M)``, mel bins fastest."""
    return latent.swapaxes(2, 3).flatten(2, 3)


def unpatchify_audio(tokens: mx.array, channels: int) -> mx.array:
    """Tokens ``(B, T, channels * M)`` to a latent ``(B, T, M, channels)``."""
    return tokens.reshape(*tokens.shape[:2], channels, -1).swapaxes(2, 3)


@dataclass(frozen=True)
class VideoGrid:
    """The cells of a video latent in time and space.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/components/patchifiers.py at 400fd31.
    """

    shape: LatentShape
    compression: Compression
    frame_rate: Fraction | float

    def pixel_bounds(self, *, causal: bool = True) -> np.ndarray:
        """``(1, 3, N, 2)`` float32: bounds ``[start, end)`` of each cell in pixel frames, rows and columns.

        With ``causal`` the first latent frame spans one pixel frame, as in the encoder.
        """
        sizes = (self.shape.num_frames, self.shape.height, self.shape.width)
        factors = (self.compression.time, self.compression.height, self.compression.width)
        starts = np.indices(sizes).reshape(1, 3, -1, 1)
        bounds = (starts + np.arange(2)) * np.reshape(factors, (1, 3, 1, 1))
        if causal:
            bounds[:, 0] = np.maximum(bounds[:, 0] + 1 - self.compression.time, 0)
        return np.asarray(bounds, dtype=np.float32)

    def in_seconds(self, pixel_bounds: np.ndarray, slower: int = 1) -> mx.array:
        """Positions from pixel bounds: frames divided by the frame rate over ``slower``, rows and columns unchanged."""
        positions = pixel_bounds.copy()
        positions[:, 0] /= np.float32(float(self.frame_rate) / slower)
        return mx.array(positions)

    def positions(self) -> mx.array:
        """``(1, 3, N, 2)`` float32: seconds, pixel rows, pixel columns; start and end."""
        return self.in_seconds(self.pixel_bounds())


@dataclass(frozen=True)
class AudioClock:
    """Times of audio latents. The defaults are those of the published audio VAE.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/components/patchifiers.py at 400fd31.
    """

    sample_rate: int = 16000
    hop_length: int = 160
    # Mel frames per latent; the first latent holds one.
    compression: int = 4

    def num_latents(self, num_frames: int, frame_rate: Fraction | float) -> int:
        """Number of audio latents for a video of ``num_frames``; halves round to even."""
        per_second = self.sample_rate / self.hop_length / self.compression
        return round(num_frames / float(frame_rate) * per_second)

    def positions(self, num_latents: int) -> mx.array:
        """``(1, 1, N, 2)`` float32 seconds: start and end of each latent."""
        edges = np.arange(num_latents + 1, dtype=np.float32) * self.compression
        mel = np.maximum(edges + 1 - self.compression, 0)
        seconds = mel * np.float32(self.hop_length) / np.float32(self.sample_rate)
        return mx.array(np.stack([seconds[:-1], seconds[1:]], axis=-1)[None, None])
