"""A film that is none, found while its frames pass by: one colour from end to end, or one frame over and over."""

from collections.abc import Iterator

import numpy as np

from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.media.frames import FrameStream


def validated(stream: FrameStream, *, moving: bool = False) -> FrameStream:
    """The same stream; after its last frame it raises if all of them were nothing.

    A writer that reads it to its end therefore never finishes such a file.

    Args:
        stream: Any stream.
        moving: Also expect two frames to differ, as those of a generated film do.

    Raises:
        OutputError: While it is read: if every pixel of every frame has the same colour, or (``moving``) every
            frame is the same.
    """
    return stream.replace(chunks=_checked(stream, moving))


def _checked(stream: FrameStream, moving: bool) -> Iterator[np.ndarray]:
    colour, first = None, None
    count, blank, frozen = 0, True, moving
    try:
        for chunk in stream:
            if len(chunk) and first is None:
                first, colour = chunk[0].copy(), chunk[0, 0, 0].copy()
            # Nothing is compared any more once the film is known to be one.
            blank = blank and bool((chunk == colour).all())
            frozen = frozen and bool((chunk == first).all())
            count += len(chunk)
            yield chunk
    finally:
        stream.close()
    if count and blank:
        raise OutputError(
            f"Every pixel of the film is {tuple(int(level) for level in colour)}: that is no film. "
            f"Try --fp32, other weights, or --force to keep it."
        )
    if frozen and count > 1:
        raise OutputError(
            f"All {count} frames are the same: that is no film. Try --fp32, another --seed, or --force to keep it."
        )
