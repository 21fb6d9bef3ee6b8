"""What networks see of a checkpoint, and what pipelines expect of a network."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx

from LTX_2_MLX.shapes import Compression


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header describes it: published shape and the format's own name of the dtype."""

    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself before any tensor is read.

    ``config`` is the parsed JSON of the metadata key ``config`` (empty when there is none).
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


class VideoEncoder(Protocol):
    """Pixels to latent."""

    compression: Compression

    def encode(self, frames: mx.array) -> mx.array:
        """Frames ``(B, T, H, W, 3)`` in [-1, 1] to a normalised latent ``(B, T', H', W', C)``."""


class VideoDecoder(Protocol):
    """Latent to pixels."""

    compression: Compression

    def decode(self, latent: mx.array) -> mx.array:
        """A normalised latent ``(B, T', H', W', C)`` to frames ``(B, T, H, W, 3)``, about [-1, 1]."""

    def stream(self, latents: Iterable[mx.array]) -> Iterator[mx.array]:
        """Consecutive pieces of a latent to consecutive chunks of frames; joined, they are the whole clip."""


class FrameUpscaler(Protocol):
    """Frames to larger frames, each by itself."""

    scale: int

    def __call__(self, frames: mx.array) -> mx.array:
        """Frames ``(B, H, W, 3)`` in [0, 1] to ``(B, scale * H, scale * W, 3)``."""


class FrameInterpolator(Protocol):
    """Two frames to one between them."""

    def __call__(self, first: mx.array, second: mx.array, fraction: float = 0.5) -> mx.array:
        """Frames ``(B, H, W, 3)`` in [0, 1]; ``fraction`` is the place between them, 0 to 1."""
