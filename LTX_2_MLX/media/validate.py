"""Detects blank or frozen output while frames stream through."""

from collections.abc import Iterator

import numpy as np

from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.media.frames import FrameStream


def validated(stream: FrameStream, *, moving: bool = False) -> FrameStream:
    """Return the same stream, which raises after its last frame if the whole output is blank.

    A writer that reads it to its end therefore never finishes such a file.

    Args:
        stream: Any stream of chunks ``(T, H, W, 3)`` uint8.
        moving: Also require at least two different frames, as in a generated video.

    Raises:
        OutputError: While it is read, if every pixel of every frame has the same colour, or (``moving``) if all
            frames are identical.
    """
    return stream.replace(chunks=_validated_chunks(stream, moving))


def _validated_chunks(stream: FrameStream, moving: bool) -> Iterator[np.ndarray]:
    check = _BlankCheck(moving)
    try:
        for chunk in stream:
            check.add(chunk)
            yield chunk
    finally:
        stream.close()
    check.finish()


class _BlankCheck:
    """What all frames so far have in common: one colour, or one image."""

    def __init__(self, moving: bool):
        self._moving = moving
        self._first: np.ndarray | None = None
        self._num_frames = 0
        self._blank = True
        self._frozen = True

    def add(self, chunk: np.ndarray) -> None:
        """Compare frames ``(T, H, W, 3)`` uint8 with the first one."""
        if not len(chunk):
            return
        if self._first is None:
            self._first = chunk[0].copy()
        self._num_frames += len(chunk)
        # Comparisons stop as soon as one pixel differs.
        self._blank = self._blank and bool((chunk == self._first[0, 0]).all())
        self._frozen = self._moving and self._frozen and bool((chunk == self._first).all())

    def finish(self) -> None:
        """Raise ``OutputError`` if the frames are blank, or frozen where motion is expected."""
        if self._first is None:
            return
        if self._blank:
            color = tuple(int(level) for level in self._first[0, 0])
            raise OutputError(
                f"The output is blank: every pixel is {color}. Try --fp32, other weights, or --allow-blank to keep it."
            )
        if self._frozen and self._num_frames > 1:
            raise OutputError(
                f"The output is frozen: all {self._num_frames} frames are identical. "
                f"Try --fp32, another --seed, or --allow-blank to keep it."
            )
