"""Blocks of a network that stay on disk and are read ahead of their use, anew in every pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.checkpoints.load import (
    block_of,
    blocks_path,
    float8_scales,
    network_weights,
    parameter_names,
    with_scales,
)
from LTX_2_MLX.checkpoints.lora import LoraMerge
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.models.interfaces import PublishedNetwork


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


@dataclass(frozen=True)
class BlockReader:
    """Reads one block's weights, exactly as a network that stays in memory gets them."""

    network: type[PublishedNetwork[Any]]
    checkpoint: Checkpoint
    dtype: mx.Dtype | None
    merge: LoraMerge | None
    finish: Callable[[str, mx.array], dict[str, mx.array]]

    def tensor_names(self) -> dict[str, list[str]]:
        """Published names of each block's tensors, scales of 8-bit floats included, by the block's number."""
        names: dict[str, list[str]] = {}
        for name, parameter in parameter_names(self.network, self.checkpoint).items():
            block = block_of(self.network, parameter)
            if block is not None:
                names.setdefault(block, []).append(name)
        scales = float8_scales(self.checkpoint)
        return {block: with_scales(own, scales) for block, own in names.items()}

    def weights(self, block: str, arrays: Mapping[str, mx.array]) -> list[tuple[str, mx.array]]:
        """A block's weights, by their names inside it, from its published tensors; these are read, the rest is lazy."""
        prefix = f"{blocks_path(self.network)}.{block}."
        sources: dict[str, list[mx.array]] = {}
        weights = network_weights(
            self.network, self.checkpoint, dtype=self.dtype, merge=self.merge, arrays=arrays, sources=sources
        )
        # Before anything is computed from them, as in ``load``.
        mx.eval(list(sources.values()))
        finished = []
        for name, value in weights.items():
            for parameter, array in self.finish(name, value).items():
                finished.append((parameter.removeprefix(prefix), array))
        return finished


def replace_by_stream(
    model: nn.Module, weights: dict[str, mx.array], reader: BlockReader, own: range | None
) -> dict[str, mx.array]:
    """Replace the model's blocks by a stream of those of this process; returns the weights outside of them."""
    *parents, attribute = blocks_path(reader.network).split(".")
    owner = model
    for parent in parents:
        owner = getattr(owner, parent)
    names = reader.tensor_names()
    stream = BlockStream(
        getattr(owner, attribute),
        read=lambda number: reader.checkpoint.arrays(names[str(number)]),
        weights=lambda number, arrays: reader.weights(str(number), arrays),
        own=own,
    )
    setattr(owner, attribute, stream)
    return {name: value for name, value in weights.items() if block_of(reader.network, name) is None}
