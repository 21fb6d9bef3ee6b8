"""Convolutions over time, and the state for running layers over a clip piece by piece as over the whole clip.

Axis 1 is time in every array: frames ``(B, T, H, W, C)``, spectra ``(B, T, M, C)`` or samples ``(B, S, C)``.
A layer is called as ``layer(x, state)`` with the next frames and returns the frames that are complete by then. Either
may hold none, which is an array with T = 0. A layer that looks at later frames runs behind its input; the piece that
comes while ``state.last`` is true brings what is left.

A network gives every layer a state of its own, by name or by number, as mlx-lm gives every block a cache::

    def __call__(self, x, state=WHOLE_CLIP):
        h = self.conv1(activate(x), state["conv1"])
        h = self.conv2(activate(h), state["conv2"])
        return state.checkpoint(state.delay(x, h.shape[1]) + h)

A layer finds in its own state what it needs: ``window`` for any kernel over time, ``delay`` for a branch that is faster
than its neighbour, ``split_start`` for a rule about the clip's first frames. A convolution with kernel K and stride S
runs on ``window(x, K, stride=S, ...)``. A transposed one, of which an output looks at K inputs, runs on
``window(x, K, before=K - 1, padding="zeros")`` and keeps the S samples that each position completes.

With ``WHOLE_CLIP``, the default, x is the clip: nothing is kept and nothing is evaluated, so that a network stays one
graph, which MLX can compile and differentiate.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.ops.conv import conv3d_3x3x3, pad_edge, pad_mirror
from LTX_2_MLX.ops.device import on_cpu, queued_if_large

Layer = Callable[[mx.array, "StreamState"], mx.array]
TimePadding = Literal["edge", "zeros"]
# Frames of a clip, and whether they are its last.
Piece = tuple[mx.array, bool]
SpatialPadding = Literal["zeros", "reflect"]
_KERNEL = 3
# macOS ends a command buffer that holds the GPU for about five seconds: this is under two of an M1 Max.
_LAUNCH_OPERATIONS = 8e12


@dataclass(eq=False)
class StreamState:
    """Frames that a layer and the layers inside it keep between consecutive pieces of one clip.

    Attributes:
        last: Whether no piece follows the one that comes with this state.
    """

    last: bool = False
    _children: "dict[Hashable, StreamState]" = field(default_factory=dict)
    _frames: dict[str, mx.array] = field(default_factory=dict)
    _num_started: int = 0
    # One list for a state and all states inside it.
    _unevaluated: list[mx.array] = field(default_factory=list)

    def __getitem__(self, name: Hashable) -> "StreamState":
        """The state of an inner layer, or of one of several passes such as a tile's."""
        if name not in self._children:
            self._children[name] = StreamState(_unevaluated=self._unevaluated)
        self._children[name].last = self.last
        return self._children[name]

    def window(
        self,
        x: mx.array,
        kernel: int,
        *,
        stride: int = 1,
        before: int = 0,
        after: int = 0,
        padding: TimePadding = "edge",
    ) -> mx.array:
        """The frames that an operation with a kernel over time reads for its next outputs.

        Args:
            x: The next frames.
            kernel: Frames that one output reads.
            stride: Frames from one output to the next.
            before: Frames put in front of the clip.
            after: Frames put behind the clip.
            padding: What these are: copies of the first and the last frame, or zeros.

        Returns:
            Frames kept from earlier pieces and frames of ``x``, ``kernel + (n - 1) * stride`` of them for n outputs;
            T = 0 if no output is complete.
        """
        earlier = self._frames.get("window")
        frames = x if earlier is None else join_frames(earlier, x)
        if frames.shape[1] and (earlier is None or self.last):
            in_front = before if earlier is None else 0
            behind = after if self.last else 0
            if padding == "edge":
                frames = pad_edge(frames, 1, before=in_front, after=behind)
            else:
                frames = mx.pad(frames, [(0, 0), (in_front, behind), *[(0, 0)] * (frames.ndim - 2)])
        num_outputs = max(0, (frames.shape[1] - kernel) // stride + 1)
        self._keep("window", frames, num_outputs * stride)
        num_read = kernel + (num_outputs - 1) * stride if num_outputs else 0
        return frames[:, :num_read]

    def delay(self, x: mx.array, num_frames: int) -> mx.array:
        """The oldest ``num_frames`` frames that have not been returned yet; the others wait.

        ``num_frames`` is the length of the slower branch's result, to which these are added.
        """
        earlier = self._frames.get("delay")
        frames = x if earlier is None else join_frames(earlier, x)
        self._keep("delay", frames, num_frames)
        return frames[:, :num_frames]

    def split_start(self, x: mx.array, count: int) -> tuple[mx.array, mx.array]:
        """``x`` in two: those of its frames that are among the clip's first ``count``, and the others."""
        length = min(count - self._num_started, x.shape[1])
        if not self.last:
            self._num_started += length
        return x[:, :length], x[:, length:]

    def each_frame(self, function: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
        """``function(x)``, of a function that treats every frame alone: frame by frame, to hold one at a time."""
        if x.shape[1] < 2:
            return function(x)
        frames = []
        for index in range(x.shape[1]):
            frames.append(self.checkpoint(function(x[:, index : index + 1])))
        return mx.concatenate(frames, axis=1)

    def checkpoint(self, x: mx.array) -> mx.array:
        """``x``, evaluated together with the frames that layers keep.

        Layers call it where a longer graph would only cost memory. Frames kept lazily would hold all of the piece
        that they come from.
        """
        mx.eval(x, self._unevaluated)
        self._unevaluated.clear()
        return x

    def _keep(self, slot: str, frames: mx.array, start: int) -> None:
        if self.last or frames.shape[1] == 0:
            return
        kept = copy_frames(frames, start, frames.shape[1])
        self._frames[slot] = kept
        self._unevaluated.append(kept)


@dataclass(eq=False)
class _WholeClip(StreamState):
    """The state of a run of one piece, which is the clip: keeps nothing, evaluates nothing, may be shared."""

    last: bool = True

    def __getitem__(self, name: Hashable) -> StreamState:
        return self

    def each_frame(self, function: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
        return function(x)

    def checkpoint(self, x: mx.array) -> mx.array:
        return x


WHOLE_CLIP: StreamState = _WholeClip()


def take_frames(waiting: list[mx.array], count: int) -> mx.array:
    """The first ``count`` frames of the pieces that wait for their turn; what is left of them waits on as one piece."""
    frames = waiting[0] if len(waiting) == 1 else join_frames(*waiting)
    waiting.clear()
    if count < frames.shape[1]:
        waiting.append(copy_frames(frames, count, frames.shape[1]))
        mx.eval(waiting)
    return frames[:, :count]


def stream_layer(
    layer: Layer, chunks: Iterable[mx.array], most: int, state: StreamState | None = None
) -> Iterator[mx.array]:
    """Run ``layer`` over a clip, at most ``most`` frames at a time; yields what each piece completes, evaluated.

    The clip comes in consecutive chunks of any lengths. Smaller ones are gathered first, so that a clip of up to
    ``most`` frames is one piece. A chain of generators, one for each layer, holds little: a piece goes all the way
    before the next one starts. ``state.last`` tells of the piece that was yielded.
    """
    state = StreamState() if state is None else state
    waiting: list[mx.array] = []
    length = 0
    for chunk in chunks:
        waiting.append(chunk)
        length += chunk.shape[1]
        # Nothing here may hold frames while a later layer works on those that it yields.
        del chunk
        while length > most:
            length -= most
            yield state.checkpoint(layer(take_frames(waiting, most), state))
    if length:
        state.last = True
        yield state.checkpoint(layer(take_frames(waiting, length), state))


def stream_pieces(layer: Layer, chunks: Iterable[mx.array], most: int) -> Iterator[Piece]:
    """The pieces of ``stream_layer``, each with whether it is the last."""
    state = StreamState()
    for piece in stream_layer(layer, chunks, most, state):
        yield piece, state.last
        del piece


def continue_pieces(layer: Layer, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Run ``layer`` over a clip in the pieces that it comes in."""
    state = StreamState()
    for piece, last in pieces:
        state.last = last
        yield state.checkpoint(layer(piece, state)), last
        del piece


def joined_steps(steps: Sequence[Layer]) -> Layer:
    """Layers one after another on every piece, as one layer."""
    if len(steps) == 1:
        return steps[0]

    def layer(x: mx.array, state: StreamState) -> mx.array:
        for number, step in enumerate(steps):
            x = step(x, state[number])
        return x

    return layer


def join_frames(*pieces: mx.array) -> mx.array:
    """Consecutive pieces, at least one, end to end in time."""
    with_frames = [piece for piece in pieces if piece.shape[1]]
    if len(with_frames) > 1:
        return mx.concatenate(with_frames, axis=1)
    return with_frames[0] if with_frames else pieces[0]


def copy_frames(x: mx.array, start: int, stop: int) -> mx.array:
    """Frames ``start`` to ``stop`` in memory of their own: a slice would keep all of ``x`` alive."""
    return mx.take(x, mx.arange(start, stop), axis=1)


@dataclass(frozen=True)
class Padding:
    """What a ``CausalConv3d`` reads beyond the ends of a clip and the borders of its frames.

    Attributes:
        causal: Two copies of the first frame in front. Otherwise one in front and one of the last frame behind.
        spatial: What lies one pixel beyond the border; ``reflect`` leaves out the edge pixel itself.
    """

    causal: bool
    spatial: SpatialPadding


class CausalConv3d(nn.Module):
    """A convolution by 3×3×3 whose padding in time repeats the edge frames.

    Shape:
        ``(B, T, H, W, C)`` -> ``(B, T, H, W, O)``.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/convolution.py at 400fd31.
    """

    def __init__(self, in_channels: int, out_channels: int, padding: Padding):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size=_KERNEL)
        self.frames_ahead = 0 if padding.causal else 1
        self.spatial_padding = padding.spatial

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        before = _KERNEL - 1 - self.frames_ahead
        window = state.window(x, _KERNEL, before=before, after=self.frames_ahead)
        zeros = 1 if self.spatial_padding == "zeros" else 0
        if not zeros:
            window = pad_mirror(pad_mirror(window, 2), 3)
        return state.checkpoint(conv3d_3x3x3(window, self.conv.weight, self.conv.bias, spatial_padding=zeros))


def convolve_zero_padded(conv: nn.Conv3d, x: mx.array) -> mx.array:
    """``(B, T, H, W, C)`` to ``(B, T, H, W, O)`` by a kernel of three, one zero on each side of every axis."""
    padded = mx.pad(x, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)])
    return conv3d_3x3x3(padded, conv.weight, conv.bias, spatial_padding=1)


def convolve_each(conv: nn.Conv2d, x: mx.array) -> mx.array:
    """Every frame of ``(B, T, H, W, C)`` by itself."""
    if x.shape[1] > 1 and not is_one_launch(conv, x):
        frames = [queued_if_large(convolve_each(conv, x[:, i : i + 1])) for i in range(x.shape[1])]
        return mx.concatenate(frames, axis=1)
    y = conv(x.reshape(-1, *x.shape[2:]))
    return y.reshape(*x.shape[:2], *y.shape[1:])


def is_one_launch(conv: nn.Conv2d | nn.Conv3d, x: mx.array) -> bool:
    """Whether a GPU may compute a convolution of ``(B, T, H, W, C)`` at once, or should do frame after frame."""
    return on_cpu() or 2 * math.prod(x.shape[:-1]) * math.prod(conv.weight.shape) <= _LAUNCH_OPERATIONS
