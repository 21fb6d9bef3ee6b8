"""What a sampler moves: two streams of tokens, and what is fixed in them. Knows nothing of networks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import mlx.core as mx

Item = TypeVar("Item")


class Streams(NamedTuple, Generic[Item]):
    """One thing for the video stream and one for the audio stream; None where a stream is absent."""

    video: Item | None
    audio: Item | None = None

    def map(self, function: Callable[..., Any], *others: "Streams") -> "Streams":
        """``function`` of the present streams, with the same stream of ``others`` beside it."""
        rows = zip(self, *others, strict=True)
        return Streams(*(None if row[0] is None else function(*row) for row in rows))


@dataclass(frozen=True)
class LatentState:
    """One stream in token form.

    Attributes:
        latent: ``(B, N, D)`` float32, at the present noise level.
        clean_latent: ``(B, N, D)``, what tokens are held to where ``denoise_mask`` is below 1.
        denoise_mask: ``(B, N, 1)`` float32; 1 = denoise here, 0 = hold.
        positions: ``(1 or B, axes, N, 2)`` float32, start and end of each token: seconds, then pixel rows and columns.
        attention_mask: ``(B, N, N)`` weights in [0, 1] between tokens, None where all attend to all.
        keyframe_mask: ``(B, N, 1)``, 1 where a generated token stands for a single pixel frame; None where the
            checkpoint does not tell them apart.
        frozen: The whole stream is given and only attended to: its noise level is 0 throughout.
    """

    latent: mx.array
    clean_latent: mx.array
    denoise_mask: mx.array
    positions: mx.array
    attention_mask: mx.array | None = None
    keyframe_mask: mx.array | None = None
    frozen: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens in the stream, appended ones included."""
        return self.latent.shape[1]

    def replace(self, **changes: Any) -> "LatentState":
        """The same state with other values."""
        return replace(self, **changes)

    def timesteps(self, sigma: float) -> mx.array:
        """Noise level of every token, ``(B, N, 1)`` float32."""
        return self.denoise_mask * sigma

    def hold(self, denoised: mx.array) -> mx.array:
        """``denoised`` with given tokens put back to what they are held to."""
        return denoised * self.denoise_mask + self.clean_latent * (1 - self.denoise_mask)


State = Streams[LatentState]


def start_state(tokens: mx.array, positions: mx.array, *, frozen: bool = False) -> LatentState:
    """A stream that begins at ``tokens`` ``(B, N, D)``: all of them to denoise, or all of them given if ``frozen``."""
    tokens = tokens.astype(mx.float32)
    mask = mx.zeros if frozen else mx.ones
    return LatentState(
        latent=tokens,
        clean_latent=tokens,
        denoise_mask=mask((*tokens.shape[:2], 1)),
        positions=positions,
        frozen=frozen,
    )


def add_noise(state: LatentState, noise: mx.array, scale: float = 1.0) -> LatentState:
    """``state`` with its latent mixed with ``noise`` ``(B, N, D)`` at noise level ``scale``.

    Given tokens start at what they are held to, partly given ones in between.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/components/noisers.py at 400fd31.
    """
    noisy = state.latent + scale * (noise.astype(mx.float32) - state.latent)
    return state.replace(latent=state.clean_latent + state.denoise_mask * (noisy - state.clean_latent))


def to_denoised(latent: mx.array, velocity: mx.array, timesteps: mx.array) -> mx.array:
    """The clean estimate ``latent - timesteps * velocity``, float32, ``(B, N, D)``."""
    return latent - velocity.astype(mx.float32) * timesteps


def to_velocity(latent: mx.array, denoised: mx.array, sigma: float) -> mx.array:
    """The velocity that leads from ``denoised`` to ``latent`` at noise level ``sigma``."""
    return (latent - denoised) / sigma
