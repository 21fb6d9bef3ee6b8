"""FlashVSR's low-quality input frames, made from source frames, and its output cut back to size."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import mlx.core as mx
import numpy as np
from PIL import Image

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.frames import to_signed, to_unit
from LTX_2_MLX.models.flashvsr.stream import FIRST_INPUT, FIRST_OUTPUT, NEXT_INPUT, NEXT_OUTPUT
from LTX_2_MLX.ops.device import evaluated
from LTX_2_MLX.ops.sampling import resize

# Pixels of an attention window along each side: sizes that the transformer takes are multiples of it.
WINDOW_PIXELS = 128
# Frames that are enlarged, projected and decoded together: a latent frame's.
GROUP = 4

Borders = Literal["pad", "crop"]
Resizing = Literal["float", "8bit"]


@dataclass(frozen=True)
class Fit:
    """Enlargement of frames, and their fit to whole attention windows.

    Attributes:
        height, width: Of the source.
        scale: Enlargement; sizes are rounded.
        borders: ``pad`` mirrors the frame beyond its right and lower edge and cuts that off afterwards, so all of it
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
        for axis, (source, target) in enumerate(zip(self.scaled, self.target, strict=True), start=1):
            pixels = mx.take(pixels, mx.array(_indices(source, target)), axis=axis)
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


def _indices(source: int, target: int) -> np.ndarray:
    """Source indices of ``target`` pixels: the middle of more, or all of fewer and their mirror image behind."""
    if target <= source:
        return np.arange(target) + (source - target) // 2
    period = max(1, 2 * source - 2)
    index = np.arange(target) % period
    return np.minimum(index, period - index)


def padded_length(num_frames: int) -> int:
    """Frames that the networks decode for a clip: the next 8n + 5, at least 21."""
    return FIRST_OUTPUT + -(-max(0, num_frames - FIRST_OUTPUT) // NEXT_OUTPUT) * NEXT_OUTPUT


@dataclass(frozen=True)
class LQChunk:
    """One chunk's source frames, ``(T, h, w, 3)`` uint8; they are enlarged when they are used.

    Attributes:
        projected: Frames that go into the projector: 25, later 8.
        decoded: Frames at the positions of the decoded ones: 21, later 8.
        num_output: Decoded frames that belong to the clip; the others lie beyond its end.
    """

    projected: np.ndarray
    decoded: np.ndarray
    num_output: int


def in_groups(frames: np.ndarray, enlarge: Callable[[np.ndarray], mx.array]) -> Iterator[mx.array]:
    """Enlarged frames, four at a time; a remainder, which is a clip's first frame, comes first."""
    first = len(frames) % GROUP
    starts = list(range(first, len(frames), GROUP))
    if first:
        yield evaluated(enlarge(frames[:first]))
    for start in starts:
        yield evaluated(enlarge(frames[start : start + GROUP]))


def lq_chunks(frames: Iterable[np.ndarray]) -> Iterator[LQChunk]:
    """Chunks of a clip of any length, the last frame repeated to fill the last one.

    Args:
        frames: Source frames ``(h, w, 3)`` uint8 in order; read as far as needed.

    Raises:
        MediaError: If there is no frame.
    """
    source = iter(frames)
    waiting: list[np.ndarray] = []
    num_read = 0
    num_decoded = 0
    while True:
        num_input = NEXT_INPUT if num_decoded else FIRST_INPUT
        num_chunk = NEXT_OUTPUT if num_decoded else FIRST_OUTPUT
        new = list(islice(source, num_input))
        clip_ends = len(new) < num_input
        num_read += len(new)
        if not new and not waiting:
            raise MediaError("The clip has no frame. Give a video or a folder of images.")
        # Later chunks wait for four frames more than they decode, so one is always there to be repeated.
        last = new[-1] if new else waiting[-1]
        new += [last] * (num_input - len(new))
        waiting += new
        num_output = min(num_chunk, num_read - num_decoded)
        yield LQChunk(projected=np.stack(new), decoded=np.stack(waiting[:num_chunk]), num_output=num_output)
        waiting = waiting[num_chunk:]
        num_decoded += num_chunk
        if clip_ends and num_decoded >= num_read:
            return
