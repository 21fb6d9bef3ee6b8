"""Generate a video from a prompt. Entry point for the CLI, notebooks and library users."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from LTX_2_MLX.errors import MemoryBudgetError, RequestError
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.media.audio import Waveform
from LTX_2_MLX.media.encoder import least_bytes
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.output import RunRecord, run_record
from LTX_2_MLX.media.sound import write_wav
from LTX_2_MLX.media.writer import waiting_bytes
from LTX_2_MLX.pipelines.generation.denoise import Denoise
from LTX_2_MLX.pipelines.generation.embeddings import compare_text_encoder, load_contexts, save_contexts
from LTX_2_MLX.pipelines.generation.fit import nearest_options
from LTX_2_MLX.pipelines.generation.given import Given
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.prompt import cached_contexts, notes_on_length, remaining
from LTX_2_MLX.pipelines.generation.record import check_outputs, options_from, record_of, saved_record
from LTX_2_MLX.pipelines.generation.request import Request, request_for
from LTX_2_MLX.pipelines.generation.run import chained_facts, run_generation
from LTX_2_MLX.pipelines.generation.state import GenerationStage, GenerationState
from LTX_2_MLX.pipelines.generation.upscale import UpscaleLatent
from LTX_2_MLX.pipelines.one_stage import one_stage
from LTX_2_MLX.pipelines.options import AUTO, options_of
from LTX_2_MLX.pipelines.sharing import on_every_machine, with_least_memory
from LTX_2_MLX.pipelines.stage import Stage
from LTX_2_MLX.pipelines.two_stage import two_stage
from LTX_2_MLX.planning.fit import refusal
from LTX_2_MLX.planning.plan import Plan, format_bytes, plan
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.job import Job
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner, run_stages
from LTX_2_MLX.runtime.this_machine import budget_bytes
from LTX_2_MLX.shapes import VideoShape

# The option that says a denoising stage's number of steps.
_STEPS = {"denoise": "steps", "stage_1": "steps_stage1", "stage_2": "steps_stage2"}


def generate(prompt: str, *, progress: Progress | None = None, **options: Any) -> FrameStream:
    """A video of ``prompt``. Prints nothing.

    Args:
        prompt: Text prompt.
        progress: Callback for stages, steps and automatic choices; see ``runtime.progress``.
        **options: The other fields of ``Options``, which are those of the command; ``fp16=True`` says the same as
            ``precision="fp16"``.

    Returns:
        The video. Its latent is done; frames are decoded as they are read, or by ``.save(path)``.

    Raises:
        RequestError: If the request cannot be carried out as given.
        CheckpointError: If a file is missing, damaged or of another network.
    """
    runner = StageRunner(progress)
    fields = options_of(Options, {"prompt": prompt} | options, "generate")
    prepared = prepare(Options(**fields), runner.progress.note)
    return generate_video(prepared.request, runner, prepared.options)


class Prepared(NamedTuple):
    """A request that can be carried out, the options that it came from in the end, and its plan."""

    options: Options
    request: Request
    plan: Plan


def prepare(options: Options, note: Callable[[str], None] = lambda text: None, *, refuse: bool = True) -> Prepared:
    """Resolve the options and check the memory plan; ``fit`` in the options changes them until it fits.

    Args:
        options: As given.
        note: Callback for automatic choices.
        refuse: Raise where the plan does not fit and is not to be changed.

    Raises:
        RequestError: If the options cannot be carried out as given.
        CheckpointError: If a file is missing, damaged or of another network.
        MemoryBudgetError: If the plan does not fit; with the nearest that does.
    """
    if launch.RANK is not None:
        from LTX_2_MLX.pipelines.generation.sharing import settled_ways

        options = settled_ways(options, note)
    request = request_for(options, note)
    check_outputs(options, request)
    if request.embeddings is not None:
        compare_text_encoder(request, named=options.gemma != AUTO, note=note)
    for line in notes_on_length(request):
        note(line)
    budget = budget_bytes(options.memory_limit_gb)
    planned = None
    try:
        planned = plan_for(request, options)
    except MemoryBudgetError:
        # Where even the smallest tiles are too large, --force cannot help: the run would stop as well.
        refuse = True
    if planned is not None and planned.fits:
        return Prepared(options, request, planned)
    fitted = nearest_options(
        options,
        request.num_frames,
        lambda other: plan_for(request_for(other), other),
        budget,
        open_at=None if request.duration is None else request.frame_rate,
    )
    if fitted is not None and options.fit:
        note(f"To fit into {format_bytes(budget)}: {' '.join(fitted.flags)}")
        return Prepared(fitted.options, request_for(fitted.options), fitted.plan)
    advice = {"otherwise": "No plan of this clip fits: give a smaller or a shorter one."} if options.has_clip else {}
    error = refusal(planned, budget, fitted, **advice)
    if refuse or planned is None:
        raise error
    note(str(error))
    return Prepared(options, request, planned)


def stages_for(request: Request) -> list[GenerationStage]:
    """The stages of the request's pipeline, for planning and running alike."""
    if request.duration is not None:
        from LTX_2_MLX.pipelines.generation.duration import with_duration_stage

        return with_duration_stage(request, stages_for(replace(request, duration=None)))
    if request.rendering is not None:
        # Few runs are renderings.
        from LTX_2_MLX.pipelines.dfr import dfr

        stages = dfr(request)
    else:
        stages = two_stage(request) if request.two_stages else one_stage(request)
    return stages if request.previews is None else request.previews.added_to(stages)


