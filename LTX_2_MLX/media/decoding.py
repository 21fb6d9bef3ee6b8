"""Memory of decoding a video or image, from its header alone: planned with fewer threads, or refused."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from LTX_2_MLX.errors import MemoryBudgetError
from LTX_2_MLX.runtime.memory import GIB, budget_bytes

# Frames that a decoder may hold for reference and order, with the one that it decodes (FFmpeg 8.1: h264dec.h,
# hevcdec.h, vp9.h; av1 as its specification says); other codecs hold the last two.
_HELD_FRAMES = {"h264": 18, "hevc": 18, "vvc": 18, "vp9": 10, "libvpx-vp9": 10, "av1": 10, "libdav1d": 10}
_FEW_HELD_FRAMES = 4
# Frames for threads beyond the first, of which each holds about one.
_THREADS_BYTES = 64 * 2**20
# Where the header does not tell the layout: four channels of 16 bits.
_LARGEST_PIXEL_BITS = 64
_LARGEST_OPENED = 2**27
# An image as Pillow decodes it, its levels in 16 bits, and a copy of them.
_IMAGE_PIXEL_BYTES = 16
_BUDGET: ContextVar[int | None] = ContextVar("decoding_budget", default=None)


@contextmanager
def decoding_budget(num_bytes: int) -> Iterator[None]:
    """Refuse videos and images that take more than this to decode; else the memory that a run may use counts."""
    token = _BUDGET.set(num_bytes)
    try:
        yield
    finally:
        _BUDGET.reset(token)


def prepare_decoder(stream: Any, path: Path, *, exact: bool = False) -> int:
    """Set the threads of a video stream's decoder; the memory in bytes that it then takes at most.

    Args:
        stream: Of an open file.
        path: Of the file, for messages.
        exact: Decode one frame after the other. Where several are decoded at once, FFmpeg may return a damaged frame
            before it has marked it.

    Raises:
        MemoryBudgetError: If that is more than there is.
    """
    context = stream.codec_context
    frame = _frame_bytes(context)
    threads = max(1, min(os.cpu_count() or 1, _THREADS_BYTES // max(frame, 1)))
    context.thread_type, context.thread_count = "SLICE" if exact else "AUTO", threads
    num_bytes = frame * (_HELD_FRAMES.get(context.name, _FEW_HELD_FRAMES) + threads - 1)
    _check(path, context.height, context.width, num_bytes)
    # A stream may turn to frames that its header does not tell of; much larger ones count as damaged. Without a size in
    # the header, frames of 8K are the largest.
    pixels = max(4 * context.width * context.height, 2**20) if context.width else 2**25
    context.options = {**context.options, "max_pixels": str(pixels)}
    return num_bytes


def check_image(path: Path, height: int, width: int) -> None:
    """Raise ``MemoryBudgetError`` for an image that takes more memory to decode than there is."""
    _check(path, height, width, height * width * _IMAGE_PIXEL_BYTES)


def _frame_bytes(context: Any) -> int:
    """Bytes of a decoded frame."""
    layout = context.format
    if layout is None:
        return int(context.width * context.height * _LARGEST_PIXEL_BITS // 8)
    total = 0
    for component in layout.components:
        total += component.width * component.height * (2 if component.bits > 8 else 1)
    # Decoders pad the sides of a frame.
    return total * 9 // 8


def open_options() -> dict[str, str]:
    """FFmpeg's options for opening a file, which may decode a frame to learn of its layout."""
    pixels = min((_BUDGET.get() or budget_bytes()) // _LARGEST_PIXEL_BITS * 8, _LARGEST_OPENED)
    return {"max_pixels": str(pixels)}


def _check(path: Path, height: int, width: int, num_bytes: int) -> None:
    budget = _BUDGET.get() or budget_bytes()
    if num_bytes > budget:
        raise MemoryBudgetError(
            f"{path} has {width}×{height} pixels: decoding it takes up to {num_bytes / GIB:.2f} GiB, and "
            f"{budget / GIB:.2f} GiB may be used. Make it smaller with another program first."
        )
