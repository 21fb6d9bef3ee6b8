"""The operations that networks spend their time in, each with its floating-point operations and its own time here."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

# The largest array that the measurement of a convolution makes; more frames of the same size have the same rate.
_MOST_ELEMENTS = 2**24
_KERNEL = 3

Clock = Callable[[], float]


@dataclass(frozen=True)
class Matmul:
    """``(rows, inner)`` times a weight ``(columns, inner)``, as linear layers multiply."""

    rows: int
    inner: int
    columns: int

    kind = "matmul"

    def __str__(self) -> str:
        return f"{self.rows}×{self.inner} by {self.inner}×{self.columns}"

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.rows * self.inner * self.columns

    def sample(self, dtype: mx.Dtype) -> tuple[Callable[[], mx.array], int]:
        """The operation on random numbers, and the floating-point operations that one call has."""
        x, weight = _random((self.rows, self.inner), dtype), _random((self.columns, self.inner), dtype)
        return lambda: x @ weight.T, self.flops


@dataclass(frozen=True)
class Attention:
    """Attention of ``queries`` tokens to ``keys`` tokens, softmax included, no mask."""

    queries: int
    keys: int
    heads: int
    head_dim: int

    kind = "attention"

    def __str__(self) -> str:
        return f"{self.queries} to {self.keys} tokens, {self.heads} heads of {self.head_dim}"

    @property
    def flops(self) -> int:
        """Of the two products; the softmax between them is not counted."""
        return 4 * self.queries * self.keys * self.heads * self.head_dim

    def sample(self, dtype: mx.Dtype) -> tuple[Callable[[], mx.array], int]:
        """As ``Matmul.sample``."""
        queries = _random((1, self.heads, self.queries, self.head_dim), dtype)
        keys, values = (_random((1, self.heads, self.keys, self.head_dim), dtype) for _ in range(2))
        scale = self.head_dim**-0.5
        return lambda: mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale), self.flops


@dataclass(frozen=True)
class Convolution:
    """A convolution by 3×3×3, or by 3×3 of every frame, that keeps the size."""

    frames: int
    height: int
    width: int
    inputs: int
    outputs: int
    in_time: bool = True

    kind = "convolution"

    def __str__(self) -> str:
        kernel = "3×3×3" if self.in_time else "3×3"
        return f"{kernel}, {self.frames}×{self.height}×{self.width}, {self.inputs} to {self.outputs} channels"

    @property
    def flops(self) -> int:
        """Multiplications and additions, those with zeros beyond the border included."""
        return self._frame_flops * self.frames

    @property
    def _frame_flops(self) -> int:
        return 2 * _KERNEL ** (3 if self.in_time else 2) * self.height * self.width * self.inputs * self.outputs

    def sample(self, dtype: mx.Dtype) -> tuple[Callable[[], mx.array], int]:
        """As ``Matmul.sample``, over as many of the frames as are moderate in memory."""
        each = self.height * self.width * max(self.inputs, self.outputs)
        frames = min(self.frames, max(1, _MOST_ELEMENTS // each))
        halo = _KERNEL - 1 if self.in_time else 0
        clip = _random((1, frames + halo, self.height, self.width, self.inputs), dtype)
        if self.in_time:
            weight = _random((self.outputs, *[_KERNEL] * 3, self.inputs), dtype)
            return lambda: mx.conv3d(clip, weight, padding=(0, 1, 1)), self._frame_flops * frames
        weight = _random((self.outputs, *[_KERNEL] * 2, self.inputs), dtype)
        return lambda: mx.conv2d(clip[0], weight, padding=1), self._frame_flops * frames


Operation = Matmul | Attention | Convolution


def rate(operation: Operation, dtype: mx.Dtype, seconds: float = 0.3, clock: Clock = time.perf_counter) -> float:
    """Floating-point operations in a second that MLX reaches when it does nothing else; the best of some calls.

    Args:
        operation: What to do.
        dtype: Of the arrays.
        seconds: How long to repeat it, at least two times.
        clock: What tells the time: of the wall, or of this process alone.
    """
    call, flops = operation.sample(dtype)
    mx.eval(call())
    best, calls, start = math.inf, 0, clock()
    while calls < 2 or clock() - start < seconds:
        begin = clock()
        mx.eval(call())
        best, calls = min(best, clock() - begin), calls + 1
    return flops / best


def _random(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    array = mx.random.normal(shape, key=mx.random.key(0)).astype(dtype)
    mx.eval(array)
    return array