def plan_for(request: Request, options: Options) -> Plan:
    """The plan of the request and of post-processing; every file is checked as loading checks it."""
    shape = request.output_shape
    finished = finished_shape(request, options)
    stages = stages_for(request)
    sizes = _sizes(request)
    if request.enhancer is None and (contexts := cached_contexts(request)) is not None:
        stages = remaining(stages, GenerationState(contexts=contexts))
        sizes.append("Prompt: embeddings of an earlier run")
    to_run: list[Stage] = [*stages]
    if request.enhancer is not None and request.models.is_first_machine:
        from LTX_2_MLX.pipelines.generation.enhance import EnhancePrompt

        to_run.insert(0, EnhancePrompt(request))
    if options.post_processes:
        from LTX_2_MLX.pipelines import postprocess

        decoded = FrameStream((), shape.height, shape.width, request.output_rate, num_frames=shape.num_frames)
        to_run += postprocess.stages(decoded, options.finishing)
    saves = options.save_latents is not None or options.resume is not None
    return plan(
        to_run,
        sizes=sizes,
        budget_bytes=budget_bytes(options.memory_limit_gb),
        writer_bytes=waiting_bytes(finished.height, finished.width),
        output_bytes=least_bytes((finished.height, finished.width), finished.num_frames),
        # Frames are nearly all of the saved results.
        states_bytes=3 * shape.num_frames * shape.height * shape.width if saves else 0,
    )


def _sizes(request: Request) -> list[str]:
    shape = request.output_shape
    rate = float(request.output_rate)
    seconds = shape.num_frames / rate
    most = "" if request.duration is None else "at most "
    output = f"Output: {shape.height}×{shape.width}, {most}{shape.num_frames} frames at {rate:g} fps, {seconds:.2f} s"
    if request.rendering is not None:
        small = request.rendering.stage_1
        return [f"Stage 1: {small.height}×{small.width}, {small.num_frames} frames", output]
    return [f"Stage 1: {request.height}×{request.width}", output] if request.two_stages else [output]


def finished_shape(request: Request, options: Options) -> VideoShape:
    """Size and length of the video after post-processing."""
    shape = request.output_shape
    if not options.post_processes:
        return shape
    height, width = options.finishing.size(shape.height, shape.width)
    return VideoShape(options.finishing.num_frames(shape.num_frames), height, width)


def generate_video(
    request: Request, runner: StageRunner, options: Options, *, automatic: Collection[str] = (), **written: Any
) -> FrameStream:
    """The video of a request; its record goes into its metadata, so that it can be made again.

    Args:
        request: From ``prepare``.
        runner: Runs the stages.
        options: From ``prepare``.
        automatic: Options that the run which is repeated had settled by itself.
        **written: Settings of the video's file, which go into the record too.
    """
    if launch.RANK is not None:
        from LTX_2_MLX.pipelines.generation.sharing import agreed

        (request,) = agreed([(request, stages_for(request))], options, runner.progress.note)
    if request.enhancer is not None:
        # Most runs take the prompt as it is.
        from LTX_2_MLX.pipelines.generation.enhance import enhanced

        request = enhanced(request, runner)
        options = replace(options, prompt=request.prompt, enhance_prompt=False)
    if request.previews is not None:
        request.previews.make_folder()
    state = start_state(request, runner)
    job = job_of(options, runner.progress.note)
    if request.duration is not None:
        # Few runs ask a duration head.
        from LTX_2_MLX.pipelines.generation.duration import with_settled_length

        unsettled = record_of(options, request, {}, automatic)
        automatic = {*automatic, "frames"}
        options, request, state = with_settled_length(options, request, runner, job, state, unsettled.as_json())
    stages = stages_for(request)
    facts = settled_facts(request, options, stages, automatic)
    runner.facts["settings"] = facts["request"]
    budget = budget_bytes(request.memory_limit_gb)
    if job is None:
        stages = remaining(stages, state)
        if ahead := plan(stages, budget_bytes=budget).ahead:
            # Small models have none.
            from LTX_2_MLX.pipelines.generation.read_ahead import ReadsAhead

            runner.progress = ReadsAhead(runner.progress, ahead)
        video = run_stages(stages, runner, state)
    else:
        job.remember(facts)
        video = run_generation(stages, runner, job, state, budget)
    return finished_video(video, facts, options, runner, written, request.given)


