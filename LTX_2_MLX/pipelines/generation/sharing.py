"""A generation on several machines: how they share its work, what they compare first, and whose states they keep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from LTX_2_MLX.errors import MemoryBudgetError
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.request import Request, request_for
from LTX_2_MLX.pipelines.generation.run import chained_facts
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationStage
from LTX_2_MLX.pipelines.options import AUTO
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.job import Job
from LTX_2_MLX.runtime.machines import Machines, machines


def settled_ways(options: Options, note: Callable[[str], None]) -> Options:
    """The options with ``blocks`` as the way to share the work, where it is left open and a machine cannot hold all.

    Raises:
        RequestError: If another machine cannot take part.
    """
    if options.parallel != AUTO or options.low_ram or options.enhance_prompt:
        return options
    # The plan is part of the pipelines' entry.
    from LTX_2_MLX.pipelines.generate import plan_for

    try:
        fits = plan_for(request_for(options), options).fits
    except MemoryBudgetError:
        # Of the decoder, which blocks do not make smaller.
        fits = True
    if all(value for _, value in machines().exchange(fits)):
        return options
    note("The networks do not fit into the memory of every machine, so their blocks are divided: --parallel blocks")
    return replace(options, parallel="blocks")


def agreed(request: Request, stages: Sequence[GenerationStage]) -> Request:
    """The request, when it and its files are those of all machines; previews are left to the first.

    Raises:
        RequestError: If they differ.
    """
    # The first machine decodes, with tiles by its own memory.
    machines().agree({"stages": chained_facts(stages[:-1]), "parallel": request.models.parallel})
    return replace(request, previews=None) if launch.FOLLOWS else request


def contexts_of_first(contexts: Arrays | None) -> Arrays | None:
    """The contexts that the first machine has of an earlier run, on all machines; None where it has none."""
    return broadcast_arrays(machines(), contexts)


class SharedJob(Job):
    """The saved stages of a run of several machines: the first one has the folder, and the others get what it finds.

    Attributes:
        folder: Where states are.
    """

    def __init__(self, folder: Path, *, resume: bool, note: Callable[[str], None]):
        """Open the folder on the first machine; arguments and errors are those of ``Job``."""
        self.folder = folder
        self._machines: Machines = machines()
        self._is_first = self._machines.group.rank == 0
        if self._is_first:
            super().__init__(folder, resume=resume, note=note)

    def save(self, stage: str, arrays: Arrays, **more: Any) -> None:
        """Write the state of a stage, on the first machine."""
        if self._is_first:
            super().save(stage, arrays, **more)

    def load(self, stage: str, **more: Any) -> Arrays | None:
        """The arrays of a stage's state on the first machine; None without a valid one."""
        arrays = super().load(stage, **more) if self._is_first else None
        return broadcast_arrays(self._machines, arrays)

    def remember(self, request: Mapping[str, Any]) -> None:
        """Write the request beside the states, on the first machine."""
        if self._is_first:
            super().remember(request)


def broadcast_arrays(everyone: Machines, arrays: Arrays | None) -> Arrays | None:
    """The first machine's arrays, or None; the other machines' are not looked at."""
    header = None
    if arrays is not None:
        header = {name: [str(array.dtype).rpartition(".")[2], array.shape] for name, array in sorted(arrays.items())}
    header = everyone.exchange(header)[0][1]
    if header is None:
        return None
    found: Arrays = {}
    for name, (dtype, shape) in header.items():
        own = arrays[name] if everyone.group.rank == 0 and arrays is not None else mx.zeros(shape, getattr(mx, dtype))
        found[name] = everyone.group.gather(own)[0]
        mx.eval(found[name])
    return found
