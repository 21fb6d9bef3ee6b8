"""Exchange of arrays between the processes of one run, each of which computes a share of the work.

Collectives match by order alone: every process has to evaluate the same ones in the same order, or they exchange the
wrong arrays without an error. A checked group sends a counter along, which finds that.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.cpu.rows import BLOCK, fewest_rows
from LTX_2_MLX.ops.device import on_cpu

_COUNTER_BYTES = 4


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

    def send(self, array: mx.array, to: int) -> mx.array:
        """``array``, sent to a neighbouring process when it is evaluated."""
        return mx.distributed.send(array, to, group=self.handle)

    def receive(self, shape: Sequence[int], dtype: mx.Dtype, origin: int) -> mx.array:
        """An array that a neighbouring process sends."""
        return mx.distributed.recv(shape, dtype, origin, group=self.handle)

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
