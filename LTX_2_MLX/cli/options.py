"""Options of commands: those beside the library's, Typer's parameters for declared options, and seeds in words."""

import inspect
import secrets
from dataclasses import MISSING, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from LTX_2_MLX.pipelines.options import (
    NONE,
    Declared,
    Opt,
    bounds,
    declared_options,
)

ProgressKind = Literal["bar", "json"]
_RUN, _OUTPUT = "Run", "Output"

Output = Annotated[
    Path,
    Opt(
        "File to write. An existing file is replaced after a question, or unasked without a terminal.",
        group=_OUTPUT,
        flags=("--output", "-o"),
        metavar="FILE",
        is_output=True,
    ),
]
Crf = Annotated[float | None, Opt("Quality of the video file; 0 is best.", group=_OUTPUT, min=0, max=51, default="17")]
Repair = Annotated[
    bool,
    Opt("Read a damaged video too; damaged and missing frames repeat the one before.", group="Input", only_on=True),
]
KeepMetadata = Annotated[
    bool,
    Opt("Keep EXIF and tags of the input, and record the run in a video.", group=_OUTPUT),
]
ExactSize = Annotated[
    bool,
    Opt(
        "Keep an odd width or height in H.264 and H.265, in a pixel format (4:4:4) that Apple's players lack.",
        group=_OUTPUT,
        only_on=True,
    ),
]
Deinterlacing = Annotated[
    Literal["same", "double"] | None,
    Opt("Deinterlace the video, at the same rate or at twice the rate (one frame for each field).", group="Input"),
]
BitDepth = Annotated[
    int,
    Opt(
        "Bits for each colour; 10 writes H.265 with the HDR data of the input (.mp4, .mov, .mkv).",
        group=_OUTPUT,
        choices=(8, 10),
    ),
]
InputVideo = Annotated[
    Path, Opt("Video file in any format that FFmpeg reads.", positional=True, metavar="VIDEO", is_file=True)
]

