"""Running layers over consecutive frames of a clip with the same result as over the whole clip.

A layer's ``start()`` begins a run and returns a ``Push``: it takes the next frames (or None) and whether they are the
last, and returns the frames that are complete by then (or None). A layer that looks one frame ahead is one frame
late, and the last push brings what is missing. A whole clip is a run of one push.
"""

from collections.abc import Callable, Iterable, Iterator

import mlx.core as mx

Push = Callable[[mx.array | None, bool], mx.array | None]


class FrameQueue:
    """Frames ``(B, T, H, W, C)`` that wait until a slower branch has caught up."""

    def __init__(self) -> None:
        self._waiting: mx.array | None = None

    def __len__(self) -> int:
        return 0 if self._waiting is None else self._waiting.shape[1]

    def put(self, frames: mx.array | None) -> None:
        """Add frames at the end."""
        self._waiting = join_frames(self._waiting, frames)

    def take(self, count: int) -> mx.array | None:
        """The first ``count`` frames, which leave the queue; None for no frames."""
        if count == 0:
            return None
        frames, length = self._waiting, len(self)
        self._waiting = None
        if count == length:
            return frames
        self._waiting = copy_frames(frames, count, length)
        mx.eval(self._waiting)
        return frames[:, :count]

    def first(self, count: int) -> mx.array:
        """The first ``count`` frames, which stay."""
        return self._waiting[:, :count]


def join_frames(*parts: mx.array | None) -> mx.array | None:
    """The given parts end to end in time; None where there are none."""
    present = [part for part in parts if part is not None]
    if len(present) < 2:
        return present[0] if present else None
    return mx.concatenate(present, axis=1)


def copy_frames(x: mx.array, start: int, stop: int) -> mx.array:
    """Frames ``start`` to ``stop`` in memory of their own: a slice would keep all of ``x`` alive."""
    return mx.take(x, mx.arange(start, stop), axis=1)


def in_turn(*steps: Push) -> Push:
    """One push through several, each taking what the one before it gives."""

    def push(frames: mx.array | None, last: bool) -> mx.array | None:
        for step in steps:
            frames = step(frames, last)
        return frames

    return push


def each_frame(function: Callable[[mx.array], mx.array]) -> Push:
    """A ``Push`` of a function that treats every frame by itself."""
    return lambda frames, last: None if frames is None else function(frames)


def run_frames(push: Push, chunks: Iterable[mx.array], most: int) -> Iterator[mx.array]:
    """Drive ``push`` over a clip, ``most`` frames at a time; yields what is complete, evaluated.

    Smaller chunks are gathered first, so that a clip of up to ``most`` frames is one push.
    """
    waiting = FrameQueue()
    for chunk in chunks:
        waiting.put(chunk)
        # Nothing here may hold frames while a later layer works on those that it yields.
        del chunk
        while len(waiting) > most:
            done = _evaluated(push(waiting.take(most), False))
            while done:
                yield done.pop()
    done = _evaluated(push(waiting.take(len(waiting)), True))
    while done:
        yield done.pop()


def in_steps(step: Callable[[mx.array, dict], mx.array], latents: Iterable[mx.array]) -> Iterator[mx.array]:
    """What ``step`` makes of each latent frame and of the past, which it keeps up to date; both evaluated.

    Args:
        step: Takes one latent frame ``(B, 1, H, W, C)`` and the past, empty at the clip's start.
        latents: Consecutive pieces of a clip's latent ``(B, T, H, W, C)``.
    """
    past: dict = {}
    for latent in latents:
        for i in range(latent.shape[1]):
            frames = step(latent[:, i : i + 1], past)
            mx.eval(frames, past)
            yield frames


def _evaluated(frames: mx.array | None) -> list[mx.array]:
    if frames is None:
        return []
    mx.eval(frames)
    return [frames]
