"""Several videos in one run, stage by stage, so that each network is loaded once for all of them.

Each video is that of a run of its own, bit by bit, and so is its record.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.pipelines.generate import finished_video, job_of, record_of, stages_for, start_state
from LTX_2_MLX.pipelines.generation.decode import DecodeVideo
from LTX_2_MLX.pipelines.generation.denoise import Denoise
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.prompt import prompt_stages, remaining
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.run import chained_facts, save_frames, saved_frames, saved_results
from LTX_2_MLX.pipelines.generation.sound import DecodeSound
from LTX_2_MLX.pipelines.generation.state import GenerationStage, GenerationState, Result
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.holding import HoldingRunner
from LTX_2_MLX.runtime.job import Job
from LTX_2_MLX.runtime.runner import StageRunner, digest_of

# Results that videos of one prompt, one image, one reference video or one given sound have in common.
_SHARED: tuple[Result, ...] = ("text", "contexts", "duration", "images", "control", "latents")
# The stage whose latents a draft shows.
_DRAFT_STAGE = "stage_1"


@dataclass(frozen=True)
class Item:
    """One video of a batch, as a run of its own would get it."""

    options: Options
    request: Request


@dataclass
class _Run:
    """One video on its way.

    Attributes:
        item: What is asked for.
        stages: Of its pipeline.
        record: The settled request, for its metadata.
        facts: What each stage's result follows from.
        job: The folder of its saved results.
        state: Results so far; those of the text encoder are packed.
        saved: By stage: the result that was saved, or None where the stage has to run; other stages are not needed.
        frames: Frames that were saved.
    """

    item: Item
    stages: Sequence[GenerationStage]
    record: dict[str, Any]
    facts: dict[str, Any]
    job: Job | None
    state: GenerationState
    saved: dict[str, Any] = field(default_factory=dict)
    frames: Any = None


def generate_batch(
    items: Sequence[Item], runner: StageRunner, *, automatic: Collection[str] = (), **written: Any
) -> Iterator[tuple[Item, FrameStream]]:
    """The videos in order, each with its item; one is read to its end before the next is asked for.

    Args:
        items: Requests that differ in prompt, seed and folders alone.
        runner: Its progress and reports are used.
        automatic: Options that a repeated run had settled by itself.
        **written: Settings of the videos' files, which go into the records too.
    """
    holder = HoldingRunner(runner)
    try:
        runs = _opened_all(_agreed(items, runner), automatic, holder)
        _advance_all(runs, holder)
        holder.release()
        while runs:
            run = runs.pop(0)
            yield run.item, _video(run, holder, written)
    finally:
        holder.release()


def _agreed(items: Sequence[Item], runner: StageRunner) -> Sequence[Item]:
    """The items, when they are those of all machines of the run."""
    if launch.RANK is None:
        return items
    from LTX_2_MLX.pipelines.generation.sharing import agreed

    videos = [(item.request, stages_for(item.request)) for item in items]
    requests = agreed(videos, items[0].options, runner.progress.note)
    return [replace(item, request=request) for item, request in zip(items, requests, strict=True)]


def draft_batch(items: Sequence[Item], runner: StageRunner) -> Iterator[tuple[Item, FrameStream]]:
    """Videos of the first stage of two, in order; each network is loaded once for all of them.

    The results of every stage are saved, so that a run that resumes from them finishes the video.

    Args:
        items: Requests of two stages that differ in prompt, seed and folders alone; each has a folder of its own.
        runner: Its progress and reports are used.
    """
    holder = HoldingRunner(runner)
    try:
        runs = _opened_all(_agreed(items, runner), (), holder, last=_DRAFT_STAGE)
        _advance_all(runs, holder)
        for run in runs:
            run.state = _draft_sound(run, holder)
        holder.release()
        for run in runs:
            yield run.item, _draft_decoding(run).run(holder, run.state)
    finally:
        holder.release()


def _draft_sound(run: _Run, holder: HoldingRunner) -> GenerationState:
    """The state with the sound of the first stage, where the video gets sound."""
    stage = next((stage for stage in run.stages if isinstance(stage, DecodeSound)), None)
    if stage is None:
        return run.state
    request = run.item.request
    return replace(stage, num_frames=request.num_frames, frame_rate=request.frame_rate).run(holder, run.state)


def _draft_decoding(run: _Run) -> DecodeVideo:
    """The run's last stage, for the latents of its first."""
    decode = run.stages[-1]
    assert isinstance(decode, DecodeVideo), decode
    first = next(stage for stage in run.stages if stage.name == _DRAFT_STAGE)
    assert isinstance(first, Denoise), first
    return replace(decode, shape=first.grid.shape, frame_rate=run.item.request.frame_rate)


def _enhanced(items: Sequence[Item], holder: HoldingRunner) -> list[Item]:
    """The items with their prompts rewritten where that is asked for, each prompt once."""
    if items[0].request.enhancer is None:
        return list(items)
    from LTX_2_MLX.pipelines.generation.enhance import enhanced

    texts: dict[str, str] = {}
    rewritten = []
    for item in items:
        prompt = item.request.prompt
        if prompt not in texts:
            texts[prompt] = enhanced(item.request, holder).prompt
        options = replace(item.options, prompt=texts[prompt], enhance_prompt=False)
        rewritten.append(Item(options, replace(item.request, prompt=texts[prompt], enhancer=None)))
    return rewritten