Yes = Annotated[bool, Opt("Answer every question with yes.", group=_RUN, flags=("--yes", "-y"), only_on=True)]
_FLAG_HELP = {"fp16": "Compute in float16.", "bf16": "Compute in bfloat16.", "fp32": "Compute in float32."}
RANDOM = "random"
SEED_FLAG = "--seed"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run reports."""

    quiet: Annotated[bool, Opt("Print nothing but warnings and errors.", group=_RUN, only_on=True)] = False
    progress: Annotated[
        ProgressKind, Opt("Progress output format: bars, or JSON lines on stderr for programs.", group=_RUN)
    ] = "bar"


@dataclass(frozen=True, kw_only=True)
class WriteOptions(RunOptions):
    """What is written, and which checks it has to pass."""

    output: Output
    report: Annotated[
        Path | None,
        Opt(
            "Write a page on the run: settings, plan beside measured by stage, notes, frames of the result.",
            group=_OUTPUT,
            metavar="FILE.html",
            is_output=True,
        ),
    ] = None
    yes: Yes = False
    no_download: Annotated[bool, Opt("Refuse to download files that are missing.", group=_RUN, only_on=True)] = False
    allow_blank: Annotated[
        bool, Opt("Accept an output of a single color or of identical frames.", group=_RUN, only_on=True)
    ] = False


@dataclass(frozen=True, kw_only=True)
class PlanOptions(WriteOptions):
    """A plan of memory before the run."""

    dry_run: Annotated[bool, Opt("Print the plan and stop.", group=_RUN, only_on=True)] = False
    json: Annotated[
        bool, Opt("With --dry-run: print the plan as JSON.", group=_RUN, only_on=True, needs=("dry_run",))
    ] = False
    force: Annotated[bool, Opt("Ignore the memory check.", group=_RUN, only_on=True)] = False


@dataclass(frozen=True, kw_only=True)
class VideoOptions(PlanOptions):
    """A video in, a video out."""

    video: InputVideo
    crf: Crf = None
    repair: Repair = False
    metadata: KeepMetadata = True
    exact_size: ExactSize = False
    deinterlace: Deinterlacing = None
    bit_depth: BitDepth = 8


class _Unset:
    """The value of an option that was typed as ``none``."""

    def __str__(self) -> str:
        return NONE


UNSET = _Unset()


def parameters(options: type, *, positional_optional: bool = False) -> list[inspect.Parameter]:
    """A keyword parameter for each option of a dataclass, annotated for Typer."""
    made: list[inspect.Parameter] = []
    for declared in declared_options(options).values():
        if declared.name == "precision":
            made += [_precision_flag(declared, choice) for choice in declared.choices]
            continue
        made.append(_parameter(declared, positional_optional))
    return made


def option(options: type, name: str) -> Any:
    """The annotation of one declared option, for a command that has its own signature."""
    return _parameter(declared_options(options)[name], False).annotation


def _parameter(declared: Declared, positional_optional: bool) -> inspect.Parameter:
    opt = declared.opt
    kind = _typer_kind(declared)
    default = declared.default
    if default is MISSING and opt.positional and positional_optional:
        default = None
        kind = kind | None
    if declared.repeated:
        default = None
        kind = kind | None
    elif opt.one_or_more and default is not None:
        default = [default]
    settings: dict[str, Any] = {"help": help_text(declared), "metavar": _metavar(declared), "show_default": False}
    if opt.positional:
        note = typer.Argument(**settings)
    else:
        parser = _parser(declared)
        if parser is not None:
            settings["parser"] = parser
        note = typer.Option(*_names(declared), **settings, rich_help_panel=opt.group)
    return _keyword(declared.name, Annotated[kind, note], default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    if default is MISSING:
        default = inspect.Parameter.empty
    elif isinstance(default, Path):
        default = str(default)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _precision_flag(declared: Declared, choice: str) -> inspect.Parameter:
    note = typer.Option(f"--{choice}", help=_FLAG_HELP[choice], rich_help_panel=declared.opt.group, show_default=False)
    return _keyword(choice, Annotated[bool, note], False)


def _typer_kind(declared: Declared) -> Any:
    kind: Any = declared.kind
    if kind in (Path, Fraction):
        # Brought to its type, and to the home folder, by the request.
        kind = str
    if declared.choices and kind is str:
        kind = Literal[declared.choices]
    if declared.repeated or declared.opt.one_or_more:
        kind = list[kind]
    return kind | None if declared.optional else kind


def _names(declared: Declared) -> tuple[str, ...]:
    names = declared.opt.flags or (declared.flag,)
    if declared.kind is not bool or declared.opt.only_on:
        return names
    on = names[0]
    return (f"{on}/--no-{on.removeprefix('--')}", *names[1:])


def _metavar(declared: Declared) -> str | None:
    if declared.opt.metavar is not None or declared.choices or declared.kind is bool:
        return declared.opt.metavar
    return {int: "N", float: "X", str: "TEXT", Path: "PATH"}.get(declared.kind)


def help_text(declared: Declared) -> str:
    """The help of an option with its bounds and its default."""
    opt = declared.opt
    notes = []
    if declared.choices and declared.kind is not str:
        notes.append(", ".join(f"{choice:g}" for choice in declared.choices))
    elif bounds(opt):
        notes.append(bounds(opt).removeprefix("from "))
    if default := default_text(declared):
        notes.append(f"default: {default}")
    return f"{opt.help} [{'; '.join(notes)}]" if notes else opt.help


def default_text(declared: Declared) -> str:
    """The default of an option in words; empty where there is none to tell."""
    default = declared.default
    if declared.opt.default is not None:
        return declared.opt.default
    if default is None or default is False or default is MISSING or default == ():
        return ""
    if default is True:
        return "on"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _parser(declared: Declared) -> Any:
    """A parser of text for numbers that can be left out by the word ``none``."""
    kind = declared.kind
    if kind not in (int, float) or not declared.optional:
        return None

    def parse(text: Any) -> Any:
        if text == NONE:
            return UNSET
        try:
            return kind(text)
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is not a valid number.") from error

    return parse


def with_each_seed(words: list[str]) -> list[str]:
    """Command-line words with ``--seed 1 2 3`` as ``--seed 1 --seed 2 --seed 3``."""
    settled: list[str] = []
    follows = False
    for index, word in enumerate(words):
        if word == "--":
            return settled + words[index:]
        is_seed = (word.isascii() and word.isdigit()) or word == RANDOM
        if follows and is_seed and words[index - 1] != SEED_FLAG:
            settled.append(SEED_FLAG)
        follows = word == SEED_FLAG or word.startswith(f"{SEED_FLAG}=") or (follows and is_seed)
        settled.append(word)
    return settled


def with_random_seed(words: list[str]) -> list[str]:
    """Command-line words with ``--seed random`` replaced by a number, which records and names then hold."""
    settled = list(words)
    for index, word in enumerate(words):
        if word == "--":
            break
        if word == f"{SEED_FLAG}={RANDOM}":
            settled[index] = f"{SEED_FLAG}={secrets.randbits(32)}"
        elif word == RANDOM and index and words[index - 1] == SEED_FLAG:
            settled[index] = str(secrets.randbits(32))
    return settled
