"""Blocks of LTX-2.5's diffusion decoder, which run over a clip a few frames at a time.

A clip is a list of consecutive pieces ``(B, t, H, W, C)``. A block puts its results into the list as it goes, so that a
clip is in memory once, beside the keys and values of the frames around the piece at hand.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/transformer at 400fd31.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.models.ltx.diffusion_decoder_config import Axes, UpsampleSpec
from LTX_2_MLX.ops.activation import silu
from LTX_2_MLX.ops.conv import pixel_shuffle
from LTX_2_MLX.ops.neighborhood_attention import FrameSpan, neighborhood_attention

# "combined": attention over the whole width, as the kernels for CUDA compute it. "chunked": the published pipelines'
# default, four slabs of the width in stage 5, whose outer columns see repeated ones.
AttentionMode = Literal["chunked", "combined"]
Pieces = list[mx.array]

NORM_EPS = 1e-6
MLP_RATIO = 4
MODULATION_ROWS = 7
NUM_SLABS = 4
# Tokens of a feed-forward pass: its hidden layer is four times as wide as the tokens.
MLP_TOKENS = 32768
# Frames of a piece are a multiple of this, the frames of a block of queries.
PIECE_STEP = 4
_ROPE_BASE = 10000.0


def num_frames_of(pieces: Sequence[mx.array]) -> int:
    """Frames of all pieces."""
    return sum(piece.shape[1] for piece in pieces)


def piece_frames(height: int, width: int, tokens: int) -> int:
    """Frames of a piece of about so many tokens."""
    return max(tokens // (height * width) // PIECE_STEP, 1) * PIECE_STEP


def in_pieces(x: mx.array, tokens: int) -> Pieces:
    """A clip ``(B, T, H, W, C)`` as pieces of about so many tokens, each with memory of its own."""
    frames = piece_frames(x.shape[2], x.shape[3], tokens)
    pieces = [mx.contiguous(x[:, start : start + frames]) for start in range(0, x.shape[1], frames)]
    mx.eval(pieces)
    return pieces


def split_again(pieces: Pieces, tokens: int) -> Pieces:
    """The same frames in pieces of about so many tokens; the given list is emptied on the way."""
    smaller = []
    while pieces:
        smaller += in_pieces(pieces.pop(0), tokens)
    return smaller


def between(pieces: Pieces, start: int, stop: int) -> Pieces:
    """Frames ``[start, stop)``."""
    kept = []
    position = 0
    for piece in pieces:
        part = piece[:, max(start - position, 0) : max(stop - position, 0)]
        position += piece.shape[1]
        if part.shape[1]:
            kept.append(mx.contiguous(part))
    mx.eval(kept)
    return kept


class NeighborhoodAttention(nn.Module):
    """Self-attention to a window of neighbours, with normed queries and keys and rotary positions."""

    def __init__(self, width: int, kernel: Axes, head_dim: int):
        super().__init__()
        self.kernel = kernel
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(head_dim, eps=NORM_EPS)
        self.k_norm = nn.RMSNorm(head_dim, eps=NORM_EPS)
        self.proj = nn.Linear(width, width)

    def __call__(self, pieces: Iterable[mx.array], num_frames: int, first_column: int = 0) -> Iterator[mx.array]:
        """Attention of one piece after another, each as soon as the frames that it sees have been read.

        Args:
            pieces: Consecutive frames of a clip.
            num_frames: Of all pieces.
            first_column: Position of the first column in the whole width.
        """
        waiting: deque[tuple[int, mx.array]] = deque()
        keys, values = None, None
        first_key = 0
        position = 0
        for piece in pieces:
            queries, new_keys, new_values = self._project(piece, position, first_column)
            waiting.append((position, queries))
            position += piece.shape[1]
            keys = _appended(keys, new_keys)
            values = _appended(values, new_values)
            # What is not needed while this waits to go on would stay in memory.
            del piece, queries, new_keys, new_values
            while waiting and self._first_seen(waiting[0], num_frames)[1] <= position:
                begin, _ = self._first_seen(waiting[0], num_frames)
                keys, values = keys[:, begin - first_key :], values[:, begin - first_key :]
                first_key = begin
                span = FrameSpan(waiting[0][0], first_key, num_frames)
                yield self._attend(waiting.popleft()[1], keys, values, span)

    def _attend(self, queries: mx.array, keys: mx.array, values: mx.array, span: FrameSpan) -> mx.array:
        attended = neighborhood_attention(queries, keys, values, self.kernel, span=span)
        return self.proj(attended.reshape(*attended.shape[:4], -1))

    def _first_seen(self, queries: tuple[int, mx.array], num_frames: int) -> tuple[int, int]:
        """First frame that queries from a position see, and the one after their last."""
        position, rows = queries
        starts = FrameSpan(position, 0, num_frames).window_starts(rows.shape[1], self.kernel[0])
        return int(starts[0]), int(starts[-1]) + self.kernel[0]

    def _project(self, x: mx.array, position: int, first_column: int) -> tuple[mx.array, mx.array, mx.array]:
        """Queries, keys and values ``(B, T, H, W, heads, D)`` of frames that begin at a position, evaluated."""
        parts = mx.split(self.qkv(x), 3, axis=-1)
        queries, keys, values = (part.reshape(*x.shape[:-1], -1, self.head_dim) for part in parts)
        tables = rotary_tables(x.shape[1:4], self.head_dim, (position, 0, first_column))
        queries = rotate(self.q_norm(queries) * self.head_dim**-0.5, tables)
        keys = rotate(self.k_norm(keys), tables)
        # Parts of one array would keep all of it.
        values = mx.contiguous(values)
        mx.eval(queries, keys, values)
        return queries, keys, values


def _appended(before: mx.array | None, frames: mx.array) -> mx.array:
    joined = frames if before is None else mx.concatenate([before, frames], axis=1)
    mx.eval(joined)
    return joined


class SwiGLU(nn.Module):
    """Gated feed-forward layer, computed for a bounded number of tokens at a time."""

    def __init__(self, width: int):
        super().__init__()
        hidden = -(-MLP_RATIO * width // 16) * 16
        self.w_gate = nn.Linear(width, hidden, bias=False)
        self.w_up = nn.Linear(width, hidden, bias=False)
        self.w_down = nn.Linear(hidden, width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        tokens = x.reshape(-1, x.shape[-1])
        outputs = []
        for start in range(0, tokens.shape[0], MLP_TOKENS):
            chunk = tokens[start : start + MLP_TOKENS]
            outputs.append(self.w_down(silu(self.w_gate(chunk)) * self.w_up(chunk)))
            mx.eval(outputs[-1])
        return mx.concatenate(outputs).reshape(x.shape)


class NABlock(nn.Module):
    """Attention and feed-forward layer, each added to its input."""

    def __init__(self, width: int, kernel: Axes, head_dim: int):
        super().__init__()
        self.norm1 = nn.RMSNorm(width, eps=NORM_EPS)
        self.attn = NeighborhoodAttention(width, kernel, head_dim)
        self.norm2 = nn.RMSNorm(width, eps=NORM_EPS)
        self.mlp = SwiGLU(width)

    def __call__(self, pieces: Pieces) -> None:
        """Replace every piece by the block's result."""
        attended = self.attn(map(self.norm1, pieces), num_frames_of(pieces))
        for number, update in enumerate(attended):
            x = pieces[number] + update
            pieces[number] = x + self.mlp(self.norm2(x))
            mx.eval(pieces[number])


