"""Records of generations: the settled request with its files, and options from such a record."""

from collections.abc import Callable, Collection, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.resolve import resolve
from LTX_2_MLX.diffusion.sampler import passes
from LTX_2_MLX.errors import CheckpointError, MediaError, RequestError
from LTX_2_MLX.files import content_digest, exists, number
from LTX_2_MLX.media.output import RunRecord, record_from
from LTX_2_MLX.media.sound import check_wav
from LTX_2_MLX.media.source import open_media
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.recorded_files import path_in
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.options import AUTO, NONE, Declared, declared_options, flag_of, frame_rate, shown
from LTX_2_MLX.runtime.job import remembered_request

_MISSING, _CHANGED = "is missing", "has changed"
EMBEDDINGS_FORMAT = "LTX-2-MLX contexts"
# Automatic choices that are made anew when one of these options is typed over a record.
_FOLLOW_MODEL = (
    "weights", "video_vae", "audio_vae", "gemma", "audio", "spatial_upscaler_weights", "temporal_weights",
    "distilled_lora", "detailing_lora",
)  # fmt: skip
_FOLLOW_PIPELINE = (
    "cfg", "audio_cfg", "guidance_rescale", "stg_scale", "stg_blocks", "audio_stg_blocks", "modality_scale",
    "sampler", "negative_prompt", "steps", "steps_stage1", "steps_stage2",
)  # fmt: skip
_MADE_ANEW = {
    "weights": _FOLLOW_MODEL + _FOLLOW_PIPELINE,
    "model_variant": _FOLLOW_MODEL + _FOLLOW_PIPELINE,
    "pipeline": ("spatial_upscaler_weights", "distilled_lora", "detailing_lora", *_FOLLOW_PIPELINE),
    "cfg": ("audio_cfg",),
    "cfg_stage1": ("audio_cfg",),
    "audio_input": ("frames",),
}


# Options that change the size of a video.
_SIZE_OPTIONS = {"height", "width", "output_height", "output_width", "pipeline", "weights", "model_variant"}
_SIZE_OPTIONS |= {"spatial_upscaler_weights", "enable_upscaling", "upscaling_scale", "spatial_doubling"}


def record_of(
    options: Options, request: Request, steps: Mapping[str, int], automatic_before: Collection[str] = ()
) -> RunRecord:
    """The record of a run: every option that has an effect, settled, and the digest of every file.

    Args:
        options: As given.
        request: What they were settled to.
        steps: Denoising steps by the option's name.
        automatic_before: Options that the run which is repeated had settled by itself.
    """
    models = request.models
    settled: dict[str, Any] = {
        # Images have their own.
        "image_strength": None,
        "output_height": None,
        "output_width": None,
        "duration": None,
        # What is given has its own sound.
        "audio": None if options.audio_input is not None else request.audio,
        **_settled_guidance(request),
        "cfg_stage1": None,
        "negative_prompt": request.negative_prompt if "negative" in passes(request.guidance) else None,
        "precision": {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}[str(models.dtype).rpartition(".")[2]],
        **steps,
    }
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


def saved_record(folder: Path) -> RunRecord:
    """The record of the run whose stages are saved in a folder.

    Raises:
        RequestError: If the folder holds none that can be read.
    """
    facts = remembered_request(folder)
    if "request" not in facts:
        # An earlier version's: the options alone.
        return RunRecord(facts, source=folder)
    try:
        return record_from(facts, folder)
    except MediaError as error:
        raise RequestError(str(error)) from error


def options_from(
    record: RunRecord, typed: Mapping[str, Any], note: Callable[[str], None] = lambda text: None
) -> Options:
    """Options of an earlier run with typed ones in their place, also where they say the same in another way.

    Args:
        record: Of the earlier run. It is data from a stranger: places to write in it are ignored.
        typed: Options by name.
        note: Callback for what was left out, and for the files that are read.

    Raises:
        RequestError: If this version does not know an option of the record, its value is not one, or a recorded file
            is missing or has changed.
    """
    declared = declared_options(Options)
    if {"retake", "extend"} & typed.keys():
        # The recorded pipeline may have two stages, which a clip has not.
        typed = {"pipeline": "one-stage", **typed}
    recorded = {}
    for name, value in record.request.items():
        if name in declared:
            recorded[name] = _value(declared[name], value)
        else:
            note(f"The record has {shown(name)}, which this version does not know: it is not used.")
    for name in list(recorded):
        if not declared[name].opt.recorded:
            recorded.pop(name)
            note(f"The record names a place to write ({flag_of(name)}): it is not used.")
    recorded = _replaced(recorded, typed, record)
    recorded = _with_effect(recorded, typed, note)
    recorded = _beside_record(recorded, typed, record.source)
    if "prompt" not in recorded and "prompt" not in typed:
        raise RequestError(f"The record of {record.source} has no prompt. Give one.")
    options = Options(**{**recorded, **typed})
    _check_files(options, record, typed, note)
    return options


def _value(declared: Declared, value: Any) -> Any:
    """A value of a record: numbers that NumPy left as text are numbers again."""
    if declared.kind in (int, float) and isinstance(value, str):
        try:
            return number(value, declared.kind)
        except ValueError:
            return value
    if declared.kind is Fraction and value is not None:
        return frame_rate(value, declared.flag)
    return value


