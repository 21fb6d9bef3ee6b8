"""Sizes of videos and latents, their constraints, and the nearest legal sizes."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from LTX_2_MLX.errors import RequestError

# The transformer's two token streams.
StreamName = Literal["video", "audio"]


@dataclass(frozen=True)
class Compression:
    """Pixels per latent step along each axis; LTX-2's own VAE has ``(8, 32, 32)``."""

    time: int
    height: int
    width: int


@dataclass(frozen=True)
class LatentShape:
    """Size of a latent."""

    num_frames: int
    height: int
    width: int

    @property
    def num_tokens(self) -> int:
        """Number of positions: the transformer takes one token for each."""
        return self.num_frames * self.height * self.width

    def pixels(self, compression: Compression) -> "VideoShape":
        """Size of the video that this latent decodes to; the first latent frame holds one pixel frame."""
        return VideoShape(
            num_frames=(self.num_frames - 1) * compression.time + 1,
            height=self.height * compression.height,
            width=self.width * compression.width,
        )


@dataclass(frozen=True)
class VideoShape:
    """Size of a video in pixels and frames."""

    num_frames: int
    height: int
    width: int

    def latent(self, compression: Compression) -> LatentShape:
        """Size of this video's latent.

        Raises:
            RequestError: If a size is not legal; the message names the two nearest ones.
        """
        check_size("num_frames", self.num_frames, compression.time, first=1)
        check_size("height", self.height, compression.height)
        check_size("width", self.width, compression.width)
        return LatentShape(
            num_frames=(self.num_frames - 1) // compression.time + 1,
            height=self.height // compression.height,
            width=self.width // compression.width,
        )


def nearest_multiples(value: int, multiple: int) -> tuple[int, int]:
    """The multiples below and above ``value``, both positive, the nearer one first."""
    below = max(value // multiple * multiple, multiple)
    above = below + multiple if value > below else below
    return (below, above) if value - below <= above - value else (above, below)


def check_size(name: str, value: int, step: int, first: int = 0) -> None:
    """Check that a size is positive, and a multiple of ``step`` after ``first``.

    Raises:
        RequestError: If it is not; the message names the nearest ones.
    """
    if value > 0 and (value - first) % step == 0:
        return
    near, far = nearest_multiples(value - first, step)
    expected = f"this checkpoint takes {step}k + {first} frames" if first else f"it must be a multiple of {step}"
    raise RequestError(f"{name} is {value}, but {expected}. {advice_on(near + first, far + first)}")


def advice_on(near: int, far: int) -> str:
    """What to use in place of a size that is not legal."""
    return f"Use {near}." if near == far else f"Use {near} (or {far})."


def frames_lasting(seconds: Fraction, frame_rate: Fraction, compression: Compression) -> int:
    """Frames of a video that lasts at least ``seconds``, rounded up to a number that latents hold (8k + 1)."""
    return math.ceil((seconds * frame_rate - 1) / compression.time) * compression.time + 1
