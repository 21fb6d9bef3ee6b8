"""State of a denoising run: latents as tokens with their positions, which of them are held, and the run's noise.

Each purpose of random numbers has its own key, made of the seed and the purpose's name: ``stage_1.video`` and
``stage_1.audio`` (the first noise of a stage), ``stage_1.step_3.video`` and ``stage_1.middle_3.video`` (new noise in a
sampler's step). So the noise of one stage or stream does not depend on whether another one ran, and the same seed gives
the same video. The reference draws other noise from the same seed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.collective import TokenShare
from LTX_2_MLX.shapes import Compression, LatentShape, StreamName

# One array for each stream that is present, such as latents or contexts.
StreamArrays = dict[StreamName, mx.array]
# (purpose, shape) -> standard normal noise, float32.
Noise = Callable[[str, tuple[int, ...]], mx.array]


@dataclass(frozen=True)
class LatentState:
    """One stream in token form.

    Attributes:
        latent: ``(B, N, D)`` float32, at the current noise level.
        clean_latent: ``(B, N, D)``, the values of tokens that are held (``denoise_mask`` below 1).
        denoise_mask: ``(B, N, 1)`` float32; 1 = denoise here, 0 = hold.
        positions: ``(1 or B, axes, N, 2)`` float32, start and end of each token: seconds, then pixel rows and columns.
        attention_mask: ``(B, N, N)`` weights in [0, 1] between tokens; None: all attend to all.
        keyframe_mask: ``(B, N, 1)``, 1 where a generated token holds a single pixel frame; None for checkpoints
            without a keyframe embedding.
        frozen: Whether the whole stream is given and only attended to; its noise level is 0 throughout.
        share: The tokens are a share of the stream's; other processes have the rest. None: they are all.
        mask_of_all: With a share, the ``denoise_mask`` of all tokens.
    """

    latent: mx.array
    clean_latent: mx.array
    denoise_mask: mx.array
    positions: mx.array
    attention_mask: mx.array | None = None
    keyframe_mask: mx.array | None = None
    frozen: bool = False
    share: TokenShare | None = None
    mask_of_all: mx.array | None = None

    @property
    def num_tokens(self) -> int:
        """Number of tokens, including appended ones."""
        return self.latent.shape[1]

    def hold(self, denoised: mx.array) -> mx.array:
        """``denoised`` with held tokens put back to their clean values."""
        return denoised * self.denoise_mask + self.clean_latent * (1 - self.denoise_mask)


# The streams that are present.
State = dict[StreamName, LatentState]


def with_latents(state: State, latents: StreamArrays) -> State:
    """The state with new latents, evaluated, so that the graph of one step is freed before the next."""
    moved: State = {}
    for name, stream in state.items():
        moved[name] = replace(stream, latent=latents[name])
    mx.eval(list(latents.values()))
    return moved


def hold(state: State, denoised: StreamArrays) -> StreamArrays:
    """Clean estimates of all streams with held tokens put back to their clean values."""
    held: StreamArrays = {}
    for name, stream in state.items():
        held[name] = stream.hold(denoised[name])
    return held


def start_state(tokens: mx.array, positions: mx.array, *, frozen: bool = False) -> LatentState:
    """A stream that starts from ``tokens`` ``(B, N, D)``: denoised everywhere, or held everywhere if ``frozen``."""
    tokens = tokens.astype(mx.float32)
    return LatentState(
        latent=tokens,
        clean_latent=tokens,
        denoise_mask=mx.full((*tokens.shape[:2], 1), 0.0 if frozen else 1.0),
        positions=positions,
        frozen=frozen,
    )


def add_noise(state: LatentState, noise: mx.array, scale: float = 1.0) -> LatentState:
    """Mix the latent with ``noise`` ``(B, N, D)`` at noise level ``scale``.

    Held tokens start at their clean values, partly held ones in between.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/components/noisers.py at 400fd31.
    """
    noisy = state.latent + scale * (noise.astype(mx.float32) - state.latent)
    return replace(state, latent=state.clean_latent + state.denoise_mask * (noisy - state.clean_latent))


def to_denoised(latent: mx.array, velocity: mx.array, timesteps: mx.array) -> mx.array:
    """The clean estimate ``latent - timesteps * velocity``, float32, ``(B, N, D)``."""
    return latent - velocity.astype(mx.float32) * timesteps


def to_velocity(latent: mx.array, denoised: mx.array, sigma: float) -> mx.array:
    """The velocity at noise level ``sigma`` whose clean estimate is ``denoised``."""
    return (latent - denoised) / sigma


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

    def positions(self, pixel_bounds: np.ndarray | None = None, *, slower: int = 1) -> mx.array:
        """``(1, 3, N, 2)`` float32: seconds, pixel rows, pixel columns; start and end of each cell.

        ``pixel_bounds`` are those of other cells, ``slower`` divides the frame rate.
        """
        positions = self.pixel_bounds() if pixel_bounds is None else pixel_bounds.copy()
        positions[:, 0] /= np.float32(float(self.frame_rate) / slower)
        return mx.array(positions)


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


def key_for(seed: int, purpose: str) -> mx.array:
    """The random key of one purpose."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return mx.random.key(int.from_bytes(digest[:8], "little"))


def seeded_noise(seed: int, purpose: str, shape: tuple[int, ...]) -> mx.array:
    """Standard normal noise of a run for one purpose, float32. With its seed bound, it is the ``Noise`` of the run."""
    return mx.random.normal(shape, key=key_for(seed, purpose))
