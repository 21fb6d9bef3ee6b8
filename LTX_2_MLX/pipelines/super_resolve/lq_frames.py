"""Source frames to the low-quality frames FlashVSR looks at, and its frames back to the picture's own size."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import mlx.core as mx
import numpy as np
from PIL import Image

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.frames import to_signed, to_unit
from LTX_2_MLX.models.flashvsr.stream import FIRST_MADE, FIRST_SEEN, NEXT_MADE, NEXT_SEEN
from LTX_2_MLX.ops.resize import resize

# Pixels of an attention window along each side: sizes that the transformer takes are multiples of it.
WINDOW_PIXELS = 128
# Frames that are enlarged, projected and decoded together: a latent frame's.
GROUP = 4

Borders = Literal["pad", "crop"]
Resizing = Literal["float", "8bit"]


@dataclass(frozen=True)
class Fit:
    """How a picture is enlarged and made to fit whole attention windows.

    Attributes:
        height, width: The source's.
        scale: Enlargement; sizes are rounded.
        borders: ``pad`` mirrors the picture beyond its right and lower edge and cuts that off afterwards, so all of it
            comes back. ``crop`` keeps the middle, as the published scripts do; a side below 128 is mirrored there too.
        resizing: ``float`` is bicubic with the coefficient -0.75 and may overshoot, as the plugin does; ``8bit`` is
            Pillow's, with -0.5, rounded and clipped, as the authors do.
    """

    height: int
    width: int
    scale: float
    borders: Borders = "pad"
    resizing: Resizing = "float"

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width after enlargement."""
        return round(self.height * self.scale), round(self.width * self.scale)

    @property
    def target(self) -> tuple[int, int]:
        """Height and width that the networks see."""
        up = WINDOW_PIXELS - 1 if self.borders == "pad" else 0
        height, width = (max(WINDOW_PIXELS, (side + up) // WINDOW_PIXELS * WINDOW_PIXELS) for side in self.scaled)
        return height, width

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the result."""
        height, width = (min(pair) for pair in zip(self.scaled, self.target, strict=True))
        return height, width

    def lq(self, frames: np.ndarray) -> mx.array:
        """Source frames ``(T, h, w, 3)`` uint8 to ``(1, T, H, W, 3)`` in [-1, 1] or a little beyond."""
        pixels = self._enlarged(frames)
        for axis, (have, want) in enumerate(zip(self.scaled, self.target, strict=True), start=1):
            pixels = mx.take(pixels, mx.array(_places(have, want)), axis=axis)
        return (pixels * 2 - 1)[None]

    def restore(self, frames: mx.array) -> mx.array:
        """The networks' frames ``(1, T, H, W, 3)`` without what was added."""
        height, width = self.output
        return frames[:, :, :height, :width]

    def _enlarged(self, frames: np.ndarray) -> mx.array:
        height, width = self.scaled
        if self.resizing == "float":
            return resize(to_unit(frames), height, width, kernel="cubic")
        sized = [Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames]
        return (to_signed(np.stack([np.asarray(image) for image in sized])) + 1) / 2


def _places(have: int, want: int) -> np.ndarray:
    """Source places of ``want`` pixels: the middle of more, or all of fewer and their mirror image behind."""
    if want <= have:
        return np.arange(want) + (have - want) // 2
    period = max(1, 2 * have - 2)
    place = np.arange(want) % period
    return np.minimum(place, period - place)


def padded_length(num_frames: int) -> int:
    """Frames that the networks make for a clip: the next 8n + 5, at least 21."""
    return FIRST_MADE + -(-max(0, num_frames - FIRST_MADE) // NEXT_MADE) * NEXT_MADE


@dataclass(frozen=True)
class LQChunk:
    """One chunk's source frames, ``(T, h, w, 3)`` uint8; they are enlarged when they are looked at.

    Attributes:
        seen: What is new to the projector: 25 frames, later 8.
        shown: Those in the places of the frames that are made: 21, later 8.
        wanted: How many of the made frames belong to the clip; the others follow its end.
    """

    seen: np.ndarray
    shown: np.ndarray
    wanted: int


def in_groups(frames: np.ndarray, enlarge: Callable[[np.ndarray], mx.array]) -> Iterator[mx.array]:
    """Enlarged frames, four at a time; what is over, at a clip's start one frame, comes first."""
    over = len(frames) % GROUP
    starts = ([0] if over else []) + list(range(over, len(frames), GROUP))
    for first in starts:
        enlarged = enlarge(frames[first : first + (GROUP if first >= over else over)])
        mx.eval(enlarged)
        yield enlarged


def lq_chunks(frames: Iterable[np.ndarray]) -> Iterator[LQChunk]:
    """Chunks of a clip of any length, the last frame repeated to fill the last one.

    Args:
        frames: Source frames ``(h, w, 3)`` uint8 in order; read as far as needed.

    Raises:
        MediaError: If there is no frame.
    """
    source, held = iter(frames), []
    seen, made, final = 0, 0, None
    while True:
        count, makes = (NEXT_SEEN, NEXT_MADE) if made else (FIRST_SEEN, FIRST_MADE)
        some = list(islice(source, count))
        if not some and final is None:
            raise MediaError("The clip has no frame. Give a video or a folder of images.")
        seen, final = seen + len(some), some[-1] if some else final
        new = some + [final] * (count - len(some))
        held += new
        yield LQChunk(seen=np.stack(new), shown=np.stack(held[:makes]), wanted=min(makes, seen - made))
        held, made = held[makes:], made + makes
        if len(some) < count and made >= seen:
            return
