"""Exchange of arrays between the processes of one run, each of which computes a share of the work.

Collectives match by order alone: every process has to evaluate the same ones in the same order, or they exchange the
wrong arrays without an error. A checked group sends a counter along, which finds that.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from LTX_2_MLX.files import parse_json
from LTX_2_MLX.ops.cpu.rows import BLOCK, fewest_rows
from LTX_2_MLX.ops.device import on_cpu

Task = TypeVar("Task")

_COUNTER_BYTES = 4
# Before a piece of a stream: whether it is the last, its type, the number of its axes, and their lengths.
_PIECE_HEADER = 12
_PIECE_TYPES = (mx.float32, mx.float16, mx.bfloat16)


class CollectiveOrderError(RuntimeError):
    """Two processes evaluated collectives in different orders."""


@dataclass
class Group:
    """The processes of one run. A group of one exchanges nothing.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        handle: MLX's group; None for a group of one.
        checked: Send a counter along with every array; ``check_order`` compares them.
    """

    rank: int = 0
    size: int = 1
    handle: Any = None
    checked: bool = False
    _counters: list[tuple[int, mx.array]] = field(default_factory=list, repr=False)
    _number: int = field(default=0, repr=False)

    def gather(self, array: mx.array) -> mx.array:
        """The arrays of all processes in the order of their ranks, ``(size, *shape)``; their shapes must be equal."""
        if self.size == 1:
            return array[None]
        if self.checked:
            return self._gather_counted(array)
        return mx.distributed.all_gather(array[None], group=self.handle)

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """The bytes of every process, of any lengths."""
        lengths = _evaluated(self.gather(mx.array([len(data)], dtype=mx.int32)))[:, 0]
        padded = np.zeros(int(lengths.max()) + 1, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        gathered = _evaluated(self.gather(mx.array(padded)))
        return [row[:length].tobytes() for row, length in zip(gathered, lengths, strict=True)]

    def gather_arrays(self, arrays: Sequence[mx.array]) -> list[list[mx.array]]:
        """The arrays of every process, as many and of such shapes and types as each of them has; evaluated."""
        if self.size == 1:
            mx.eval(list(arrays))
            return [list(arrays)]
        header = json.dumps([[str(array.dtype).rpartition(".")[2], array.shape] for array in arrays])
        headers = [parse_json(data) for data in self.gather_bytes(header.encode())]
        longest = max(sum(map(_num_bytes, header)) for header in headers)
        if not longest:
            return [[mx.zeros(shape, getattr(mx, name)) for name, shape in header] for header in headers]
        content = [mx.contiguous(array).reshape(-1).view(mx.uint8) for array in arrays if array.size]
        missing = longest - sum(part.size for part in content)
        gathered = self.gather(mx.concatenate([*content, mx.zeros((missing,), mx.uint8)]))
        mx.eval(gathered)
        self.check_order()
        return [_arrays_in(row, header) for row, header in zip(gathered, headers, strict=True)]

    def first_arrays(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        """The arrays of the first process, on all of them; those of the others are not looked at."""
        return self.gather_arrays(arrays if self.rank == 0 else [])[0]

    def send(self, array: mx.array, to: int) -> mx.array:
        """``array``, sent to a neighbouring process when it is evaluated."""
        return mx.distributed.send(array, to, group=self.handle)

    def receive(self, shape: Sequence[int], dtype: mx.Dtype, origin: int) -> mx.array:
        """An array that a neighbouring process sends."""
        return mx.distributed.recv(shape, dtype, origin, group=self.handle)

    def send_piece(self, piece: mx.array, to: int, *, last: bool) -> None:
        """Send a piece of a stream to a neighbouring process as soon as that asks for it by ``receive_piece``."""
        mx.eval(self.receive((1,), mx.int32, to))
        header = [last, _PIECE_TYPES.index(piece.dtype), piece.ndim, *piece.shape]
        header += [0] * (_PIECE_HEADER - len(header))
        mx.eval(self.send(mx.array(header, dtype=mx.int32), to))
        if piece.size:
            mx.eval(self.send(mx.contiguous(piece), to))

    def receive_piece(self, origin: int) -> tuple[mx.array, bool]:
        """The next piece of a neighbouring process's stream, and whether it is the last."""
        mx.eval(self.send(mx.zeros((1,), mx.int32), origin))
        header = self.receive((_PIECE_HEADER,), mx.int32, origin)
        mx.eval(header)
        last, type_number, num_axes, *lengths = np.array(header).tolist()
        shape = lengths[:num_axes]
        dtype = _PIECE_TYPES[type_number]
        piece = self.receive(shape, dtype, origin) if all(shape) else mx.zeros(shape, dtype)
        mx.eval(piece)
        return piece, bool(last)

    def check_order(self) -> None:
        """Compare the counters of a checked group; evaluates what was gathered.

        Raises:
            CollectiveOrderError: If another process evaluated them in another order.
        """
        pending, self._counters = self._counters, []
        for number, counters in pending:
            found = _evaluated(counters).view(np.uint32).reshape(-1).tolist()
            for rank, other in enumerate(found):
                if other != number:
                    raise CollectiveOrderError(
                        f"Collective {number} of process {self.rank} met number {other} of process {rank}: they were "
                        f"evaluated in different orders."
                    )

    def _gather_counted(self, array: mx.array) -> mx.array:
        counter = mx.array(np.array([self._number], np.uint32).view(np.uint8))
        content = mx.contiguous(array).reshape(-1).view(mx.uint8)
        rows = mx.distributed.all_gather(mx.concatenate([content, counter])[None], group=self.handle)
        self._counters.append((self._number, rows[:, -_COUNTER_BYTES:]))
        self._number += 1
        return mx.contiguous(rows[:, :-_COUNTER_BYTES]).view(array.dtype).reshape(self.size, *array.shape)


