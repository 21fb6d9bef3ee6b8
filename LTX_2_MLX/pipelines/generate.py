"""A prompt and the command's options to a film. One function for the command, notebooks and programs."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import mlx.core as mx

from LTX_2_MLX.checkpoints.recognise import config_of
from LTX_2_MLX.checkpoints.resolve import AUTO
from LTX_2_MLX.diffusion.guidance import Guidance
from LTX_2_MLX.errors import MemoryBudgetError, RequestError
from LTX_2_MLX.media.encoder import least_bytes
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.record import run_record
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines import one_stage, postprocess, two_stage
from LTX_2_MLX.pipelines.film import Film, Models, upscaler_config
from LTX_2_MLX.pipelines.generation.fit import nearest_options
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.kept import job_for
from LTX_2_MLX.pipelines.model_files import FileOptions, find_models
from LTX_2_MLX.pipelines.options import options_of
from LTX_2_MLX.planning.fit import refusal
from LTX_2_MLX.planning.plan import Plan, count_streams_together
from LTX_2_MLX.runtime.job import Job, remembered_request
from LTX_2_MLX.runtime.memory import GIB, budget_bytes
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import check_multiple

Request = one_stage.Request | two_stage.Request
_DTYPES = {"fp16": mx.float16, "bf16": mx.bfloat16, "fp32": mx.float32}


def generate(prompt: str, *, progress: Progress | None = None, **options: Any) -> FrameStream:
    """A film of ``prompt``. It prints nothing; ``progress`` hears of it.

    Args:
        prompt: What is to be seen.
        progress: Told of stages, steps and choices made; see ``runtime.progress``.
        **options: The other fields of ``Options``, which are those of the command; ``fp16=True`` says the same as
            ``precision="fp16"``.

    Returns:
        The film. Its latent is done; frames are decoded as they are read, or by ``.save(path)``.

    Raises:
        RequestError: If the request cannot be carried out as given.
        CheckpointError: If a file is missing, damaged or of another network.
    """
    runner = StageRunner(progress)
    given = options_of(Options, {"prompt": prompt} | options, "generate")
    prepared = prepare(Options(**given), runner.progress.note)
    return film(prepared.request, runner, prepared.options)


class Prepared(NamedTuple):
    """A request that can be carried out, what was asked for in the end, and what it takes."""

    options: Options
    request: Request
    plan: Plan


def prepare(options: Options, note: Callable[[str], None] = lambda text: None, *, refuse: bool = True) -> Prepared:
    """The request, its plan held against the memory that there is; ``fit`` in the options makes it fit.

    Args:
        options: What was asked for.
        note: Hears of choices.
        refuse: Raise where the plan does not fit and is not to be made to fit.

    Raises:
        RequestError: If it cannot be carried out as given.
        CheckpointError: If a file is missing, damaged or of another network.
        MemoryBudgetError: If it does not fit; with the nearest that does.
    """
    request, budget = request_for(options, note), budget_bytes(options.memory_limit_gb)
    try:
        made = plan(request, options)
    except MemoryBudgetError:
        # Where even the smallest tiles are too large the run would stop as well, so nothing can force it.
        made = None
    if made is not None and made.fits:
        return Prepared(options, request, made)
    found = nearest_options(options, request.film.num_frames, lambda other: plan(request_for(other), other), budget)
    if found is None or not options.fit:
        refused = refusal(made, budget, found)
        if refuse or made is None:
            raise refused
        note(str(refused))
        return Prepared(options, request, made)
    note(f"To fit into {budget / GIB:.2f} GiB: {' '.join(found.flags)}")
    return Prepared(found.options, request_for(found.options), found.plan)


def request_for(options: Options, note: Callable[[str], None] = lambda text: None) -> Request:
    """The options as a pipeline's request: files found, sizes and defaults settled; ``note`` hears of choices.

    Raises:
        RequestError: If they cannot be carried out as given.
        CheckpointError: If a file is missing, or is not what its flag says.
    """
    models = replace(find_models(_file_options(options), note), quantize=options.quantize, low_ram=options.low_ram)
    if options.pipeline == "distilled":
        models = models.as_distilled()
    if models.defaults.notice:
        note(models.defaults.notice)
    scene = Film(
        prompt=options.prompt,
        negative_prompt=_or(options.negative_prompt, models.defaults.negative_prompt),
        num_frames=_num_frames(options, models),
        frame_rate=_frame_rate(options, models),
        guidance=_guidance(options, models, note),
        seed=options.seed,
        image=_path(options.image),
        image_strength=options.image_strength,
        temporal_upscale=options.temporal_upscale,
        tile_size=options.tile_size,
        embeddings=_path(options.embeddings),
        save_embeddings=_path(options.save_embeddings),
        memory_limit_gb=options.memory_limit_gb,
    )
    if not options.two_stages:
        height, width = (_side(options, models, name, Fraction(1)) for name in ("height", "width"))
        return one_stage.Request(scene, models, height, width, options.steps)
    scale = upscaler_config(models.spatial_upscaler, temporal=False, flag="--spatial-upscaler-weights").scale
    height, width = (_side(options, models, name, scale) for name in ("height", "width"))
    return two_stage.Request(scene, models, height, width, options.steps_stage1, options.steps_stage2)


def plan(request: Request, options: Options | None = None) -> Plan:
    """What the request takes, from headers alone; every file is checked as loading will check it.

    With ``options`` it tells what is done to the frames afterwards as well.
    """
    making = two_stage.plan(request) if isinstance(request, two_stage.Request) else one_stage.plan(request)
    if options is None:
        return making
    shape, frames, rate = request.output_shape, request.output_shape.num_frames, request.film.frame_rate
    if request.film.temporal_upscale:
        frames, rate = 2 * frames - 1, 2 * rate
    coming = FrameStream((), height=shape.height, width=shape.width, frame_rate=rate, num_frames=frames)
    keeps = (options.save_latents or options.resume) is not None
    making = replace(
        making,
        budget_bytes=budget_bytes(options.memory_limit_gb),
        # Frames are nearly all of the states.
        states_bytes=3 * frames * shape.height * shape.width if keeps else 0,
    )
    if options.finishing.anything:
        finishing = postprocess.plan_for(coming, options.finishing)
        stages = count_streams_together([*making.stages, *finishing.stages])
        making = replace(making, sizes=making.sizes + finishing.sizes, stages=stages)
        frames = options.finishing.num_frames(frames)
    return replace(making, output_bytes=least_bytes(output_size(request, options), frames))


def output_size(request: Request, options: Options) -> tuple[int, int]:
    """Height and width of the finished film."""
    return options.finishing.size(request.output_shape.height, request.output_shape.width)


def film(request: Request, runner: StageRunner, options: Options, **written: Any) -> FrameStream:
    """The film of a request; ``options`` go into its metadata, so that it can be made again.

    ``written`` says how its file will be written and goes there too.
    """
    make = two_stage.two_stage if isinstance(request, two_stage.Request) else one_stage.one_stage
    given = _recorded(options) | written
    made = postprocess.postprocess(make(request, runner, _job(request, options, runner)), options.finishing, runner)
    return made.replace(metadata=run_record("generate", given))


def kept_film(folder: Path, runner: StageRunner, *, tile_size: int | None = None) -> FrameStream:
    """The film whose latent a run has left in a folder: only decoding and what comes after it is done.

    Args:
        folder: Given to ``save_latents`` or ``resume``.
        runner: Runs the stages.
        tile_size: Side of the decoder's tiles in pixels, instead of what the run was asked for.

    Raises:
        RequestError: If the run has not come to its latent yet, or was made from other files.
    """
    asked = options_from(remembered_request(folder), {"resume": folder})
    options = asked if tile_size is None else replace(asked, tile_size=tile_size)
    request = request_for(options, runner.progress.note)
    last = two_stage.LAST_STAGE if options.two_stages else one_stage.LAST_STAGE
    if (found := _job(request, options, runner).found(last)) is None:
        raise RequestError(f"{folder} has no latent to decode. Finish it: scripts/generate.py --resume {folder}")
    del found
    return film(request, runner, options)


def options_from(recorded: dict[str, Any], told: dict[str, Any]) -> Options:
    """Options of an earlier run with others in their place.

    Raises:
        RequestError: If this version does not know one of them, or its value is not what it can be.
    """
    if unknown := sorted(recorded.keys() - Options.__dataclass_fields__.keys()):
        raise RequestError(f"The run to be repeated was made with {unknown[0]!r}, which this version does not have.")
    return Options(**(options_of(Options, recorded, "The run to be repeated") | told))


def _recorded(options: Options) -> dict[str, Any]:
    """What makes the same film again; where its states are kept is of no account."""
    return {
        name: value
        for name, value in asdict(options).items()
        if value is not None and name not in ("save_latents", "resume", "fit")
    }


def _job(request: Request, options: Options, runner: StageRunner) -> Job:
    return job_for(
        _recorded(options),
        request.film,
        request.models,
        save=_path(options.save_latents),
        resume=_path(options.resume),
        note=runner.progress.note,
    )


def _file_options(options: Options) -> FileOptions:
    variant = options.model_variant
    if variant is None and options.weights == AUTO and options.pipeline == "distilled":
        variant = "distilled"
    return FileOptions(
        weights=options.weights,
        variant=variant,
        gemma=options.gemma if options.embeddings is None else None,
        spatial_upscaler=options.spatial_upscaler_weights if options.two_stages else None,
        temporal_upscaler=options.temporal_weights if options.temporal_upscale else None,
        distilled_lora=options.distilled_lora if options.pipeline in ("two-stage", "distilled") else None,
        loras=tuple(options.lora),
        dtype=_DTYPES[options.precision] if options.precision else _usual_dtype(),
    )


def _usual_dtype() -> mx.Dtype:
    # 16-bit matrix products are slow on MLX's CPU backend.
    return mx.float32 if on_cpu() else mx.bfloat16


def _num_frames(options: Options, models: Models) -> int:
    if options.duration is None:
        return _or(options.frames, models.defaults.num_frames)
    if not 0 < options.duration <= 3600:
        raise RequestError(f"--duration is {options.duration:g} s, it can be above 0 up to 3600.")
    step = models.compression.time
    return math.ceil((Fraction(str(options.duration)) * _frame_rate(options, models) - 1) / step) * step + 1


def _frame_rate(options: Options, models: Models) -> Fraction:
    try:
        return models.defaults.frame_rate if options.fps is None else Fraction(str(options.fps))
    except (ValueError, ZeroDivisionError) as error:
        raise RequestError(f"--fps is {options.fps}, expected a number such as 24 or 24000/1001.") from error


def _guidance(options: Options, models: Models, note) -> Guidance:
    scale = options.cfg if options.cfg_stage1 is None else options.cfg_stage1
    if scale is None:
        scale = 1.0 if models.distilled else models.defaults.cfg
    elif scale > 1 and models.distilled:
        note(
            f"Guidance {scale:g} with a distilled checkpoint costs twice the time and tends to harsh colours: "
            f"it was made for --cfg 1."
        )
    blocks = models.defaults.stg_blocks(config_of(Transformer, models.weights).num_layers)
    return Guidance(
        guidance_scale=scale,
        guidance_rescale=options.guidance_rescale,
        stg_scale=options.stg_scale,
        stg_blocks=blocks if options.stg_scale else (),
    )


def _side(options: Options, models: Models, name: Literal["height", "width"], scale: Fraction) -> int:
    """Pixels of the first stage along one axis."""
    cell = getattr(models.compression, name)
    output = getattr(options, f"output_{name}")
    if output is None:
        side = _or(getattr(options, name), getattr(models.defaults, name))
        check_multiple(f"--{name}", side, cell)
        return side
    # Output sizes that a whole number of stage-1 cells leads to.
    check_multiple(f"--output-{name}", output, scale.numerator * cell)
    return int(output / scale)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _or(given: Any, usual: Any) -> Any:
    return usual if given is None else given
