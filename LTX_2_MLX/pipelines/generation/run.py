"""Run the stages of a generation whose results are saved, resuming from those of an earlier run."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.pipelines.generation.decode import DecodeVideo
from LTX_2_MLX.pipelines.generation.prompt import remaining
from LTX_2_MLX.pipelines.generation.read_ahead import ReadsAhead
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationStage, GenerationState, Result
from LTX_2_MLX.planning.plan import plan
from LTX_2_MLX.runtime.job import Job
from LTX_2_MLX.runtime.runner import StageRunner

Facts = dict[str, dict[str, Any]]


def run_generation(
    stages: Sequence[GenerationStage],
    runner: StageRunner,
    job: Job,
    state: GenerationState,
    budget_bytes: int,
) -> FrameStream:
    """The video: its latent is done when this returns, frames are decoded as they are read.

    Args:
        stages: In order; the last one is ``DecodeVideo``.
        runner: Runs the stages.
        job: Saves their results, and holds those of an earlier run.
        state: Results that no stage makes, such as contexts from a file.
        budget_bytes: Memory that the run may use, by which weights are read ahead.
    """
    *latent_stages, decode = stages
    assert isinstance(decode, DecodeVideo), decode
    facts = chained_facts(stages)
    frames = saved_frames(job, facts[decode.name])
    needed: set[Result] = {"sound"} if frames is not None else {"latents", "sound"}
    latent_stages = remaining(latent_stages, state)
    saved = saved_results(latent_stages, runner, job, facts, needed)
    to_run: list[GenerationStage] = [stage for stage in latent_stages if saved.get(stage.name, {}) is None]
    to_run += [decode] if frames is None else []
    runner.progress = ReadsAhead(runner.progress, plan(to_run, budget_bytes=budget_bytes).ahead)
    state = _run_unsaved(latent_stages, runner, job, facts, state, saved)
    if frames is not None:
        return decode.stream(frames, state.sound)
    stream = decode.run(runner, state)
    return stream.replace(chunks=save_frames(job, stream.chunks, facts[decode.name]))


def run_saved(
    stages: Sequence[GenerationStage],
    runner: StageRunner,
    job: Job,
    facts: Facts,
    state: GenerationState,
    needed: Collection[Result],
) -> GenerationState:
    """The state with the results in ``needed``. Only those stages run whose results are used and were not saved."""
    stages = remaining(stages, state)
    return _run_unsaved(stages, runner, job, facts, state, saved_results(stages, runner, job, facts, needed))


def _run_unsaved(
    stages: Sequence[GenerationStage],
    runner: StageRunner,
    job: Job,
    facts: Facts,
    state: GenerationState,
    saved: Mapping[str, Arrays | None],
) -> GenerationState:
    """The state after ``stages``, with the results that were ``saved``; stages that it does not hold are not needed."""
    for stage in stages:
        if stage.name not in saved:
            continue
        result = saved[stage.name]
        if result is not None:
            results: dict[str, Any] = {stage.gives: result}
            state = replace(state, **results)
            continue
        state = stage.run(runner, state)
        if stage.saved_as is not None:
            job.save(stage.saved_as, getattr(state, stage.gives), **facts[stage.name])
    return state


def saved_results(
    stages: Sequence[GenerationStage], runner: StageRunner, job: Job, facts: Facts, wanted: Collection[Result]
) -> dict[str, Arrays | None]:
    """For each stage whose result is needed: that result where it was saved, None where the stage has to run."""
    needed = set(wanted)
    results: dict[str, Arrays | None] = {}
    for stage in reversed(stages):
        if stage.gives not in needed:
            continue
        needed.discard(stage.gives)
        result = job.load(stage.saved_as, **facts[stage.name]) if stage.saved_as else None
        results[stage.name] = result
        if result is None:
            needed |= set(stage.needs)
        else:
            runner.progress.note(f"{stage.saved_as}: found in {job.folder}")
    return results


def chained_facts(stages: Sequence[GenerationStage]) -> Facts:
    """For each stage, everything that its result follows from: its own facts and those of the results it needs."""
    facts: Facts = {}
    latest: dict[str, dict[str, Any]] = {}
    for stage in stages:
        needed = {result: latest[result] for result in stage.needs if result in latest}
        facts[stage.name] = {"facts": stage.facts(), "needs": needed}
        latest[stage.gives] = facts[stage.name]
    return facts


def saved_frames(job: Job, facts: dict[str, Any]) -> Iterator[np.ndarray] | None:
    """All chunks of frames that a run saved; None where one is missing: decoding cannot begin in the middle."""
    index = job.load("frames", **facts)
    if index is None:
        return None
    num_chunks = int(np.array(index["chunks"]))
    names = [f"frames_{number}" for number in range(num_chunks)]
    if any(job.load(name, **facts) is None for name in names):
        return None
    return _saved_chunks(job, names, facts)


def _saved_chunks(job: Job, names: list[str], facts: dict[str, Any]) -> Iterator[np.ndarray]:
    for name in names:
        arrays = job.load(name, **facts)
        if arrays is None:
            raise OutputError(f"{name} in {job.folder} was removed or damaged while it was read. Run --resume again.")
        yield np.array(arrays["frames"])


def save_frames(job: Job, chunks: Iterable[np.ndarray], facts: dict[str, Any]) -> Iterator[np.ndarray]:
    """The same chunks, each saved before it is passed on."""
    number = 0
    try:
        for chunk in chunks:
            job.save(f"frames_{number}", {"frames": mx.array(chunk)}, **facts)
            number += 1
            yield chunk
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    job.save("frames", {"chunks": mx.array(number)}, **facts)
