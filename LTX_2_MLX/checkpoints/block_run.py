"""A network whose blocks are divided among processes: each loads and computes one run of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.layers.transformer import TimestepModulation
from LTX_2_MLX.ops.collective import Group


@dataclass(frozen=True)
class BlockRun:
    """Consecutive blocks of every process, as equal in number as possible."""

    group: Group

    def owned(self, num_blocks: int, rank: int | None = None) -> range:
        """Numbers of a process's blocks, this one's unless given.

        Raises:
            RequestError: If there are fewer blocks than processes.
        """
        size = self.group.size
        if num_blocks < size:
            raise RequestError(
                f"--parallel blocks: {size} machines cannot share {num_blocks} blocks. Start fewer, or use another way."
            )
        rank = self.group.rank if rank is None else rank
        return range(rank * num_blocks // size, (rank + 1) * num_blocks // size)

    def owner(self, block: int, num_blocks: int) -> int:
        """The process that computes a block."""
        return next(rank for rank in range(self.group.size) if block in self.owned(num_blocks, rank))


class ElsewhereBlock(nn.Module):
    """Stands for a block of another process: hidden states pass unchanged, and move between processes at a run's ends.

    Other attributes are those of the block that it stands for, which has no weights.
    """

    def __init__(self, block: nn.Module, move: Callable[[Any], Any], *, in_tuple: bool):
        super().__init__()
        # Names with an underscore are no parameters.
        self._block = block
        self._move = move
        self._in_tuple = in_tuple

    def __call__(self, hidden: Any, *rest: Any, **options: Any) -> Any:
        moved = self._move(hidden)
        return (moved,) if self._in_tuple else moved

    def __getattr__(self, name: str) -> Any:
        block = self.get("_block")
        if block is None:
            raise AttributeError(name)
        return getattr(block, name)


class SharedModulation(TimestepModulation):
    """Timestep modulation that one process has the weights of, and computes for all."""

    def __init__(self, width: int, rows: int, *, group: Group, owner: int, dtype: mx.Dtype):
        nn.Module.__init__(self)
        if group.rank == owner:
            super().__init__(width, rows)
        self._group = group
        self._owner = owner
        self._size = (rows, width)
        self._dtype = dtype
        self._last: tuple[bytes, tuple[mx.array, mx.array]] | None = None

    def __call__(self, timesteps: mx.array) -> tuple[mx.array, mx.array]:
        # All passes of a step have the same timesteps; an exchange in each would hold up the pipeline of passes.
        key = np.asarray(timesteps.astype(mx.float32)).tobytes()
        if self._last is None or self._last[0] != key:
            self._last = (key, self._exchanged(timesteps))
        return self._last[1]

    def _exchanged(self, timesteps: mx.array) -> tuple[mx.array, mx.array]:
        rows, width = self._size
        packed = mx.zeros((len(timesteps), rows + 1, width), self._dtype)
        if self._group.rank == self._owner:
            own_rows, embedding = super().__call__(timesteps)
            packed = mx.concatenate([own_rows, embedding[:, None]], axis=1)
        packed = self._group.gather(packed)[self._owner]
        # Evaluated in the order of the program: the graphs of the processes differ.
        mx.eval(packed)
        return packed[:, :rows], packed[:, rows]


def hold_run(
    model: nn.Module,
    weights: Mapping[str, mx.array],
    blocks_path: str,
    run: BlockRun,
    dtype: mx.Dtype,
    *,
    in_tuples: bool = False,
) -> tuple[dict[str, mx.array], range]:
    """Replace what other processes compute in a model; returns the weights of this process and its blocks' numbers.

    Args:
        model: Without weights.
        weights: Those of the whole model, lazy.
        blocks_path: Path of the list of blocks.
        run: The blocks of every process.
        dtype: Of the hidden states.
        in_tuples: Whether a block returns its hidden state as the first of a tuple.
    """
    kept = kept_names(model, weights, blocks_path, run)
    *parents, attribute = blocks_path.split(".")
    owner: Any = model
    for parent in parents:
        owner = getattr(owner, parent)
    blocks = getattr(owner, attribute)
    own = run.owned(len(blocks))
    moves: dict[int, Callable[[Any], Any]] = {own.start - 1: partial(_receive, run.group)}
    moves[own.stop] = partial(_send, run.group)
    held = []
    for number, block in enumerate(blocks):
        elsewhere = ElsewhereBlock(block, moves.get(number, _pass_on), in_tuple=in_tuples)
        held.append(block if number in own else elsewhere)
    setattr(owner, attribute, held)
    shared = []
    for path, rank in _modulation_owners(model, run).items():
        rows, width = _modulation_size(model, path)
        shared.append((path, SharedModulation(width, rows, group=run.group, owner=rank, dtype=dtype)))
    model.update_modules(tree_unflatten(shared))
    return {name: value for name, value in weights.items() if name in kept}, own


def kept_names(model: nn.Module, weights: Mapping[str, mx.array], blocks_path: str, run: BlockRun) -> set[str]:
    """Names of the weights that this process holds."""
    prefix = f"{blocks_path}."
    numbers = {int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix)}
    own = run.owned(len(numbers))
    elsewhere = tuple(f"{path}." for path, rank in _modulation_owners(model, run).items() if rank != run.group.rank)
    kept = set()
    for name in weights:
        if name.startswith(prefix):
            if int(name.removeprefix(prefix).split(".")[0]) in own:
                kept.add(name)
        elif not name.startswith(elsewhere):
            kept.add(name)
    return kept


def _modulation_owners(model: nn.Module, run: BlockRun) -> dict[str, int]:
    """The process that computes each timestep modulation, so that all hold about as much."""
    sizes = {}
    for path, module in model.named_modules():
        if isinstance(module, TimestepModulation):
            rows, width = _modulation_size(model, path)
            sizes[path] = (rows + 1) * width * width
    loads = [0] * run.group.size
    owners = {}
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        # The first process with the least.
        rank = loads.index(min(loads))
        owners[path] = rank
        loads[rank] += sizes[path]
    return owners


def _modulation_size(model: nn.Module, path: str) -> tuple[int, int]:
    """Rows and width of a timestep modulation."""
    module: Any = model
    for name in path.split("."):
        module = module[name]
    width = module.linear.weight.shape[1]
    return module.linear.weight.shape[0] // width, width


def _pass_on(hidden: Any) -> Any:
    return hidden


def _receive(group: Group, hidden: Any) -> Any:
    """Hidden states of these shapes from the process before."""
    arrays = _arrays(hidden)
    packed = group.receive((sum(array.size for array in arrays),), arrays[0].dtype, group.rank - 1)
    # In the order of the program: the graphs of the processes differ.
    mx.eval(packed)
    received = []
    start = 0
    for array in arrays:
        received.append(packed[start : start + array.size].reshape(array.shape))
        start += array.size
    return dict(zip(hidden, received, strict=True)) if isinstance(hidden, dict) else received[0]


def _send(group: Group, hidden: Any) -> Any:
    """The hidden states, sent to the process after this one."""
    packed = mx.concatenate([array.reshape(-1) for array in _arrays(hidden)])
    mx.eval(group.send(packed, group.rank + 1))
    return hidden


def _arrays(hidden: Any) -> list[mx.array]:
    """Hidden states of streams, or one."""
    return list(hidden.values()) if isinstance(hidden, dict) else [hidden]


def whole_states(run: BlockRun, states: Sequence[mx.array]) -> list[mx.array]:
    """The states of all blocks, each from the process that computed it; the first state is that of all."""
    whole = [states[0]]
    for block, state in enumerate(states[1:]):
        whole.append(run.group.gather(state)[run.owner(block, len(states) - 1)])
        mx.eval(whole[-1])
    return whole
