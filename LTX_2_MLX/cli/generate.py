"""Generate a video from a prompt."""

import re
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from LTX_2_MLX.cli.command import check_recorded_files, command, plan_text, progress_from, report
from LTX_2_MLX.cli.echo import echo
from LTX_2_MLX.cli.options import Crf, Output, PlanOptions
from LTX_2_MLX.errors import LTXError, RequestError
from LTX_2_MLX.media.suffixes import STILL_SUFFIXES
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.options import Opt, check_options
from LTX_2_MLX.pipelines.requests import MEMORY_GROUP
from LTX_2_MLX.runtime import launch

if TYPE_CHECKING:
    from LTX_2_MLX.media.writer import RunRecord
    from LTX_2_MLX.pipelines.generate import Prepared
    from LTX_2_MLX.runtime.progress import Progress


STDIN = "-"
# Outputs without a name of their own.
NAME_TEMPLATE = Path("gens/<prompt>-<seed>.mp4")
_LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(PlanOptions):
    """Options of the command beside those of the library call."""

    output: Output = NAME_TEMPLATE
    prompt_file: Annotated[
        Path | None,
        Opt(
            "Text file with a prompt a line; each gets a video, and names get -001, -002.",
            group="Video",
            metavar="FILE",
            is_file=True,
        ),
    ] = None
    seed: Annotated[
        int | tuple[int, ...],
        Opt(
            "Seed of all random numbers, or several (--seed 1 2 3), whose names get -seed1; random draws one.",
            metavar="N ...",
            one_or_more=True,
        ),
    ] = 0
    crf: Crf = None
    drafts: Annotated[
        Path | None,
        Opt(
            "Stop after stage 1 of each prompt and seed, and write a page of them into this folder.",
            group="Saved results",
            metavar="FOLDER",
            is_output=True,
        ),
    ] = None
    preview_inline: Annotated[
        bool,
        Opt(
            "Show previews in the terminal, too: iTerm2, kitty, WezTerm, Ghostty.", group="Saved results", only_on=True
        ),
    ] = False
    machines: Annotated[
        str | None,
        Opt(
            "With --dry-run: plan the run for several Macs, such as 2x24GB,1x64GB.",
            group=MEMORY_GROUP,
            metavar="SIZES",
            needs=("dry_run",),
        ),
    ] = None
    replay: Annotated[
        Path | None,
        Opt(
            "Re-run with the options stored in this video's metadata.",
            group="Saved results",
            metavar="VIDEO",
            is_file=True,
        ),
    ] = None


def generate(typed: dict[str, Any], own: GenerateOptions) -> None:
    """Generate a video of PROMPT and write it to OUTPUT."""
    if own.machines is not None or own.preview_inline:
        _check_together(typed, own)
    seeds: tuple[int, ...] = ()
    if "seed" in typed:
        typed, seeds = _with_one_seed(typed)
    if own.replay is None and "resume" not in typed:
        # Errors in the options answer before MLX and FFmpeg are imported.
        Options(**({"prompt": STDIN} | typed))
    if own.drafts is not None:
        from LTX_2_MLX.cli.drafts import generate_drafts

        generate_drafts(typed, own, seeds)
    elif own.prompt_file is not None or len(seeds) > 1 or ("resume" in typed and _is_batch(typed)):
        # Most runs make one video.
        from LTX_2_MLX.cli.batch import generate_several

        generate_several(typed, own, seeds)
    else:
        _generate_one(typed, own)


def _generate_one(typed: dict[str, Any], own: GenerateOptions) -> None:
    is_new = own.replay is None and "resume" not in typed
    if is_new and "prompt" not in typed:
        raise RequestError("There is no prompt. Give one, or --replay a video.")
    from LTX_2_MLX.files import made_folder
    from LTX_2_MLX.pipelines.generate import check_outputs, notes_without_effect
    from LTX_2_MLX.pipelines.generation.record import check_same_size, options_from
    from LTX_2_MLX.pipelines.generation.recorded_files import files_outside

    typed = with_one_frame(typed, own.output)
    if typed.get("prompt") == STDIN:
        typed = typed | {"prompt": prompt_from_stdin()}
    progress = progress_from(vars(own))
    record, own = (None, own) if is_new else recorded(typed, own)
    if record is not None:
        check_recorded_files(files_outside(record, typed), yes=own.yes, note=progress.note)
        if typed.get("enhance_prompt") and "prompt" not in typed:
            typed = typed | {"enhance_prompt": False}
            progress.note("The recorded prompt is taken as it is; --enhance-prompt rewrites a prompt that is typed.")
    options = Options(**typed) if record is None else options_from(record, typed, progress.note)
    ready = prepared(options, own, progress)
    is_named = own.output != NAME_TEMPLATE
    output = own.output if is_named else default_output(ready.options.prompt or "", ready.options.seed)
    for line in notes_without_effect(ready.options, ready.request, typed):
        progress.note(line)
    if record is not None and own.replay is not None:
        check_same_size(record, own.replay, ready.options, ready.request, typed)
    check_outputs(ready.options, ready.request, output)
    if own.dry_run:
        echo(dry_run_text(ready, own))
        return
    automatic = set() if record is None else set(record.automatic) - set(typed)
    with nullcontext() if is_named else made_folder(output.parent):
        _write(ready, own, output, automatic)


def dry_run_text(ready: "Prepared", own: GenerateOptions) -> str:
    """The plan of a dry run, for this machine or for several."""
    if own.machines is None and launch.RANK is None:
        return plan_text(ready.plan, as_json=own.json)
    from LTX_2_MLX.cli.machines import machines_text

    return machines_text(ready, own)