def _replaced(recorded: dict[str, Any], typed: Mapping[str, Any], record: RunRecord) -> dict[str, Any]:
    """The recorded options without those that a typed one replaces, or that follow from what it changes."""
    declared = declared_options(Options)
    dropped: set[str] = set(typed)
    for name, value in typed.items():
        dropped |= set(declared[name].opt.replaces)
        if name in _MADE_ANEW and value != recorded.get(name):
            dropped |= set(_MADE_ANEW[name]) & set(record.automatic)
    return {name: value for name, value in recorded.items() if name not in dropped}


def _with_effect(recorded: dict[str, Any], typed: Mapping[str, Any], note: Callable[[str], None]) -> dict[str, Any]:
    """The recorded options that have an effect beside the typed ones; the others are noted."""
    declared = declared_options(Options)
    switches = {name: option.default for name, option in declared.items()} | recorded | dict(typed)
    left_out = []
    for name in list(recorded):
        if not declared[name].opt.has_effect(switches):
            if recorded[name] != declared[name].default:
                left_out.append(declared[name].flag)
            recorded.pop(name)
    if left_out:
        note(f"Recorded options without an effect here are left out: {', '.join(left_out)}.")
    return recorded


def _beside_record(recorded: dict[str, Any], typed: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Relative paths of earlier versions' records, looked for beside the video and not in the current folder."""
    folder = source if source.is_dir() else source.parent
    declared = declared_options(Options)
    for name, value in recorded.items():
        is_list = isinstance(value, list | tuple)
        texts = value if is_list else [value]
        # Values of another type are left for the options to refuse.
        if not declared[name].opt.is_file or (declared[name].repeated and not is_list):
            continue
        if not all(isinstance(text, str) for text in texts):
            continue
        absolute = [_absolute_beside(folder, text, declared[name].flag) for text in texts]
        recorded[name] = absolute if is_list else absolute[0]
    return recorded


def _absolute_beside(folder: Path, text: str, flag: str) -> str:
    path = path_in(flag, text)
    if text == AUTO or Path(path).expanduser().is_absolute():
        return text
    beside = (folder / path).absolute()
    if exists(beside):
        return f"{beside}{text.removeprefix(path)}"
    if exists(path):
        raise RequestError(
            f"The record names the relative path {path}, which is not beside it. A file of that name in the current "
            f"folder may be another one: name the file with {flag}."
        )
    return text


def _check_files(options: Options, record: RunRecord, typed: Mapping[str, Any], note: Callable[[str], None]) -> None:
    """Refuse recorded files that are missing or have changed; name those that are read."""
    if record.files is None:
        note(f"{record.source} was made by a version that did not record its files. They are looked for anew.")
        return
    differing = []
    used = {}
    for path, flag in _recorded_paths(options, typed):
        verdict = _verdict(path, record.files)
        if verdict in (_MISSING, _CHANGED):
            differing.append(f"{path} ({flag}) {verdict}")
        used[path] = verdict
    if differing:
        raise RequestError(
            f"{record.source} cannot be repeated with the same files: {'; '.join(differing)}. To use other files, name "
            f"them with their flags."
        )
    if used:
        note(f"Files of the record: {', '.join(f'{path} ({verdict})' for path, verdict in used.items())}")


def _recorded_paths(options: Options, typed: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and flag of every file that the record names, and no typed option replaces."""
    for name, declared in declared_options(Options).items():
        if not declared.opt.is_file or name in typed or not declared.opt.has_effect(vars(options)):
            continue
        value = getattr(options, name)
        for text in value if isinstance(value, tuple) else [value]:
            path = path_in(declared.flag, str(text))
            if value is not None and path not in (AUTO, NONE):
                yield path, declared.flag


def _verdict(path: str, digests: Mapping[str, str]) -> str:
    """What becomes of a recorded file's digest."""
    if path not in digests:
        return "without a recorded digest"
    if not exists(path):
        return _MISSING
    return "unchanged" if content_digest(path) == digests[path] else _CHANGED


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


def check_same_size(
    record: RunRecord, video: Path, options: Options, request: Request, typed: Mapping[str, Any]
) -> None:
    """Refuse a replay that would have another size, where the record does not say which model was used.

    Raises:
        RequestError: If the video cannot have been made by the model that is found now.
    """
    if record.files is not None or _SIZE_OPTIONS & set(typed):
        return
    shape = request.output_shape
    size = options.finishing.size(shape.height, shape.width)
    with open_media(video) as container:
        stream = container.streams.video[0]
        recorded = stream.height, stream.width
    if size != recorded:
        raise RequestError(
            f"{video} cannot be repeated: it is {recorded[0]}×{recorded[1]}, but with {request.models.weights.path} it "
            f"would be {size[0]}×{size[1]}. Its record does not say which files it was made with: name them with "
            f"--weights and --gemma."
        )


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
        _check_embeddings(options.save_embeddings)


def _check_embeddings(path: str | Path) -> None:
    try:
        found = Checkpoint(Path(path)).header.metadata.get("format", "")
    except CheckpointError:
        found = ""
    if not found.startswith(EMBEDDINGS_FORMAT):
        raise RequestError(f"{path} exists and holds no prompt embeddings. Give --save-embeddings another name.")
