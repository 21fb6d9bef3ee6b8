"""Records what a network's call asks MLX to do, from shapes alone: nothing is computed.

MLX is lazy: a call builds its graph and evaluates it in pieces. Here the evaluations only end a piece, so a network of
any size is walked through in seconds, with arrays that have a shape and no values.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from LTX_2_MLX.layers.transformer import modulate

# Floating-point operations per second of MLX's kernels on an M1 Max in 16 bit.
# Source: dmlsrc/LTX-2-MLX, PERFORMANCE_NOTES and VSR_PERFORMANCE_NOTES (matrix products, attention with heads of 128,
# convolutions in time).
M1_MAX_RATES = {"matmul": 7.95e12, "attention": 5.95e12, "convolution": 4.5e12}

# A piece of work: floating-point operations by kind.
Piece = Counter[str]
_MOVES = ("concatenate", "pad", "repeat", "take", "contiguous", "stack")
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_general", "conv_transpose1d", "conv_transpose2d")


@dataclass(frozen=True)
class ConvolutionCall:
    """One convolution: MLX's function, the shapes of input, weight and result, and the function's other arguments."""

    function: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    result: tuple[int, ...]
    options: tuple[Any, ...]
    item_bytes: int


@dataclass
class WorkRecord:
    """What a call asked for.

    Attributes:
        pieces: The work between two evaluations, one after another; the last one is what the caller would evaluate.
        largest_launches: Floating-point operations of the largest single product, attention and convolution.
        largest_array: Bytes of the largest array that a product, a move or an evaluation reads or makes.
        largest_shape: Its shape.
        convolutions: All of them, in order.
    """

    pieces: list[Piece] = field(default_factory=lambda: [Counter()])
    largest_launches: Piece = field(default_factory=Counter)
    largest_array: int = 0
    largest_shape: tuple[int, ...] = ()
    convolutions: list[ConvolutionCall] = field(default_factory=list)

    @property
    def longest(self) -> Piece:
        """The piece that takes the longest on an M1 Max."""
        return max(self.pieces, key=seconds_on_m1_max)

    @property
    def total(self) -> int:
        """Floating-point operations of the whole call."""
        return sum(piece.total() for piece in self.pieces)

    def count(self, kind: str, operations: int) -> None:
        """Add to the piece at work."""
        self.pieces[-1][kind] += operations
        self.largest_launches[kind] = max(self.largest_launches[kind], operations)

    def see(self, value: Any) -> None:
        """Remember an array if it is the largest so far."""
        if isinstance(value, mx.array) and value.nbytes > self.largest_array:
            self.largest_array = value.nbytes
            self.largest_shape = tuple(value.shape)

    def end_piece(self, *arrays: Any) -> None:
        """What stands for an evaluation."""
        for _, array in tree_flatten(list(arrays)):  # type: ignore[str-unpack]
            self.see(array)
        if self.pieces[-1]:
            self.pieces.append(Counter())


def seconds_on_m1_max(piece: Piece) -> float:
    """Seconds of a piece of work at the published rates of an M1 Max."""
    return sum(operations / M1_MAX_RATES[kind] for kind, operations in piece.items())


@contextmanager
def recorded_work() -> Iterator[WorkRecord]:
    """Record all calls in this process while inside. Nothing may ask for an array's values meanwhile."""
    record = WorkRecord()
    replaced: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, wrap: Callable[[WorkRecord, Any], Any]) -> None:
        own = getattr(owner, name)
        replaced.append((owner, name, own))
        setattr(owner, name, wrap(record, own))

    for name in ("eval", "async_eval"):
        replace(mx, name, lambda record, own: record.end_piece)
    for name in ("matmul", "addmm", "quantized_matmul", "gather_mm"):
        replace(mx, name, partial(_counted, "matmul", _PRODUCTS[name]))
    replace(mx.array, "__matmul__", lambda record, own: lambda a, b: mx.matmul(a, b))
    replace(mx.fast, "scaled_dot_product_attention", partial(_counted, "attention", _attention))
    for name in _CONVOLUTIONS:
        replace(mx, name, partial(_counted, "convolution", partial(_convolution, record, name)))
    for name in _MOVES:
        replace(mx, name, partial(_counted, "", None))
    replace(mx.array, "astype", partial(_counted, "", None))
    try:
        yield record
    finally:
        for owner, name, own in reversed(replaced):
            setattr(owner, name, own)


def _counted(kind: str, operations: Callable[..., int] | None, record: WorkRecord, own: Any) -> Any:
    """``own`` with its operations and its arrays recorded."""

    def call(*args: Any, **options: Any) -> mx.array:
        result: mx.array = own(*args, **options)
        if _in_fused_function(sys._getframe(1)):
            return result
        for value in (*args, result):
            record.see(value)
        if operations is not None:
            record.count(kind, operations(result, *args, **options))
        return result

    return call


def _in_fused_function(frame: FrameType) -> bool:
    """Whether a frame is a function that one kernel computes: its values in between are never in memory."""
    return frame.f_back is not None and frame.f_back.f_code is modulate.__code__


def _matmul(result: mx.array, x: mx.array, other: mx.array, *rest: Any, **options: Any) -> int:
    return int(2 * result.size * x.shape[-1])


def _addmm(result: mx.array, added: mx.array, x: mx.array, *rest: Any, **options: Any) -> int:
    return int(2 * result.size * x.shape[-1])


_PRODUCTS = {"matmul": _matmul, "addmm": _addmm, "quantized_matmul": _matmul, "gather_mm": _matmul}


def _attention(result: mx.array, queries: mx.array, keys: mx.array, *rest: Any, **options: Any) -> int:
    return int(4 * queries.size * keys.shape[2])


def _convolution(
    record: WorkRecord, name: str, result: mx.array, x: mx.array, weight: mx.array, *rest: Any, **options: Any
) -> int:
    given = (*rest, *sorted(options.items()))
    call = ConvolutionCall(name, tuple(x.shape), tuple(weight.shape), tuple(result.shape), given, x.itemsize)
    record.convolutions.append(call)
    values = x.size * weight.shape[0] if "transpose" in name else result.size * weight.shape[-1]
    return int(values * 2 * math.prod(weight.shape[1:-1]))