def start_state(request: Request, runner: StageRunner) -> GenerationState:
    """Results that no stage makes: the contexts of saved embeddings, or of an earlier run with the same prompts."""
    if request.embeddings is not None:
        return GenerationState(contexts=load_contexts(request))
    contexts = cached_contexts(request, use=True)
    if launch.RANK is not None:
        from LTX_2_MLX.pipelines.generation.sharing import contexts_of_first

        contexts = contexts_of_first(contexts)
    if contexts is None:
        return GenerationState()
    runner.progress.note("The prompt's embeddings are those of an earlier run (--no-cache computes them anew).")
    if request.save_embeddings is not None:
        save_contexts(request, contexts)
    return GenerationState(contexts=contexts)


def settled_facts(
    request: Request, options: Options, stages: Sequence[GenerationStage], automatic: Collection[str]
) -> dict[str, Any]:
    """The record of a run, as its metadata and the folder of its states hold it."""
    steps = {}
    for stage in stages:
        if isinstance(stage, Denoise):
            steps[_STEPS[stage.name]] = len(stage.sigmas) - 1
    return record_of(options, request, steps, automatic).as_json()


def finished_video(
    video: FrameStream,
    facts: dict[str, Any],
    options: Options,
    runner: StageRunner,
    written: Mapping[str, Any],
    given: Given | None = None,
) -> FrameStream:
    """The decoded video post-processed, with its record; its sound is written to a file of its own if so requested."""
    if given is not None:
        video = given.finish(video)
    if options.save_audio is not None and isinstance(video.audio, Waveform):
        write_wav(video.audio, options.save_audio)
    if options.post_processes:
        from LTX_2_MLX.pipelines import postprocess

        video = on_every_machine(video)
        video = run_stages(postprocess.stages(video, with_least_memory(options.finishing)), runner, video)
    facts["request"] |= written
    return video.replace(metadata=run_record("generate", **facts))


def decode_saved(folder: Path, runner: StageRunner, *, tile_size: int | None = None) -> FrameStream:
    """The video whose latent a run has saved in a folder: only decoding and what comes after it is done.

    Args:
        folder: Given to ``save_latents`` or ``resume``.
        runner: Runs the stages.
        tile_size: Side of the decoder's tiles in pixels, instead of the run's.

    Raises:
        RequestError: If the run has not come to its latent yet, or was made from other files.
    """
    options = options_from(_record_in(folder), {"resume": folder, "cache": False}, runner.progress.note)
    if tile_size is not None:
        options = replace(options, tile_size=tile_size)
    request = request_for(options, runner.progress.note)
    stages = stages_for(request)
    # What the temporal upscaler makes of a latent is quickly made again.
    last = [stage.name for stage in stages if stage.gives == "latents" and not isinstance(stage, UpscaleLatent)][-1]
    job = job_of(options, runner.progress.note)
    if job is None or job.load(last, **chained_facts(stages)[last]) is None:
        raise RequestError(f"{folder} has no latent to decode. Finish it: {command_line('generate')} --resume {folder}")
    return generate_video(request, runner, options)


def _record_in(folder: Path) -> RunRecord:
    if launch.RANK is None:
        return saved_record(folder)
    from LTX_2_MLX.pipelines.generation.sharing import record_of_first

    return record_of_first(folder)


def job_of(options: Options, note: Callable[[str], None]) -> Job | None:
    """The folder in which the stages' results are saved; None where they are not."""
    folder = options.resume or options.save_latents
    if folder is None:
        return None
    if launch.RANK is not None:
        from LTX_2_MLX.pipelines.generation.sharing import SharedJob

        return SharedJob(Path(folder), resume=options.resume is not None, note=note)
    return Job(Path(folder), resume=options.resume is not None, note=note)
