"""Measure LTX-2's networks and stages on this machine, beside its own matmul, attention and convolution rates."""

import json
import os
from dataclasses import asdict, replace
from typing import Annotated, Literal

import typer

from LTX_2_MLX import OPENBLAS_LOADED, cli  # The package first: it loads the fast BLAS.

import mlx.core as mx  # isort: skip

from LTX_2_MLX.bench.decoding import decoding_lines, decoding_ways
from LTX_2_MLX.bench.report import measured
from LTX_2_MLX.bench.workloads import NAMES, PUBLISHED, Widths, checked_names, workloads
from LTX_2_MLX.bench.writing import writing_lines, writing_seconds
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines.generate import Options, generate_video, request_for
from LTX_2_MLX.planning.plan import precision_table
from LTX_2_MLX.shapes import VideoShape

DTYPES = {"fp32": mx.float32, "fp16": mx.float16, "bf16": mx.bfloat16}
Names = Annotated[list[str] | None, typer.Argument(help=f"{', '.join(NAMES)} [default: all].", show_default=False)]
Height = Annotated[int, typer.Option("--height", help="Height of the video in pixels.")]
Width = Annotated[int, typer.Option("--width", help="Width of the video in pixels.")]
Frames = Annotated[int, typer.Option("--frames", help="Number of frames, 8k + 1.")]
TextTokens = Annotated[int, typer.Option("--text-tokens", help="Length of the prompt, a multiple of 128.")]
FullWidth = Annotated[bool, typer.Option("--full-width", help="Published widths, one of the transformer's 48 blocks.")]
Layers = Annotated[int | None, typer.Option("--layers", help="Blocks of the transformer.")]
Dtype = Annotated[
    Literal["bf16", "fp16", "fp32"] | None,
    typer.Option("--dtype", help="Precision [default: bf16; fp32 on a CPU].", show_default=False),
]
Repeats = Annotated[int, typer.Option("--repeats", help="Calls of each network after the first.", min=1)]
Clock = Annotated[
    Literal["wall", "cpu"], typer.Option("--clock", help="cpu: seconds of this process, on a machine that others use.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the operations of each network, and stop.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def networks(
    names: Names = None,
    height: Height = 192,
    width: Width = 288,
    frames: Frames = 25,
    text_tokens: TextTokens = 256,
    full_width: FullWidth = False,
    layers: Layers = None,
    dtype: Dtype = None,
    repeats: Repeats = 3,
    clock: Clock = "wall",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Time every network with stand-in weights, beside the time that this machine's own rates would make possible."""
    with cli.exit_codes():
        precision = dtype or ("fp32" if on_cpu() else "bf16")
        widths = PUBLISHED if full_width else Widths()
        widths = replace(widths, layers=layers or widths.layers)
        by_name = workloads(VideoShape(frames, height, width), text_tokens, widths, DTYPES[precision])
        chosen = [by_name[name] for name in checked_names(names)]
        if dry_run:
            for workload in chosen:
                typer.echo(f"| {workload.name} | {workload.size} | {workload.flops / 1e12:.2f} TFLOP |")
            return
        report = measured(chosen, precision, DTYPES[precision], repeats, clock, openblas=OPENBLAS_LOADED)
        typer.echo(json.dumps(report.as_json(), indent=2) if as_json else "\n".join(report.lines()))


@app.command()
def precisions() -> None:
    """Print the precision that every network runs in, by backend."""
    typer.echo("\n".join(precision_table()))


@app.command()
def decoding(
    height: Height = 192,
    width: Width = 288,
    frames: Frames = 25,
    full_width: FullWidth = False,
    dtype: Annotated[Literal["bf16", "fp16"], typer.Option("--dtype", help="The 16-bit type.")] = "bf16",
    repeats: Repeats = 3,
    as_json: AsJson = False,
) -> None:
    """Time the video decoder's three ways: 16 bit without and with Winograd's convolutions, float32 with them.

    Beside each stands how far its frames are from float32 without. Only Metal has these convolutions: elsewhere the
    first two ways are one.
    """
    with cli.exit_codes():
        shape = VideoShape(frames, height, width)
        rows = decoding_ways(shape, PUBLISHED if full_width else Widths(), DTYPES[dtype], repeats)
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
            return
        typer.echo(f"{mx.default_device()}, {frames} frames of {height}×{width}")
        typer.echo("\n".join(decoding_lines(rows)))


@app.command()
def writing(
    height: Height = 192,
    width: Width = 288,
    frames: Frames = 25,
    channels: Annotated[int, typer.Option("--channels", help="Channels of the decoder next to the pixels.")] = 8,
    turns: Annotated[int, typer.Option("--turns", help="Turns of each way.", min=1)] = 5,
) -> None:
    """Time decoding, encoding, and both at once as every command writes a video."""
    with cli.exit_codes():
        typer.echo(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        seconds = writing_seconds(VideoShape(frames, height, width), Widths(vae=channels), turns)
        typer.echo("\n".join(writing_lines(seconds)))


@app.command()
def stages(
    prompt: Annotated[str, typer.Argument(help="Text prompt.")] = "A blue ball bouncing on green grass",
    pipeline: cli.option(Options, "pipeline") = "two-stage",
    weights: cli.option(Options, "weights") = "auto",
    spatial_upscaler_weights: cli.option(Options, "spatial_upscaler_weights") = "auto",
    gemma: cli.option(Options, "gemma") = "auto",
    height: cli.option(Options, "height") = None,
    width: cli.option(Options, "width") = None,
    frames: cli.option(Options, "frames") = None,
    as_json: AsJson = False,
) -> None:
    """Generate a video without writing it, and print seconds and peak memory of every stage."""
    files = {"weights": weights, "spatial_upscaler_weights": spatial_upscaler_weights, "gemma": gemma}
    options = Options(prompt, pipeline=pipeline, height=height, width=width, frames=frames, cache=False, **files)
    with cli.report(quiet=as_json) as runner:
        for _ in generate_video(request_for(options, runner.progress.note), runner, options):
            pass
        if as_json:
            typer.echo(json.dumps([asdict(report) for report in runner.reports], indent=2))


if __name__ == "__main__":
    app()
