"""Options from the record of an earlier run."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from LTX_2_MLX.errors import MediaError, RequestError
from LTX_2_MLX.files import content_digest, exists, number
from LTX_2_MLX.media.source import open_media
from LTX_2_MLX.media.writer import RunRecord, record_from
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.recorded_files import path_in
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.options import AUTO, NONE, Declared, declared_options, flag_of, frame_rate, shown
from LTX_2_MLX.runtime.job import remembered_request

_MISSING, _CHANGED = "is missing", "has changed"
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
