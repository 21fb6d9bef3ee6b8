"""Generate a video from a prompt. Entry point for the CLI, notebooks and library users."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from LTX_2_MLX.checkpoints.resolve import resolve
from LTX_2_MLX.diffusion.sampler import passes
from LTX_2_MLX.errors import MemoryBudgetError, RequestError
from LTX_2_MLX.files import content_digest
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.media.audio import Waveform
from LTX_2_MLX.media.encoder import least_bytes
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.sound import check_wav, write_wav
from LTX_2_MLX.media.writer import RunRecord, run_record, waiting_bytes
from LTX_2_MLX.pipelines.generation.decode import UpscaleLatent
from LTX_2_MLX.pipelines.generation.denoise import Denoise
from LTX_2_MLX.pipelines.generation.embeddings import (
    check_replaceable,
    compare_text_encoder,
    load_contexts,
    save_contexts,
)
from LTX_2_MLX.pipelines.generation.fit import nearest_options
from LTX_2_MLX.pipelines.generation.given import Given
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.prompt import cached_contexts, notes_on_length, remaining
from LTX_2_MLX.pipelines.generation.record import options_from, saved_record
from LTX_2_MLX.pipelines.generation.request import Request, request_for
from LTX_2_MLX.pipelines.generation.run import chained_facts, run_generation
from LTX_2_MLX.pipelines.generation.state import GenerationStage, GenerationState
from LTX_2_MLX.pipelines.one_stage import one_stage
from LTX_2_MLX.pipelines.options import AUTO, NONE, declared_options, flag_of, options_of
from LTX_2_MLX.pipelines.sharing import on_every_machine, with_least_memory
from LTX_2_MLX.pipelines.stage import Stage
from LTX_2_MLX.pipelines.two_stage import two_stage
from LTX_2_MLX.planning.fit import refusal
from LTX_2_MLX.planning.plan import PRECISIONS, Plan, format_bytes, plan
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


def check_outputs(options: Options, request: Request, *outputs: Path) -> None:
    """Refuse to replace a file that the run reads, or a file of the user's that holds no embeddings.

    Args:
        options: With ``save_embeddings`` and ``save_latents``.
        request: With the files that are read.
        outputs: Further files that are written.

    Raises:
        RequestError: If one of them would be replaced.
    """
    in_use: list[Path] = []
    for named in files_of(options, request).values():
        for _, path in named:
            in_use.append(path)
    written = list(outputs)
    if options.save_embeddings is not None:
        written.append(Path(options.save_embeddings))
    if options.save_audio is not None:
        check_wav(Path(options.save_audio))
        written.append(Path(options.save_audio))
    for output in written:
        for path in in_use:
            target = output.resolve()
            if target == path.resolve() or (path.is_dir() and path.resolve() in target.parents):
                raise RequestError(f"{output} is a file that this run reads ({path}). Give another name.")
    if options.save_embeddings is not None and Path(options.save_embeddings).exists():
        check_replaceable(Path(options.save_embeddings))


def notes_without_effect(options: Options, request: Request, typed: Mapping[str, Any]) -> list[str]:
    """A line for each typed option that has no effect on this request, though it is not refused."""
    declared = declared_options(Options)
    lines = []
    for name in typed:
        option = declared[name]
        if not option.opt.has_effect(vars(options)):
            reason = f"without {' or '.join(map(flag_of, option.opt.needs))}"
            if option.opt.only_in:
                reason = f"in --pipeline {options.pipeline}"
            lines.append(f"{option.flag} has no effect {reason}.")
    if typed.get("negative_prompt") is not None and "negative" not in passes(request.guidance):
        lines.append("--negative-prompt has no effect without guidance (--cfg 1).")
    if typed.get("guidance_rescale") and passes(request.guidance) == ["conditional"]:
        lines.append("--guidance-rescale has no effect without guidance (--cfg 1).")
    if "distilled_lora" in typed and declared["distilled_lora"].opt.has_effect(vars(options)):
        unused = request.models.distilled_lora is None and len(request.models.loras) == len(options.lora)
        if unused:
            lines.append("--distilled-lora has no effect: the checkpoint is a distilled one.")
    return lines


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

        unsettled = record_of(options, request, [], automatic)
        automatic = {*automatic, "frames"}
        options, request, state = with_settled_length(options, request, runner, job, state, unsettled.as_json())
    stages = stages_for(request)
    facts = record_of(options, request, stages, automatic).as_json()
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


def record_of(
    options: Options,
    request: Request,
    stages: Sequence[GenerationStage],
    automatic_before: Collection[str] = (),
) -> RunRecord:
    """The record of a run: every option that has an effect, settled, and the digest of every file.

    Args:
        options: As given.
        request: What they were settled to.
        stages: Those of the request, with their numbers of steps; none where they are not settled yet.
        automatic_before: Options that the run which is repeated had settled by itself.
    """
    settled: dict[str, Any] = {
        # Images have their own.
        "image_strength": None,
        "output_height": None,
        "output_width": None,
        "duration": None,
        # What is given has its own sound.
        "audio": None if options.audio_input is not None else request.audio,
        **_settled_guidance(request),
        "precision": PRECISIONS[request.models.dtype],
    }
    for stage in stages:
        if isinstance(stage, Denoise):
            settled[_STEPS[stage.name]] = len(stage.sigmas) - 1
    if not options.has_clip:
        # A clip has its own.
        settled |= {"height": request.height, "width": request.width}
        settled |= {"frames": request.num_frames, "fps": request.frame_rate}
    files = files_of(options, request)
    digests: dict[str, str] = {}
    for name, named in files.items():
        settled[name] = []
        for text, path in named:
            settled[name].append(text)
            digests[str(path)] = content_digest(path)
    values: dict[str, Any] = {}
    automatic: list[str] = []
    for name, declared in declared_options(Options).items():
        value = settled.get(name, getattr(options, name))
        if name in files and not declared.repeated and len(value) == 1:
            value = value[0]
        if not declared.opt.recorded or value is None or not declared.opt.has_effect(vars(options)):
            continue
        if declared.opt.is_file and name not in files and value != NONE:
            continue
        values[name] = value
        if name in automatic_before or getattr(options, name) in (None, AUTO):
            automatic.append(name)
    return RunRecord(values, digests, tuple(automatic))


def _settled_guidance(request: Request) -> dict[str, Any]:
    video = request.guidance["video"]
    settled: dict[str, Any] = {
        "cfg": video.guidance_scale,
        "cfg_stage1": None,
        "negative_prompt": request.negative_prompt if "negative" in passes(request.guidance) else None,
        "guidance_rescale": video.guidance_rescale,
        "stg_scale": video.stg_scale,
        "stg_blocks": list(video.stg_blocks) or None,
    }
    if "audio" in request.guidance:
        settled["modality_scale"] = video.modality_scale
    if "audio" in request.guidance and not (request.given and request.given.frozen_audio):
        audio = request.guidance["audio"]
        if audio.guidance_rescale != video.guidance_rescale:
            # One option cannot say both.
            settled["guidance_rescale"] = None
        settled |= {
            "audio_cfg": audio.guidance_scale,
            "audio_stg_blocks": list(audio.stg_blocks) or None,
        }
    return settled


def files_of(options: Options, request: Request) -> dict[str, list[tuple[str, Path]]]:
    """Files that a run reads: by the option's name, what to type for each file, and its absolute path."""
    models = request.models
    files: dict[str, list[tuple[str, Path]]] = {"weights": list(map(_named, models.weights.paths))}
    checkpoints = {
        "video_vae": models.video_vae,
        "audio_vae": models.audio_vae,
        "duration_head": models.duration_head,
        "spatial_upscaler_weights": models.spatial_upscaler,
        "temporal_weights": models.temporal_upscaler,
    }
    for name, checkpoint in checkpoints.items():
        if checkpoint is not None and checkpoint is not models.weights:
            files[name] = [_named(checkpoint.path)]
    if models.text_encoder is not None:
        files["gemma"] = [_named(models.text_encoder)]
    adapters = []
    # The distillation LoRA comes after those of the user, which it is among in the pipelines `distilled` and `dfr`.
    for lora in (*models.loras, models.distilled_lora):
        if lora is not None:
            adapters.append(_named(lora.checkpoint.path, "" if lora.strength == 1 else f":{lora.strength!r}"))
    files["lora"] = adapters[: len(options.lora)]
    if len(adapters) > len(options.lora):
        files["distilled_lora"] = adapters[len(options.lora) :]
    if models.detailing_lora is not None:
        # With its strength always: the one that is left out is not 1.
        lora = models.detailing_lora
        files["detailing_lora"] = [_named(lora.checkpoint.path, f":{lora.strength!r}")]
    if request.images:
        files["image"] = list(map(_named_image, request.images))
    for name in ("audio_input", "retake", "extend", "control", "embeddings"):
        if getattr(options, name) is not None:
            files[name] = [_named(Path(getattr(options, name)))]
    if options.enable_frame_interpolation:
        model = resolve(options.frame_interpolation_model_path, "interpolator")
        files["frame_interpolation_model_path"] = [_named(model.path)]
    if options.enable_upscaling:
        files["upscaling_model_path"] = [_named(resolve(options.upscaling_model_path, "upscaler").path)]
    return files


def _named(path: Path, after: str = "") -> tuple[str, Path]:
    absolute = path.expanduser().absolute()
    return f"{absolute}{after}", absolute


def _named_image(image: ImagePlace) -> tuple[str, Path]:
    if (image.frame, image.strength) == (0, 1):
        return _named(image.path)
    return _named(image.path, f":{image.frame}" + ("" if image.strength == 1 else f":{image.strength:g}"))