def _check_together(typed: dict[str, Any], own: GenerateOptions) -> None:
    """Refuse options of the command that need others."""
    if own.machines is not None and not own.dry_run:
        raise RequestError("--machines does nothing without --dry-run. Pass both.")
    if not own.preview_inline:
        return
    if "preview" not in typed:
        raise RequestError("--preview-inline does nothing without --preview. Give it a folder.")
    if own.quiet or own.progress == "json":
        raise RequestError("--preview-inline shows images among the progress bars. Leave out --quiet and --progress.")


def _with_one_seed(typed: dict[str, Any]) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The typed options with the seed as a number where there is one, and all of the typed seeds."""
    given = typed["seed"]
    seeds = tuple(given) if isinstance(given, list | tuple) else (given,)
    others = {name: value for name, value in typed.items() if name != "seed"}
    return others | ({"seed": seeds[0]} if len(seeds) == 1 else {}), seeds


def _is_batch(typed: dict[str, Any]) -> bool:
    """Whether a folder to resume is that of several videos."""
    folder = Path(typed["resume"]).expanduser()
    return not (folder / "request.json").is_file() and any(folder.glob("*/request.json"))


def prepared(options: Options, own: GenerateOptions, progress: "Progress") -> "Prepared":
    """The settled run; the notes on what was chosen come after an error, not before it."""
    from LTX_2_MLX.pipelines.generate import prepare

    notes: list[str] = []
    try:
        ready = prepare(options, notes.append, refuse=not (own.dry_run or own.force))
    except LTXError as error:
        for line in notes:
            error.add_note(line)
        raise
    for line in notes:
        progress.note(line)
    return ready


def recorded(typed: dict[str, Any], own: GenerateOptions) -> "tuple[RunRecord | None, GenerateOptions]":
    """The record to repeat or to resume, and the command's own options with the recorded quality."""
    from LTX_2_MLX.media.writer import read_run_record
    from LTX_2_MLX.pipelines.generation.record import saved_record

    if own.replay is not None:
        record = read_run_record(own.replay, "generate")
    elif "resume" in typed:
        record = saved_record(Path(typed["resume"]).expanduser())
    else:
        return None, own
    recorded = dict(record.request)
    # Quality is the command's option, and checked as that.
    quality = recorded.pop("crf", None)
    if own.crf is None:
        own = replace(own, crf=quality)
        check_options(own)
    return replace(record, request=recorded), own


def _write(ready: "Prepared", own: GenerateOptions, output: Path, automatic: set[str]) -> None:
    """Generate the video that was planned, and write it to ``output``."""
    from LTX_2_MLX.files import check_free
    from LTX_2_MLX.media.encoder import CRF
    from LTX_2_MLX.media.frames import validated
    from LTX_2_MLX.media.writer import check_format, write_video
    from LTX_2_MLX.pipelines.generate import finished_shape, generate_video

    crf = CRF if own.crf is None else own.crf
    options = ready.options
    with report(
        output,
        source=own.replay,
        quiet=own.quiet,
        progress=own.progress,
        yes=own.yes,
        wired_bytes=ready.plan.largest_bytes,
        page=own.report,
        preview_inline=own.preview_inline,
    ) as runner:
        runner.facts |= {"command": "generate", "settings": asdict(options), "plan": ready.plan}
        # A name that no container fits, or a full disk, is refused now and not after the work.
        shape = finished_shape(ready.request, options)
        check_format(output, (shape.height, shape.width), shape.num_frames, crf)
        states = options.save_latents or options.resume
        check_free(output, ready.plan.output_bytes)
        if states is not None:
            check_free(states, ready.plan.states_bytes)
        if not own.quiet:
            for line in (*ready.plan.sizes, f"Seed: {options.seed}"):
                runner.progress.note(line)
        stream = generate_video(ready.request, runner, options, automatic=automatic, crf=crf)
        stream = stream if own.allow_blank else validated(stream, moving=True)
        write_video(stream, output, crf=crf, progress=runner.progress)


def prompt_from_stdin() -> str:
    """The prompt on standard input.

    Raises:
        RequestError: If there is none, or it is not UTF-8.
    """
    try:
        prompt = sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise RequestError("The prompt on standard input is not UTF-8.") from error
    if not prompt:
        raise RequestError("There is no prompt on standard input, which - as the prompt reads.")
    return prompt


def with_one_frame(typed: dict[str, Any], output: Path) -> dict[str, Any]:
    """The typed options, with one frame where the output is a still image.

    Raises:
        RequestError: If another length was typed.
    """
    if output.suffix.lower() not in STILL_SUFFIXES:
        return typed
    if typed.get("frames", 1) != 1 or "duration" in typed:
        raise RequestError(f"{output} holds one frame. Leave out the length, or write .mp4, or .webp for a short loop.")
    return typed | {"frames": 1}


def default_output(prompt: str, seed: int) -> Path:
    """``gens/<prompt>-<seed>.mp4``, numbered where that exists."""
    words = re.findall(r"\w+", prompt.lower())
    name = "-".join(words)[:_LONGEST_NAME].strip("-_") or "video"
    # Names of files may have 255 bytes, and letters up to four.
    name = name.encode()[: 3 * _LONGEST_NAME].decode(errors="ignore")
    path = NAME_TEMPLATE.parent / f"{name}-{seed}.mp4"
    for number in count(2):
        if not path.exists():
            break
        path = NAME_TEMPLATE.parent / f"{name}-{seed}-{number}.mp4"
    return path


main = command("generate", generate, GenerateOptions, Options)
