"""Several videos in one run of ``generate``: seeds, prompts of a file, and batches that are resumed."""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from LTX_2_MLX.cli.echo import echo
from LTX_2_MLX.cli.generate import NAME_TEMPLATE, default_output, with_one_frame
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.generation.options import Options

if TYPE_CHECKING:
    from LTX_2_MLX.cli.generate import GenerateOptions
    from LTX_2_MLX.pipelines.batch import Item
    from LTX_2_MLX.pipelines.generate import Prepared
    from LTX_2_MLX.runtime.progress import Progress

# Options with a place to write, of which each video gets its own.
_FOLDERS = ("save_latents", "resume", "preview")
_LARGEST_FILE = 1 << 20
_EXPECTED = "Give a text file with a prompt a line."


@dataclass(frozen=True)
class Named:
    """One video of a batch.

    Attributes:
        prompt: Its prompt.
        seed: Its seed.
        suffix: What its files' names get, such as ``-001-seed3``.
        frames: Its length where a run that is resumed has settled it.
    """

    prompt: str
    seed: int
    suffix: str
    frames: int = 0


def prompts_in(path: Path) -> list[str]:
    """Prompts of a text file, one a line; empty lines and those that begin with # are left out.

    Raises:
        RequestError: If it cannot be read, or holds none.
    """
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read: {error.strerror}. Give a text file with a prompt a line."
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text. {_EXPECTED}") from error
    if len(data) > _LARGEST_FILE:
        raise RequestError(f"{path} has more than 1 MB. {_EXPECTED}")
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise RequestError(f"{path} holds no prompt. Write one a line.")
    return prompts


def videos_of(prompts: Sequence[str], seeds: Sequence[int]) -> list[Named]:
    """Every prompt with every seed, and what its files' names get.

    Raises:
        RequestError: If a seed was given twice.
    """
    if len(set(seeds)) != len(seeds):
        raise RequestError(f"A seed was given twice: {' '.join(map(str, seeds))}. Give each once.")
    videos = []
    for number, prompt in enumerate(prompts, 1):
        for seed in seeds:
            suffix = f"-{number:03d}" if len(prompts) > 1 else ""
            suffix += f"-seed{seed}" if len(seeds) > 1 else ""
            videos.append(Named(prompt, seed, suffix))
    return videos


def run_folders(folder: Path) -> list[Path]:
    """Folders of the videos of a batch whose results are saved in ``folder``; none where it is no batch's."""
    if not folder.is_dir() or (folder / "request.json").is_file():
        return []
    found = [path.parent for path in folder.glob("*/request.json")]
    return sorted(
        found, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
    )


def generate_several(typed: dict[str, Any], own: "GenerateOptions", seeds: Sequence[int]) -> None:
    """Generate a video of each prompt with each seed, every network loaded once for all of them."""
    from LTX_2_MLX.cli.command import progress_from
    from LTX_2_MLX.cli.generate import dry_run_text
    from LTX_2_MLX.pipelines.generate import check_outputs

    progress = progress_from(vars(own))
    batch = planned_batch(typed, own, videos_asked_for(typed, own, seeds), progress)
    items = [item_of(batch.ready, typed, video) for video in batch.videos]
    outputs = _outputs(batch.videos, batch.own.output)
    for item, output in zip(items, outputs, strict=True):
        check_outputs(item.options, item.request, output)
    if own.dry_run:
        echo(dry_run_text(batch.ready, own))
        return
    _write_all(batch.ready, batch.own, items, outputs, batch.automatic)


class PlannedBatch(NamedTuple):
    """Several videos that can be made: the plan of one of them, and what differs.

    Attributes:
        ready: The settled run of the video with the longest prompt.
        own: The command's own options, with the recorded quality.
        videos: Prompts, seeds and names.
        automatic: Options that a repeated run had settled by itself.
    """

    ready: "Prepared"
    own: "GenerateOptions"
    videos: Sequence[Named]
    automatic: set[str]


def planned_batch(
    typed: dict[str, Any], own: "GenerateOptions", videos: Sequence[Named], progress: "Progress"
) -> PlannedBatch:
    """Settle the options that the videos share."""
    from LTX_2_MLX.cli.command import check_recorded_files
    from LTX_2_MLX.cli.generate import prepared, recorded
    from LTX_2_MLX.pipelines.generate import notes_without_effect
    from LTX_2_MLX.pipelines.generation.record import options_from
    from LTX_2_MLX.pipelines.generation.recorded_files import files_outside

    longest = max(videos, key=lambda video: len(video.prompt))
    # The plan is that of the longest video.
    first = max(videos, key=lambda video: video.frames)
    base = with_one_frame(typed, own.output) | _places(typed, first)
    record, own = recorded(base, own)
    base |= {"prompt": longest.prompt, "seed": first.seed}
    if record is not None:
        check_recorded_files(files_outside(record, base), yes=own.yes, note=progress.note)
    options = Options(**base) if record is None else options_from(record, base, progress.note)
    # The plan is that of prompts that no earlier run had.
    ready = prepared(replace(options, cache=False), own, progress)
    for line in notes_without_effect(ready.options, ready.request, base):
        progress.note(line)
    automatic = set() if record is None else set(record.automatic) - set(base)
    return PlannedBatch(ready, own, videos, automatic)


