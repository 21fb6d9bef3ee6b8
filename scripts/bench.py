"""Measure LTX-2's networks and stages on this machine, beside its own matmul, attention and convolution rates."""

import json
import time
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Annotated, Literal

import typer

from LTX_2_MLX import OPENBLAS_LOADED, cli  # The package first: it loads the fast BLAS.

import mlx.core as mx  # isort: skip

from LTX_2_MLX.bench.measure import Timing, possible_seconds, rates_of, time_network
from LTX_2_MLX.bench.operations import Operation
from LTX_2_MLX.bench.workloads import NAMES, PUBLISHED, Widths, Workload, workloads
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines.generate import Options, generate_video, request_for
from LTX_2_MLX.shapes import VideoShape

Network = StrEnum("Network", [(name, name) for name in NAMES])
Clock = StrEnum("Clock", ["wall", "cpu"])
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DTYPES = {"fp32": mx.float32, "fp16": mx.float16, "bf16": mx.bfloat16}
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def networks(
    names: Annotated[list[Network] | None, typer.Argument(help="Which ones; all unless given.")] = None,
    height: Annotated[int, typer.Option("--height", help="Rows of the film's pixels.")] = 192,
    width: Annotated[int, typer.Option("--width", help="Columns of the film's pixels.")] = 288,
    frames: Annotated[int, typer.Option("--frames", help="Frames: 8k + 1.")] = 25,
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Length of the prompt, a multiple of 128.")] = 256,
    full_width: Annotated[
        bool, typer.Option("--full-width", help="Published widths; the transformer with one of its 48 blocks.")
    ] = False,
    layers: Annotated[int | None, typer.Option("--layers", help="Blocks of the transformer.")] = None,
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        typer.Option("--dtype", help="Precision (bf16; fp32 on a CPU).", show_default=False),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Calls of each after the first.", min=1)] = 3,
    clock: Annotated[
        Clock, typer.Option("--clock", help="cpu: seconds of this process alone, where others use the machine.")
    ] = Clock.wall,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print how much each computes, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time every network with stand-in weights, and what this machine's own rates would make possible."""
    with cli.exit_codes():
        precision = dtype or ("fp32" if on_cpu() else "bf16")
        widths = PUBLISHED if full_width else Widths()
        widths = replace(widths, layers=layers or widths.layers)
        shape, kind = VideoShape(frames, height, width), DTYPES[precision]
        chosen = [workloads(shape, text_tokens, widths, kind)[name] for name in names or NAMES]
        if dry_run:
            for workload in chosen:
                typer.echo(f"| {workload.name} | {workload.size} | {workload.flops / 1e12:.2f} TFLOP |")
            return
        rates = rates_of([operation for workload in chosen for operation in workload.operations], kind, CLOCKS[clock])
        timings = [time_network(workload, repeats, CLOCKS[clock]) for workload in chosen]
        possible = {workload.name: possible_seconds(workload, rates) for workload in chosen}
        machine = {"device": str(mx.default_device()), "precision": precision, "openblas": OPENBLAS_LOADED}
        machine["clock"] = clock.value
        if as_json:
            rows = [asdict(timing) | {"possible_seconds": possible[timing.name]} for timing in timings]
            own = [{"kind": o.kind, "shape": str(o), "flops_per_second": value} for o, value in rates.items()]
            typer.echo(json.dumps({"machine": machine, "rates": own, "networks": rows}, indent=2))
            return
        typer.echo(", ".join(f"{name} {value}" for name, value in machine.items()))
        typer.echo("\n| the machine's own | shape | GFLOP/s |\n|---|---|---|")
        for operation in main_operations(chosen):
            value = rates[operation]
            typer.echo(f"| {operation.kind} | {operation} | {value / 1e9:.0f} |")
        typer.echo("\n| network | given | weights | peak | first | best (median), s | GFLOP | GFLOP/s | of possible |")
        typer.echo("|---|---|---|---|---|---|---|---|---|")
        for timing in timings:
            typer.echo(line(timing, possible[timing.name]))


def main_operations(chosen: list[Workload]) -> list[Operation]:
    """Those that make up a twentieth of some network's work or more, each once."""
    large = (
        operation
        for workload in chosen
        for operation, count in workload.operations.items()
        if operation.flops * count >= 0.05 * workload.flops
    )
    return list(dict.fromkeys(large))


def line(timing: Timing, possible: float) -> str:
    """One network as a row of the table."""
    mib = 2**20
    return (
        f"| {timing.name} | {timing.size} | {timing.weights_bytes / mib:.0f} MiB | {timing.peak_bytes / mib:.0f} MiB "
        f"| {timing.first_seconds:.2f} s | {timing.best_seconds:.3f} ({timing.median_seconds:.3f}) "
        f"| {timing.flops / 1e9:.1f} | {timing.flops_per_second / 1e9:.0f} | {possible / timing.best_seconds:.0%} |"
    )


@app.command()
def stages(
    prompt: Annotated[str, typer.Argument(help="What is to be seen.")] = "A blue ball bouncing on green grass",
    pipeline: cli.option(Options, "pipeline") = "two-stage",
    weights: cli.option(Options, "weights") = "auto",
    spatial_upscaler_weights: cli.option(Options, "spatial_upscaler_weights") = "auto",
    gemma: cli.option(Options, "gemma") = "auto",
    height: cli.option(Options, "height") = None,
    width: cli.option(Options, "width") = None,
    frames: cli.option(Options, "frames") = None,
    as_json: AsJson = False,
) -> None:
    """Make a film, throw it away, and print seconds and peak memory of every stage."""
    options = Options(
        prompt=prompt,
        pipeline=pipeline,
        weights=weights,
        spatial_upscaler_weights=spatial_upscaler_weights,
        gemma=gemma,
        height=height,
        width=width,
        frames=frames,
    )
    with cli.report(quiet=as_json) as runner:
        for _ in generate_video(request_for(options, runner.progress.note), runner, options):
            pass
        if as_json:
            typer.echo(json.dumps([asdict(report) for report in runner.reports], indent=2))


if __name__ == "__main__":
    app()