class LinearUpsample(nn.Module):
    """Linear layer and pixel shuffle.

    Where time is doubled, the frame that the clip's first one would add is left out.
    """

    def __init__(self, width: int, spec: UpsampleSpec):
        super().__init__()
        self.stride = spec.stride
        self.proj = nn.Linear(width, width // spec.reduction * int(np.prod(spec.stride)))

    def __call__(self, pieces: Pieces, starts_clip: bool = True) -> None:
        """Replace every piece by the layer's result."""
        for number, piece in enumerate(pieces):
            x = pixel_shuffle(self.proj(piece), self.stride)
            if number == 0 and self.stride[0] == 2 and starts_clip:
                x = mx.contiguous(x[:, 1:])
            mx.eval(x)
            pieces[number] = x


class DiffusionNABlock(nn.Module):
    """Block of the diffusion stage: context added, attention and feed-forward layer modulated by the noise level."""

    def __init__(self, width: int, context_width: int, kernel: Axes, head_dim: int):
        super().__init__()
        self.context_proj = nn.Linear(context_width, width)
        self.scale_shift_table = mx.zeros((MODULATION_ROWS, width))
        self.norm1 = nn.RMSNorm(width, eps=NORM_EPS)
        self.attn = NeighborhoodAttention(width, kernel, head_dim)
        self.norm2 = nn.RMSNorm(width, eps=NORM_EPS)
        self.mlp = SwiGLU(width)

    def __call__(self, pieces: Pieces, context: Sequence[mx.array], modulation: mx.array, mode: AttentionMode) -> None:
        """Replace every piece by the block's result.

        Args:
            pieces: ``(B, t, H, W, C)`` each.
            context: For each piece ``(B, t, H, W, context width)``.
            modulation: ``(B, 7, C)``: scale, shift, unused; scale, shift, unused; unused.
            mode: See ``AttentionMode``.
        """
        rows = (modulation + self.scale_shift_table.astype(modulation.dtype))[:, :, None, None, None]
        attention_scale, attention_shift, _, mlp_scale, mlp_shift, _, _ = (rows[:, i] for i in range(MODULATION_ROWS))
        for number, piece in enumerate(context):
            pieces[number] = pieces[number] + self.context_proj(piece)
            mx.eval(pieces[number])

        def attend(columns: Iterable[mx.array], first_column: int = 0) -> Iterator[mx.array]:
            modulated = (self.norm1(x) * (1 + attention_scale) + attention_shift for x in columns)
            return self.attn(modulated, num_frames_of(pieces), first_column)

        slabs = [] if mode == "combined" else slabs_of(pieces[0].shape[3], self.attn.kernel[2] // 2)
        attended = attend(pieces) if mode == "combined" else _in_slabs(pieces, slabs, attend)
        for number, update in enumerate(attended):
            x = pieces[number] + update
            pieces[number] = x + self.mlp(self.norm2(x) * (1 + mlp_scale) + mlp_shift)
            mx.eval(pieces[number])


@dataclass(frozen=True)
class Slab:
    """Columns ``[start, stop)`` of the width with the ones beside them that they see.

    Attributes:
        left: First column on the left that is there.
        right: End of the columns on the right that are there.
        repeated_left: Copies of the first column in front, at the edge of the width.
        zeros_left: Columns of zeros in front, where the left neighbour is too narrow.
        repeated_right: Copies of the slab's last column behind.
    """

    start: int
    stop: int
    left: int
    right: int
    repeated_left: int
    zeros_left: int
    repeated_right: int

    def of(self, x: mx.array) -> mx.array:
        """The slab's columns of ``(B, T, H, W, C)``."""
        parts = []
        if self.repeated_left:
            parts.append(mx.repeat(x[:, :, :, :1], self.repeated_left, axis=3))
        if self.zeros_left:
            parts.append(mx.zeros((*x.shape[:3], self.zeros_left, x.shape[4]), x.dtype))
        parts.append(x[:, :, :, self.left : self.right])
        if self.repeated_right:
            parts.append(mx.repeat(x[:, :, :, self.stop - 1 : self.stop], self.repeated_right, axis=3))
        return mx.concatenate(parts, axis=3)


def slabs_of(width: int, halo: int) -> list[Slab]:
    """Slabs of a width, each as wide as the others with ``halo`` columns on both sides.

    Where there is no neighbour the slab's own outer column is repeated; columns that a left neighbour is too narrow to
    give are zero.
    """
    size = -(-width // NUM_SLABS)
    slabs = []
    for start in range(0, width, size):
        stop = min(start + size, width)
        left = max(start - min(halo, size), 0)
        right = min(stop + halo, width)
        missing = halo - (start - left)
        slabs.append(
            Slab(
                start=start,
                stop=stop,
                left=left,
                right=right,
                repeated_left=missing if start == 0 else 0,
                zeros_left=missing if start > 0 else 0,
                repeated_right=size + halo - (right - start),
            )
        )
    return slabs


def _in_slabs(pieces: Pieces, slabs: Sequence[Slab], attend: "_Attend") -> Iterator[mx.array]:
    """Attention of one piece after another, in slabs of the width."""
    streams = []
    for slab in slabs:
        halo = slab.start - slab.left + slab.repeated_left + slab.zeros_left
        streams.append((attend(map(slab.of, pieces), slab.start - halo), halo, slab))
    for _ in range(len(pieces)):
        outputs = []
        for stream, halo, slab in streams:
            outputs.append(next(stream)[:, :, :, halo : halo + slab.stop - slab.start])
            mx.eval(outputs[-1])
        yield mx.concatenate(outputs, axis=3)


class _Attend(Protocol):
    def __call__(self, columns: Iterable[mx.array], first_column: int = 0) -> Iterator[mx.array]: ...


def rotary_split(head_dim: int) -> Axes:
    """Channels of a head that carry the position in time, height and width."""
    time = head_dim // 4 // 2 * 2
    space = (head_dim - time) // 2
    if space % 2:
        time -= 2
        space = (head_dim - time) // 2
    return time, space, space


def rotary_tables(shape: Sequence[int], head_dim: int, first: Axes = (0, 0, 0)) -> tuple[mx.array, mx.array]:
    """Cosines and sines ``(T, H, W, 1, head_dim / 2)`` of positions from ``first`` on along each axis, float32."""
    cosines: Pieces = []
    sines: Pieces = []
    for axis, (length, width) in enumerate(zip(shape, rotary_split(head_dim), strict=True)):
        positions = np.arange(length, dtype=np.float32) + np.float32(first[axis])
        frequencies = (1.0 / _ROPE_BASE ** (np.arange(0, width, 2) / width)).astype(np.float32)
        table = mx.array(positions[:, None] * frequencies)
        view = [1, 1, 1, table.shape[1]]
        view[axis] = length
        for tables, values in ((cosines, mx.cos(table)), (sines, mx.sin(table))):
            tables.append(mx.broadcast_to(values.reshape(view), (*shape, table.shape[1])))
    return mx.concatenate(cosines, axis=-1)[..., None, :], mx.concatenate(sines, axis=-1)[..., None, :]


def rotate(x: mx.array, tables: tuple[mx.array, mx.array]) -> mx.array:
    """Rotate adjacent pairs of channels of ``(B, T, H, W, heads, D)``, in float32."""
    cosines, sines = tables
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    even = pairs[..., 0]
    odd = pairs[..., 1]
    rotated = mx.stack([even * cosines - odd * sines, even * sines + odd * cosines], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)
