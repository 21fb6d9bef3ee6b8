"""What the commands share: option types, errors to a line and an exit code, progress, the closing report.

Exit codes: 0 done; 1 the library failed; 2 the request, a file or the machine will not do; 130 Ctrl-C; 143 SIGTERM.
"""

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from LTX_2_MLX.errors import LTXError, MediaError, OutputError
from LTX_2_MLX.media.output import check_free, check_writable
from LTX_2_MLX.pipelines.option_values import precision as precision
from LTX_2_MLX.pipelines.plan import Plan
from LTX_2_MLX.runtime.memory import machine_trouble, memory_limits
from LTX_2_MLX.runtime.progress import JsonProgress, NotesOnly, Progress, TerminalProgress
from LTX_2_MLX.runtime.runner import StageReport, StageRunner

FAILED, REFUSED, INTERRUPTED, TERMINATED = 1, 2, 130, 143
# Typer's own, or that of Click in older versions.
UsageError = typer.BadParameter.__base__
# Set to anything to see where an unexpected error comes from.
TRACEBACK_VARIABLE = "LTX_2_MLX_TRACEBACK"


class ProgressKind(StrEnum):
    """How a command tells how far it is."""

    bar = "bar"
    json = "json"


InputVideo = Annotated[
    Path, typer.Argument(metavar="VIDEO", help="Video file: anything FFmpeg reads.", show_default=False)
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="File to write; an existing one is replaced.", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but warnings and errors.")]
ProgressOption = Annotated[
    ProgressKind, typer.Option("--progress", help="Bars for people, or JSON lines on stderr for programs.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
JsonPlan = Annotated[bool, typer.Option("--json", help="With --dry-run: the plan as JSON.")]
MemoryLimit = Annotated[
    float | None,
    typer.Option(
        "--memory-limit-gb",
        help="GiB that the run may use (what the machine lends).",
        show_default=False,
        min=0,
        max=1e6,
    ),
]
FitMemory = Annotated[
    bool, typer.Option("--fit", help="Change what does not fit into memory to the nearest that does.")
]
Force = Annotated[bool, typer.Option("--force", help="Go on where the preflight or the check of the output says no.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same output.", min=0, max=2**32 - 1)]
Crf = Annotated[float, typer.Option("--crf", help="Quality of the written film: 0 (best) to 51.", min=0, max=51)]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Compute in float16.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")]
Fp32 = Annotated[bool, typer.Option("--fp32", help="Compute in float32.")]
Quantize = Annotated[
    int | None,
    typer.Option("--quantize", "-q", help="Bits of the large layers while they load: 8 or 4.", show_default=False),
]
LowRam = Annotated[
    bool, typer.Option("--low-ram", help="Read transformer and text encoder block by block from disk, in every step.")
]
_WHERE = "path, catalogue name, repository id or repository:file"
Weights = Annotated[str, typer.Option("--weights", help=f"LTX-2 checkpoint: {_WHERE}.")]
TemporalWeights = Annotated[str, typer.Option("--temporal-weights", help=f"Temporal upscaler: {_WHERE}.")]
SpatialUpscalerWeights = Annotated[
    str, typer.Option("--spatial-upscaler-weights", help=f"Spatial upscaler, for two-stage: {_WHERE}.")
]
DistilledLora = Annotated[
    str,
    typer.Option(
        "--distilled-lora",
        help=f"What makes a dev checkpoint a distilled one: {_WHERE}; a strength may follow a colon.",
    ),
]
Gemma = Annotated[str, typer.Option("--gemma", help=f"Text encoder, a folder: {_WHERE}.")]
Lora = Annotated[
    list[str] | None, typer.Option("--lora", metavar="PATH[:SCALE]", help="LoRA of the transformer; repeatable.")
]


class PipelineName(StrEnum):
    """How a film is made; ``text-to-video`` is another name of ``one-stage``."""

    one_stage = "one-stage"
    text_to_video = "text-to-video"
    distilled = "distilled"
    two_stage = "two-stage"


class ModelVariant(StrEnum):
    """How a checkpoint was trained."""

    dev = "dev"
    distilled = "distilled"


Prompt = Annotated[str | None, typer.Argument(help="What is to be seen.", show_default=False)]
Pipeline = Annotated[PipelineName, typer.Option("--pipeline", help="How the film is made.")]
Height = Annotated[int | None, typer.Option("--height", help="Rows of pixels; in two-stage, of stage 1.")]
Width = Annotated[int | None, typer.Option("--width", help="Columns of pixels; in two-stage, of stage 1.")]
OutputHeight = Annotated[int | None, typer.Option("--output-height", help="Rows of the film, instead of --height.")]
OutputWidth = Annotated[int | None, typer.Option("--output-width", help="Columns of the film, instead of --width.")]
Frames = Annotated[int | None, typer.Option("--frames", "--num-frames", help="Frames: 8k + 1.")]
Duration = Annotated[float | None, typer.Option("--duration", help="Seconds instead; rounded up to 8k + 1 frames.")]
Fps = Annotated[
    str | None, typer.Option("--fps", "--frame-rate", metavar="RATE", help="Frames per second, 24 or 24000/1001.")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of one-stage (30) and distilled (8).")]
StepsStage1 = Annotated[int | None, typer.Option("--steps-stage1", help="Steps of stage 1 (15).")]
StepsStage2 = Annotated[int | None, typer.Option("--steps-stage2", help="Steps of stage 2 (3).")]
Cfg = Annotated[float | None, typer.Option("--cfg", help="Guidance scale; 1 is none (dev 5, distilled 1).")]
CfgStage1 = Annotated[float | None, typer.Option("--cfg-stage1", help="The same for stage 1 (value of --cfg).")]
GuidanceRescale = Annotated[
    float, typer.Option("--guidance-rescale", help="0 to 1; 0.7 against colours that are too strong.")
]
StgScale = Annotated[float, typer.Option("--stg-scale", help="Spatio-temporal guidance; 0 is none.")]
NegativePrompt = Annotated[
    str | None, typer.Option("--negative-prompt", help="What guidance leads away from (a list of faults).")
]
FirstFrame = Annotated[Path | None, typer.Option("--image", help="Picture for the first frame.")]
ImageStrength = Annotated[float, typer.Option("--image-strength", help="How firmly it is held, 0 to 1.")]
Variant = Annotated[
    ModelVariant | None, typer.Option("--model-variant", help="Which checkpoint to take, or what the given one is.")
]
TemporalUpscale = Annotated[
    bool, typer.Option("--temporal-upscale", help="Double the frame rate in latent space before decoding.")
]
Embeddings = Annotated[Path | None, typer.Option("--embeddings", help="The prompt's embeddings from an earlier run.")]
SaveEmbeddings = Annotated[Path | None, typer.Option("--save-embeddings", help="File for the prompt's embeddings.")]
SaveLatents = Annotated[
    Path | None, typer.Option("--save-latents", help="Folder to keep every stage's result in.", show_default=False)
]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", help="Folder of an earlier run: go on from its last complete stage.", show_default=False),
]
Replay = Annotated[Path | None, typer.Option("--replay", help="Film to make again from the options in its tags.")]

InterpolationExp = Annotated[
    int, typer.Option("--exp", help="Times that the number of frames is doubled.", min=0, max=4)
]
InterpolationScale = Annotated[
    float,
    typer.Option("--scale", help="Size at which motion is sought: 0.25, 0.5 (for 1080p), 1, 2, 4.", min=0.25, max=4),
]
InterpolationModel = Annotated[str, typer.Option("--model-path", help=f"RIFE 4.22.lite: {_WHERE}.")]
TargetFps = Annotated[
    str | None,
    typer.Option("--target-fps", metavar="RATE", help="Any frame rate instead of --exp: 60 or 60000/1001."),
]
SceneThreshold = Annotated[
    float,
    typer.Option(
        "--scene-threshold", help="Similarity of frames below which there is a cut; 0 finds none.", min=0, max=1
    ),
]
InputPictures = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="Picture, folder of pictures, or video.", show_default=False),
]
OutputPictures = Annotated[
    Path, typer.Option("--output", "-o", help="File to write, or folder for a folder.", show_default=False)
]
Scale = Annotated[float, typer.Option("--scale", help="Factor of the sides, above 0 up to 16.", min=0, max=16)]
UpscalerModel = Annotated[str, typer.Option("--model-path", help=f"Real-ESRGAN: {_WHERE}.")]
TileSize = Annotated[
    int | None,
    typer.Option("--tile-size", help="Side of the autoencoder's tiles in pixels; whole frames where they fit."),
]
UpscalerTileSize = Annotated[
    int | None, typer.Option("--tile-size", help="Side of the tiles in input pixels; 0 is none (by memory).", min=0)
]
UpscalerTileOverlap = Annotated[
    int | None,
    typer.Option("--tile-overlap", help="Pixels seen around a tile (all the network looks at, or 32).", min=0),
]
DenoiseStrength = Annotated[
    float | None,
    typer.Option("--denoise-strength", help="0 keeps noise and texture, 1 none; mixes two checkpoints.", min=0, max=1),
]
WeakModel = Annotated[str, typer.Option("--weak-model-path", help=f"The checkpoint of denoise strength 0: {_WHERE}.")]


class Order(StrEnum):
    """What post-processing begins with."""

    interpolate_first = "interpolate-first"
    upscale_first = "upscale-first"


EnableFrameInterpolation = Annotated[
    bool, typer.Option("--enable-frame-interpolation", help="Make the film smoother, by RIFE.")
]
FrameInterpolationExp = Annotated[
    int,
    typer.Option("--frame-interpolation-exp", help="Times that the number of frames is doubled.", min=0, max=4),
]
FrameInterpolationScale = Annotated[
    float,
    typer.Option("--frame-interpolation-scale", help="Size at which motion is sought; 0.5 for 1080p.", min=0.25, max=4),
]
FrameInterpolationModel = Annotated[
    str, typer.Option("--frame-interpolation-model-path", help=f"RIFE 4.22.lite: {_WHERE}.")
]
EnableUpscaling = Annotated[bool, typer.Option("--enable-upscaling", help="Make the film larger, by Real-ESRGAN.")]
UpscalingScale = Annotated[
    float, typer.Option("--upscaling-scale", help="Factor of the sides, above 0 up to 16.", min=0, max=16)
]
UpscalingModel = Annotated[str, typer.Option("--upscaling-model-path", help=f"Real-ESRGAN: {_WHERE}.")]


class SuperResolutionMode(StrEnum):
    """Which kind of decoder finishes super-resolution."""

    tiny = "tiny"
    tiny_long = "tiny-long"
    full = "full"


class SuperResolutionVersion(StrEnum):
    """Which FlashVSR the files are."""

    v1 = "v1"
    v1_1 = "v1.1"


class ColorFix(StrEnum):
    """Where the colours come from."""

    wavelet = "wavelet"
    adain = "adain"
    none = "none"


class SparseAttention(StrEnum):
    """How attention chooses what it looks at."""

    block = "block"
    sage = "sage"
    dense = "dense"


class ComputeType(StrEnum):
    """Precision of the networks."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


class PictureBorders(StrEnum):
    """How sides become multiples of 128."""

    pad = "pad"
    crop = "crop"


class PictureResize(StrEnum):
    """How frames are enlarged before the networks see them."""

    floats = "float"
    eight_bits = "8bit"


InputClip = Annotated[
    Path, typer.Option("--input", "-i", help="Video, folder of pictures, or picture.", show_default=False)
]
OutputClip = Annotated[Path, typer.Option("--output", "-o", help="File to write, or folder for it.")]
Mode = Annotated[
    SuperResolutionMode, typer.Option("--mode", help="tiny and tiny-long end in a small decoder, full in a Wan VAE.")
]
VaeType = Annotated[
    str | None,
    typer.Option("--vae-type", help="Decoder: tcd, tae-w2.1, lighttae-w2.1 (tiny), wan2.1, light (full)."),
]
VaePath = Annotated[str | None, typer.Option("--vae-path", help=f"The decoder's file: {_WHERE}.")]
SuperResolutionWeights = Annotated[
    str, typer.Option("--weights", help=f"Folder with FlashVSR's files, or its transformer: {_WHERE}.")
]
VersionOption = Annotated[
    SuperResolutionVersion, typer.Option("--version", help="Which FlashVSR the files are; they do not tell.")
]
SuperResolutionScale = Annotated[
    float, typer.Option("--scale", help="Factor of the sides; the networks were trained for 4.", min=1, max=8)
]
KeepAudio = Annotated[bool, typer.Option("--keep-audio/--no-keep-audio", help="Copy the sound.")]
ColorFixOption = Annotated[ColorFix, typer.Option("--color-fix", help="Take colours from the input.")]
TileDit = Annotated[bool, typer.Option("--tile-dit", help="Super-resolve in tiles of the source: less memory.")]
TileVae = Annotated[
    bool, typer.Option("--tile-vae/--no-tile-vae", help="Decode in tiles: less memory (the Wan decoders only).")
]
SuperResolutionTileSize = Annotated[
    int, typer.Option("--tile-size", help="Side of a tile in source pixels.", min=48, max=1024)
]
Overlap = Annotated[int, typer.Option("--overlap", help="Source pixels that neighbouring tiles share.", min=0, max=512)]
SparseRatio = Annotated[
    float, typer.Option("--sparse-ratio", help="How much attention keeps; less is faster.", min=0.5, max=5)
]
KvRatio = Annotated[
    float, typer.Option("--kv-ratio", help="Slices of two latent frames that attention remembers.", min=1, max=8)
]
LocalRange = Annotated[
    int, typer.Option("--local-range", help="Windows that attention looks at around its own; odd.", min=3, max=15)
]
AttentionOption = Annotated[
    SparseAttention, typer.Option("--attention", help="block: the authors' choice; sage: the plugin's; dense: all.")
]
Quality = Annotated[float, typer.Option("--quality", help="Of the written film: 1 to 10 (best).", min=1, max=10)]
FolderFps = Annotated[
    str, typer.Option("--fps", help="Frames a second of pictures, and of a film without a rate, such as 30000/1001.")
]
DtypeOption = Annotated[
    ComputeType | None, typer.Option("--dtype", help="Precision of the networks (bf16; fp32 on a CPU).")
]
UnloadDit = Annotated[
    bool, typer.Option("--unload-dit", help="Free the transformer before decoding: less memory; latents wait on disk.")
]
Borders = Annotated[
    PictureBorders, typer.Option("--borders", help="pad keeps the whole picture, crop cuts it to multiples of 128.")
]
Resize = Annotated[PictureResize, typer.Option("--resize", help="First enlargement: on floats, or on 8 bits.")]
PostprocessingOrder = Annotated[Order, typer.Option("--order", help="What comes first.")]


class OneLineCommand(TyperCommand):
    """A command whose mistyped options are told as every other error: in one line."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **options: Any) -> Any:
        """As Typer makes it."""
        try:
            return super().make_context(info_name, args, *rest, **options)
        except UsageError as error:
            text = error.format_message().rstrip(".")
            _leave(None, f"{text}. Its options are told by {Path(info_name or 'the command').name} --help.", REFUSED)


class Terminated(BaseException):
    """SIGTERM. Not an ``Exception``, so that only the outermost frame catches it, as with Ctrl-C."""


def run(main: Callable[..., Any]) -> None:
    """Run a script's ``main`` as its command."""
    app(main)()


def app(main: Callable[..., Any]) -> typer.Typer:
    """A script's ``main`` as a command whose errors are one line on stderr and an exit code."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @functools.wraps(main)
    def guarded(*args: Any, **options: Any) -> Any:
        with exit_codes():
            return main(*args, **options)

    command.command(cls=OneLineCommand)(guarded)
    return command


@contextmanager
def report(
    output: Path | None = None,
    *,
    source: Path | None = None,
    quiet: bool = False,
    progress: ProgressKind = ProgressKind.bar,
    wired_bytes: int | None = None,
) -> Iterator[StageRunner]:
    """A runner for one command's work; at the end, seconds and peak memory by stage.

    Args:
        output: Checked before anything else: its folder exists, can be written to, and it is not ``source``.
        source: The file that is read, which must not be replaced.
        quiet: No bars and no report.
        progress: Bars or JSON lines.
        wired_bytes: What the largest stage needs, where a plan says so.
    """
    voice = progress_for(quiet, progress)
    with exit_codes(voice), memory_limits(wired_bytes):
        if output is not None:
            check_output(output, source)
        runner, start = StageRunner(voice), time.perf_counter()
        yield runner
        _close(voice, runner.reports, time.perf_counter() - start, output)


def progress_for(quiet: bool, kind: ProgressKind) -> Progress:
    """Who hears of the work."""
    if kind is ProgressKind.json:
        return JsonProgress()
    return NotesOnly() if quiet else TerminalProgress()


def told(plan: Plan, *, as_json: bool) -> str:
    """A plan as ``--dry-run`` prints it."""
    return json.dumps(plan.as_json(), indent=1) if as_json else "\n".join(plan.lines())


def preflight(plan: Plan, *, dry_run: bool, as_json: bool, force: bool, cure: str) -> None:
    """Print a plan and end the command, or refuse one that does not fit; ``cure`` says what to pass instead."""
    if dry_run:
        typer.echo(told(plan, as_json=as_json))
        raise typer.Exit
    if not force:
        plan.check(cure)


def check_disk(plan: Plan, output: Path, states: Path | None = None) -> None:
    """Raise ``MediaError`` if the film, or the states that are kept of it, cannot find room on their disks."""
    check_free(output, plan.output_bytes)
    if states is not None:
        check_free(states, plan.states_bytes)


def check_output(output: Path, source: Path | None = None) -> None:
    """Raise ``MediaError`` unless ``output`` can be written and is not the file that is read."""
    check_writable(output)
    if source is not None and output.exists() and source.exists() and output.samefile(source):
        raise MediaError(f"{output} is the input itself. Give --output another name.")


@contextmanager
def exit_codes(voice: Progress | None = None) -> Iterator[None]:
    """Turn what goes wrong inside into one line on stderr and the command's exit code."""
    try:
        with _sigterm_raises():
            yield
    except LTXError as error:
        _leave(voice, f"{type(error).__name__}: {error}", FAILED if isinstance(error, OutputError) else REFUSED)
    except KeyboardInterrupt:
        _leave(voice, "Interrupted; nothing half-written is left behind.", INTERRUPTED)
    except Terminated:
        _leave(voice, "Terminated; nothing half-written is left behind.", TERMINATED)
    except (typer.Exit, typer.Abort, SystemExit):
        raise
    except BrokenPipeError:
        # Whoever read our output has gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        cure = machine_trouble(error)
        text = cure or (
            f"{type(error).__name__}: {error}. This is a fault of ours; run again with {TRACEBACK_VARIABLE}=1 "
            f"to see where it comes from, and report it."
        )
        _leave(voice, text, FAILED)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_terminated(*_: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(voice: Progress | None, text: str, code: int) -> None:
    if isinstance(voice, JsonProgress):
        voice.say("error", text=text, code=code)
    else:
        Console(stderr=True, soft_wrap=True).print(" ".join(text.split()), highlight=False, markup=False)
    raise typer.Exit(code)


def _close(voice: Progress, reports: list[StageReport], seconds: float, output: Path | None) -> None:
    if isinstance(voice, JsonProgress):
        stages = [
            {
                "stage": r.name,
                "seconds": round(r.seconds, 3),
                "peak_bytes": r.peak_bytes,
                "process_bytes": r.process_bytes,
            }
            for r in reports
        ]
        voice.say("report", stages=stages, seconds=round(seconds, 3), output=str(output) if output else None)
    elif isinstance(voice, TerminalProgress):
        for line in report_lines(reports, seconds):
            voice.note(line)
        if output is not None:
            voice.note(f"Wrote {output}")


def report_lines(reports: list[StageReport], seconds: float) -> list[str]:
    """Seconds and peak memory by stage, a line each, and the whole run's."""
    width = max((len(r.name) for r in reports), default=0)
    lines = [f"{r.name:<{width}}  {r.seconds:8.1f} s  peak {_gib(r.peak_bytes)}" for r in reports]
    whole = max((r.process_bytes for r in reports), default=0)
    return [*lines, f"{seconds:.1f} s in all" + (f", process peak {_gib(whole)}" if whole else "")]


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
