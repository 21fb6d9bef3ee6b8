"""Blocks of a network that stay on disk and are read ahead of their use, anew in every pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn

# The block that runs, the one that is ready behind it, and the one that is being read.
LIVE_BLOCKS = 3


class BlockStream:
    """Replaces a network's list of blocks; each iteration over it reads them from disk once.

    While a block runs, the next one is being read. A block has weights only until the next one is asked for, so the
    caller must evaluate a block's work before it asks for the block after the next; otherwise the blocks pile up.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        read: Callable[[int], Mapping[str, mx.array]],
        weights: Callable[[int, Mapping[str, mx.array]], list[tuple[str, mx.array]]],
        own: range | None = None,
    ):
        """Take blocks that have no weights yet.

        Args:
            blocks: In order.
            read: A block's number to its published tensors, lazy.
            weights: Number and tensors to the block's weights by their names inside it, lazy.
            own: Numbers of the blocks that this process computes; the others stay without weights. None: all.
        """
        self._blocks = list(blocks)
        self._own = range(len(self._blocks)) if own is None else own
        self._read = read
        self._weights = weights
        # Reading has a stream of its own: on the CPU it would otherwise wait for the blocks' work. A stream belongs to
        # one thread, and a network may be loaded in one and run in another.
        self._reader = mx.new_thread_local_stream(mx.cpu)
        # Never evaluated, so they take no memory.
        self._empty = [block.parameters() for block in self._blocks]

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[nn.Module]:
        ahead = self._start_reading(self._own.start)
        for number, (block, empty) in enumerate(zip(self._blocks, self._empty, strict=True)):
            if number not in self._own:
                yield block
                continue
            arrays, ahead = ahead, {}
            if number + 1 in self._own:
                ahead = self._start_reading(number + 1)
            block.load_weights(self._weights(number, arrays), strict=True)
            del arrays
            try:
                yield block
            finally:
                block.update(empty)

    def _start_reading(self, number: int) -> Mapping[str, mx.array]:
        with mx.stream(self._reader):
            arrays = self._read(number)
        mx.async_eval(list(arrays.values()))
        return arrays