def _opened_all(
    items: Sequence[Item], automatic: Collection[str], holder: HoldingRunner, *, last: str | None = None
) -> list[_Run]:
    """The videos before their first stage; where the duration head decides, each with its length and its contexts."""
    items = _enhanced(items, holder)
    if items[0].request.duration is None:
        return [_opened(item, automatic, holder, last=last) for item in items]
    from LTX_2_MLX.pipelines.generation.duration import settled

    asked = [_asked(item, automatic, holder) for item in items]
    _advance_all(asked, holder)
    runs = []
    for run in asked:
        item = Item(*settled(run.item.options, run.item.request, run.state, holder.progress.note))
        runs.append(_opened(item, {*automatic, "frames"}, holder, last=last, state=run.state))
    return runs


def _asked(item: Item, automatic: Collection[str], holder: HoldingRunner) -> _Run:
    """A video before the stages that lead to its length."""
    from LTX_2_MLX.pipelines.generation.duration import with_duration_stage

    stages = with_duration_stage(item.request, prompt_stages(item.request))
    record = record_of(item.options, item.request, [], automatic).as_json()
    job = job_of(item.options, holder.progress.note)
    run = _Run(item, stages, record, chained_facts(stages), job, start_state(item.request, holder))
    run.saved = _to_run(run, remaining(stages, run.state), {"contexts", "duration"}, holder)
    return run


def _opened(
    item: Item,
    automatic: Collection[str],
    holder: HoldingRunner,
    *,
    last: str | None = None,
    state: GenerationState | None = None,
) -> _Run:
    """A video before its first stage, with what an earlier run has saved of it.

    ``last`` is a stage to end after, ``state`` the results so far.
    """
    if item.request.previews is not None:
        item.request.previews.make_folder()
    stages = stages_for(item.request)
    record = record_of(item.options, item.request, stages, automatic).as_json()
    job = job_of(item.options, holder.progress.note)
    run = _Run(item, stages, record, chained_facts(stages), job, state or start_state(item.request, holder))
    latent_stages, decode = remaining(stages[:-1], run.state), stages[-1]
    if last is not None:
        names = [stage.name for stage in latent_stages]
        latent_stages = latent_stages[: names.index(last) + 1]
    needed: set[Result] = {"latents"}
    if last is None:
        run.frames = None if job is None else saved_frames(job, run.facts[decode.name])
        needed = {"sound"} if run.frames is not None else {"latents", "sound"}
    run.saved = _to_run(run, latent_stages, needed, holder)
    return run


def _to_run(
    run: _Run, stages: Sequence[GenerationStage], wanted: Collection[Result], holder: HoldingRunner
) -> dict[str, Any]:
    """``_Run.saved`` of the stages that lead to what is wanted."""
    if run.job is None:
        return dict.fromkeys(stage.name for stage in stages)
    run.job.remember(run.record)
    return saved_results(stages, holder, run.job, run.facts, wanted)


def _advance_all(runs: Sequence[_Run], holder: HoldingRunner) -> None:
    """Bring all videos over their stages but the decoder of frames, each stage for all of them before the next."""
    # A still image among videos has no sound; all else is the same for all of them.
    for name in [stage.name for stage in max((run.stages for run in runs), key=len)]:
        shared: dict[str, Any] = {}
        for run in runs:
            for stage in run.stages:
                if stage.name == name:
                    _advance(run, stage, holder, shared)


def _advance(run: _Run, stage: GenerationStage, holder: HoldingRunner, shared: dict[str, Any]) -> None:
    """Bring one video over one stage, by a result that was saved or that another video has in common with it."""
    if stage.name not in run.saved:
        return
    result = run.saved.pop(stage.name)
    is_new = result is None
    key = digest_of(run.facts[stage.name])
    if is_new:
        result = shared.get(key)
    if result is None:
        state = stage.run(holder, replace(run.state, text=_unpacked(run.state.text)))
        run.state = replace(state, text=_packed(state.text))
        result = getattr(run.state, stage.gives)
    else:
        text = run.state.text if stage.gives != "contexts" else None
        changes: dict[str, Any] = {"text": text, stage.gives: result}
        run.state = replace(run.state, **changes)
    if stage.gives in _SHARED:
        shared[key] = result
    if is_new and run.job is not None and stage.saved_as is not None:
        run.job.save(stage.saved_as, result, **run.facts[stage.name])


def _packed(text: Any) -> Any:
    """States of the text encoder without common padding, which is zeros in front: a tenth of the memory."""
    if text is None:
        return None
    states, mask = text
    length = int(mask.sum(axis=1).max())
    kept = [mx.contiguous(state[:, state.shape[1] - length :]) for state in states]
    mx.eval(kept)
    return kept, mask


def _unpacked(text: Any) -> Any:
    if text is None:
        return None
    kept, mask = text
    return [mx.pad(state, [(0, 0), (mask.shape[1] - state.shape[1], 0), (0, 0)]) for state in kept], mask


def _video(run: _Run, holder: HoldingRunner, written: dict[str, Any]) -> FrameStream:
    decode = run.stages[-1]
    assert isinstance(decode, DecodeVideo), decode
    if run.frames is not None:
        video = decode.stream(run.frames, run.state.sound)
    else:
        video = decode.run(holder, run.state)
        if run.job is not None:
            video = video.replace(chunks=save_frames(run.job, video.chunks, run.facts[decode.name]))
    return finished_video(video, run.record, run.item.options, holder, written, run.item.request.given)
