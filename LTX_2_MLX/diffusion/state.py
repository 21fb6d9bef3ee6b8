"""State of a denoising run: the tokens of each stream, and which of them are held."""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from LTX_2_MLX.ops.collective import TokenShare
from LTX_2_MLX.shapes import StreamName

# One array for each stream that is present, such as latents or contexts.
StreamArrays = dict[StreamName, mx.array]


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
    """

    latent: mx.array
    clean_latent: mx.array
    denoise_mask: mx.array
    positions: mx.array
    attention_mask: mx.array | None = None
    keyframe_mask: mx.array | None = None
    frozen: bool = False
    share: TokenShare | None = None

    @property
    def num_tokens(self) -> int:
        """Number of tokens, including appended ones."""
        return self.latent.shape[1]

    def replace(self, **changes: Any) -> "LatentState":
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def timesteps(self, sigma: float) -> mx.array:
        """Noise level of every token, ``(B, N, 1)`` float32."""
        return self.denoise_mask * sigma

    def hold(self, denoised: mx.array) -> mx.array:
        """``denoised`` with held tokens put back to their clean values."""
        return denoised * self.denoise_mask + self.clean_latent * (1 - self.denoise_mask)


# The streams that are present.
State = dict[StreamName, LatentState]


def with_latents(state: State, latents: StreamArrays) -> State:
    """The state with new latents, evaluated, so that the graph of one step is freed before the next."""
    moved: State = {}
    for name, stream in state.items():
        moved[name] = stream.replace(latent=latents[name])
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
    return state.replace(latent=state.clean_latent + state.denoise_mask * (noisy - state.clean_latent))


def to_denoised(latent: mx.array, velocity: mx.array, timesteps: mx.array) -> mx.array:
    """The clean estimate ``latent - timesteps * velocity``, float32, ``(B, N, D)``."""
    return latent - velocity.astype(mx.float32) * timesteps


def to_velocity(latent: mx.array, denoised: mx.array, sigma: float) -> mx.array:
    """The velocity at noise level ``sigma`` whose clean estimate is ``denoised``."""
    return (latent - denoised) / sigma