def _evaluated(array: mx.array) -> np.ndarray:
    """The array in NumPy.

    NumPy tries again at an error of MLX, and evaluating anew after a lost connection takes for ever.
    """
    mx.eval(array)
    return np.array(array)


ALONE = Group()


def share_out(
    group: Group, tasks: Iterable[Task], work: Callable[[list[Task]], list[mx.array]], *, at_once: int = 1
) -> Iterator[mx.array]:
    """The result of every task in their order, each computed by one of the processes.

    Every process goes through the same tasks and has all results. One round of them is in memory at a time; the
    results of several processes are evaluated.

    Args:
        group: The processes.
        tasks: In order.
        work: Consecutive tasks to their results.
        at_once: Tasks that ``work`` gets, or fewer at the end.
    """
    tasks = iter(tasks)
    while turn := list(islice(tasks, group.size * at_once)):
        own = turn[group.rank * at_once : (group.rank + 1) * at_once]
        results = work(own) if own else []
        del turn, own
        if group.size > 1:
            results = [result for of_rank in group.gather_arrays(results) for result in of_rank]
        # No reference stays here.
        results.reverse()
        while results:
            yield results.pop()


def _num_bytes(header: tuple[str, Sequence[int]]) -> int:
    """Bytes of an array with such a type and shape."""
    name, shape = header
    dtype: mx.Dtype = getattr(mx, name)
    return math.prod(shape) * dtype.size


def _arrays_in(row: mx.array, headers: Sequence[tuple[str, Sequence[int]]]) -> list[mx.array]:
    """The arrays whose bytes lie one after another in ``row``, each in memory of its own."""
    arrays = []
    start = 0
    for header in headers:
        name, shape = header
        stop = start + _num_bytes(header)
        dtype: mx.Dtype = getattr(mx, name)
        content = mx.contiguous(row[start:stop])
        arrays.append(content.view(dtype).reshape(shape) if stop > start else mx.zeros(shape, dtype))
        start = stop
    mx.eval(arrays)
    return arrays


@dataclass(frozen=True)
class TokenShare:
    """The run of tokens that one process computes. All shares have one length, so some may overlap.

    Attributes:
        group: The processes.
        num_tokens: Tokens of all shares together.
        fewest: Tokens of a share at least, where there are as many.
        block: Shares begin at a multiple of it, and end with as many tokens over a multiple as all tokens together.
    """

    group: Group
    num_tokens: int
    fewest: int = 1
    block: int = 1

    @property
    def length(self) -> int:
        """Tokens of a share."""
        blocks, over = divmod(self.num_tokens, self.block)
        most = max(-(-blocks // self.group.size), -(-(self.fewest - over) // self.block))
        return min(most * self.block + over, self.num_tokens)

    @property
    def tokens(self) -> slice:
        """Tokens of this process."""
        start = self._start(self.group.rank)
        return slice(start, start + self.length)

    def gather(self, array: mx.array, axis: int = 1) -> mx.array:
        """The tokens of all processes from each one's own, ``axis`` of which are its tokens; each token once."""
        rows = self.group.gather(array)
        parts = []
        for rank in range(self.group.size):
            # Of tokens that two processes have, those of the later one: at the end of a share rows are left over.
            last = rank == self.group.size - 1
            count = self.length if last else self._start(rank + 1) - self._start(rank)
            if count:
                parts.append(rows[rank] if count == self.length else mx.take(rows[rank], mx.arange(count), axis))
        return mx.concatenate(parts, axis=axis)

    def _start(self, rank: int) -> int:
        over = self.num_tokens % self.block
        return min(rank * (self.length - over), self.num_tokens - self.length)


def share_of(group: Group, num_tokens: int, products: Collection[int], activations: Collection[int]) -> TokenShare:
    """The share of tokens of each process; on a CPU one whose results have the bits of all tokens together.

    Args:
        group: The processes.
        num_tokens: Of all shares.
        products: Values of a token in each matrix product.
        activations: Values of a token in each activation.
    """
    if not on_cpu():
        return TokenShare(group, num_tokens)
    return TokenShare(group, num_tokens, fewest_rows(num_tokens, products, activations), BLOCK)