def videos_asked_for(typed: dict[str, Any], own: "GenerateOptions", seeds: Sequence[int]) -> list[Named]:
    """The videos that are asked for by a file, a prompt, a record, or the folder of a batch."""
    if own.prompt_file is not None and "prompt" in typed:
        raise RequestError("A prompt and --prompt-file are mutually exclusive. Leave one out.")
    if own.prompt_file is not None:
        return videos_of(prompts_in(own.prompt_file), seeds or (Options.seed,))
    if "prompt" in typed:
        return videos_of([typed["prompt"]], seeds or (Options.seed,))
    if own.replay is not None:
        from LTX_2_MLX.media.writer import read_run_record

        request = read_run_record(own.replay, "generate").request
        return videos_of([request.get("prompt", "")], seeds or (request.get("seed", Options.seed),))
    if "resume" in typed:
        return _saved_videos(Path(typed["resume"]).expanduser(), seeds)
    raise RequestError("There is no prompt. Give one, --prompt-file, or --replay a video.")


def _saved_videos(folder: Path, seeds: Sequence[int]) -> list[Named]:
    from LTX_2_MLX.pipelines.generation.record import saved_record

    videos = []
    for path in run_folders(folder):
        request = saved_record(path).request
        if not seeds or request.get("seed") in seeds:
            suffix = f"-{path.name.replace('seed-', 'seed')}"
            frames = request.get("frames", 0)
            videos.append(Named(request.get("prompt", ""), request.get("seed", Options.seed), suffix, frames))
    if not videos:
        raise RequestError(f"{folder} holds no saved run of these seeds. Start with --save-latents.")
    return videos


def _places(typed: dict[str, Any], video: Named) -> dict[str, Any]:
    """Places to write of one video, by option: folders inside those that were typed, and the name of its sound."""
    places: dict[str, Any] = {}
    folder = video.suffix.removeprefix("-").replace("seed", "seed-")
    for name in _FOLDERS:
        if typed.get(name) is not None and folder:
            places[name] = Path(typed[name]).expanduser() / folder
    if typed.get("save_audio") is not None:
        places["save_audio"] = _with_suffix(Path(typed["save_audio"]), video.suffix)
    return places


def item_of(ready: "Prepared", typed: dict[str, Any], video: Named) -> "Item":
    """One video of the batch, as a run of its own would get it."""
    from LTX_2_MLX.pipelines.batch import Item
    from LTX_2_MLX.pipelines.generation.request import request_for

    cache = typed.get("cache", Options.cache)
    options = replace(ready.options, prompt=video.prompt, seed=video.seed, cache=cache, **_places(typed, video))
    if video.frames and options.frames and not typed.keys() & {"frames", "duration"}:
        # A duration head gave each prompt a length of its own.
        options = replace(options, frames=video.frames)
    request = ready.request if options.frames == ready.options.frames else request_for(options)
    previews = request.previews
    if previews is not None and options.preview is not None:
        previews = replace(previews, folder=Path(options.preview))
    own = {"prompt": video.prompt, "seed": video.seed, "cache": cache, "previews": previews}
    return Item(options, replace(request, **own))


def _outputs(videos: Sequence[Named], named: Path) -> list[Path]:
    outputs: list[Path] = []
    for video in videos:
        if named != NAME_TEMPLATE:
            output = _with_suffix(named, video.suffix)
        else:
            output = default_output(video.prompt, video.seed)
            # A prompt that stands in the file twice.
            output = _with_suffix(output, video.suffix) if output in outputs else output
        outputs.append(output)
    return outputs


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.stem}{suffix}{path.suffix}")


def _write_all(
    ready: "Prepared", own: "GenerateOptions", items: "Sequence[Item]", outputs: Sequence[Path], automatic: set[str]
) -> None:
    from LTX_2_MLX.cli.command import check_existing, report
    from LTX_2_MLX.files import check_free, check_writable, made_folder
    from LTX_2_MLX.media.encoder import CRF
    from LTX_2_MLX.media.frames import validated
    from LTX_2_MLX.media.video import write_video
    from LTX_2_MLX.media.writer import check_format
    from LTX_2_MLX.pipelines.batch import generate_batch
    from LTX_2_MLX.pipelines.generate import finished_shape

    crf = CRF if own.crf is None else own.crf
    folder = nullcontext() if own.output != NAME_TEMPLATE else made_folder(NAME_TEMPLATE.parent)
    settings: dict[str, Any] = {"quiet": own.quiet, "progress": own.progress, "yes": own.yes}
    settings |= {"preview_inline": own.preview_inline, "page": own.report}
    with folder, report(None, wired_bytes=ready.plan.largest_bytes, **settings) as runner:
        runner.facts |= _shared_facts(ready)
        shape = finished_shape(ready.request, ready.options)
        for output in outputs:
            check_writable(output, own.replay)
            check_existing(output, yes=own.yes)
            check_format(output, (shape.height, shape.width), shape.num_frames, crf)
        check_free(outputs[0], len(items) * ready.plan.output_bytes)
        if not own.quiet:
            for line in (*ready.plan.sizes, f"{len(items)} videos, each network loaded once for all of them"):
                runner.progress.note(line)
        streams = generate_batch(items, runner, automatic=automatic, crf=crf)
        for output, (item, stream) in zip(outputs, streams, strict=True):
            stream = stream if own.allow_blank else validated(stream, moving=True)
            write_video(stream, output, crf=crf, progress=runner.progress)
            runner.progress.note(f"Wrote {output}")
            runner.facts["videos"][f"{output.name}, seed {item.options.seed}: {item.options.prompt}"] = output


def _shared_facts(ready: "Prepared") -> dict[str, Any]:
    """What the page on the run shows of all videos in common, and a place for what it shows of each."""
    settings = asdict(ready.options) | dict.fromkeys(("prompt", "seed", *_FOLDERS, "save_audio"))
    return {"command": "generate", "settings": settings, "plan": ready.plan, "videos": {}}
