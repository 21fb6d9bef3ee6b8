"""A generation on several machines: how they share its work, what they compare first, and whose states they keep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from LTX_2_MLX.diffusion.sampler import Predict
from LTX_2_MLX.diffusion.sharing import TokenWidths, shared_by, unguided
from LTX_2_MLX.diffusion.state import State
from LTX_2_MLX.errors import MemoryBudgetError
from LTX_2_MLX.files import content_digest
from LTX_2_MLX.media.writer import RunRecord
from LTX_2_MLX.models.ltx.step_cache import StepCaches
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.generation.fastest_way import Speed, StepWork, measured_speed, ways_text, works_of
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.record import saved_record
from LTX_2_MLX.pipelines.generation.request import Request, request_for
from LTX_2_MLX.pipelines.generation.run import chained_facts
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationStage, GenerationState
from LTX_2_MLX.pipelines.options import AUTO
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.job import Job
from LTX_2_MLX.runtime.machines import Machines, machines

# Results that denoising stages read.
_READ = ("contexts", "images", "control", "latents")


def settled_ways(options: Options, note: Callable[[str], None]) -> Options:
    """The options with ``blocks`` as the way to share the work, where it is left open and a machine cannot hold all.

    Raises:
        RequestError: If another machine cannot take part.
    """
    if options.parallel != AUTO:
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


def agreed(
    videos: Sequence[tuple[Request, Sequence[GenerationStage]]], options: Options, note: Callable[[str], None]
) -> list[Request]:
    """The requests of all videos, when they and their files are those of all machines.

    Previews are left to the first machine. Where the way to share the work is left open, the machines' speed is
    measured for it.

    Args:
        videos: Request and stages of each.
        options: With the post-processing, whose files are compared, too.
        note: Callback for the line on the ways that are taken.

    Raises:
        RequestError: If they differ.
    """
    # Tiles of decoding follow the smallest machine's memory.
    facts: dict[str, Any] = {
        f"video {number}": chained_facts(stages[:-1]) for number, (_, stages) in enumerate(videos, 1)
    }
    request, stages = videos[0]
    finishes = []
    if options.post_processes:
        from LTX_2_MLX.pipelines import postprocess

        finishes = [content_digest(path) for path in postprocess.weight_files(options.finishing)]
    machines().agree(facts | {"parallel": request.models.parallel, "finishing": finishes})
    speed = None
    if request.models.parallel == AUTO:
        speed = measured_speed(machines(), request.models.dtype)
        note(f"--parallel auto, measured {speed}: {ways_text(works_of(stages), machines().group.size, speed)}")
    found = []
    for request, _ in videos:
        previews = None if launch.FOLLOWS else request.previews
        found.append(replace(request, models=replace(request.models, speed=speed), previews=previews))
    return found


def contexts_of_first(contexts: Arrays | None) -> Arrays | None:
    """The contexts that the first machine has of an earlier run, on all machines; None where it has none."""
    return broadcast_arrays(machines(), contexts)


def answer_of_first(ask: Callable[[], str]) -> str:
    """An answer that the first machine alone asks for, on all machines."""
    own = "" if launch.FOLLOWS else ask()
    answer: str = machines().exchange(own)[0][1]
    return answer


def number_of_first(own: float) -> float:
    """The first machine's number, on all machines; another kind of machine may have rounded its own differently."""
    number: float = machines().exchange(own)[0][1]
    return number


def state_of_first(state: GenerationState) -> GenerationState:
    """What a denoising stage reads, as the first machine has it: every machine has computed it for itself."""
    own: Arrays = {}
    for result in _READ:
        own |= {f"{result}/{name}": array for name, array in getattr(state, result).items()}
    found: dict[str, Arrays] = {result: {} for result in _READ}
    for key, array in (broadcast_arrays(machines(), own) or {}).items():
        result, _, name = key.partition("/")
        found[result][name] = array
    results: dict[str, Any] = {**found}
    return replace(state, **results)


def shared(
    predict: Predict,
    parallel: str,
    transformer: Transformer,
    contexts: Arrays,
    *,
    speed: Speed | None = None,
) -> Predict:
    """``predict`` shared among the processes of a run.

    Args:
        predict: The transformer as guidance calls it.
        parallel: Name of the way to share it.
        transformer: The network.
        contexts: Contexts of the prompts.
        speed: Of the machines, by which ``auto`` chooses a way for each step; None: by the number of passes alone.
    """
    config = transformer.config
    text_tokens = {context.shape[1] for context in contexts.values()}
    group = machines().group

    def by_tokens(state: State, passes: int) -> bool:
        if speed is None:
            return unguided(state, passes)
        audio_tokens = state["audio"].num_tokens if "audio" in state else 0
        dtype = next(iter(contexts.values())).dtype
        work = StepWork(config, state["video"].num_tokens, audio_tokens, max(text_tokens), dtype, passes)
        return work.fastest(group.size, speed) == "sequence"

    widths = TokenWidths(config.token_widths | text_tokens, {config.activation_width})
    return shared_by(parallel, predict, group, widths, by_tokens)


def settled_way(models: Models, work: StepWork) -> str:
    """``auto`` as the way that is taken in all steps, by one of them: caches of block outputs are those of one way."""
    if models.parallel != AUTO:
        return models.parallel
    if models.speed is None:
        return "guidance" if work.num_passes > 1 else "sequence"
    return work.fastest(machines().group.size, models.speed)


def shared_caches(limit: float, last_sigma: float, way: str) -> StepCaches:
    """Caches of block outputs; where the machines share every pass, they skip the blocks by the first one's numbers."""
    return StepCaches(limit, last_sigma, None if way == "guidance" else number_of_first)


def reused_passes(caches: StepCaches, way: str) -> tuple[int, int]:
    """Passes that skipped the blocks, and all passes, of all machines."""
    counts = [value for _, value in machines().exchange([caches.num_reused, caches.num_calls])]
    if way != "guidance":
        return tuple(counts[0])
    return sum(reused for reused, _ in counts), sum(calls for _, calls in counts)


def record_of_first(folder: Path) -> RunRecord:
    """The record of the run whose stages the first machine has saved in a folder. Raises as ``saved_record`` does."""
    facts = asdict(saved_record(folder)) if machines().group.rank == 0 else None
    found = machines().exchange(facts)[0][1]
    return RunRecord(found["request"], found["files"], tuple(found["automatic"]), folder)


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
