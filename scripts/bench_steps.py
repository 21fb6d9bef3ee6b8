"""Measure what a denoising step waits for: attention's forms, the number of tokens, and reading the next weights."""

import os
from typing import Annotated, Literal

import typer

from LTX_2_MLX import cli  # The package first: it loads the fast BLAS.

import mlx.core as mx  # isort: skip

from LTX_2_MLX.bench.attention import attention_lines
from LTX_2_MLX.bench.growth import growth_lines, steps_by_tokens
from LTX_2_MLX.bench.reading import reading_seconds
from LTX_2_MLX.bench.workloads import Widths
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.shapes import VideoShape

DTYPES = {"fp32": mx.float32, "fp16": mx.float16, "bf16": mx.bfloat16}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def load() -> str:
    """How busy the machine is."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


@app.command()
def attention(
    head_dim: Annotated[int, typer.Option("--head-dim", help="Features of a head.", min=1)] = 128,
    turns: Annotated[int, typer.Option("--turns", help="Turns of each form.", min=1)] = 9,
) -> None:
    """Time attention on a CPU in this library's form and in MLX's own, by the number of scores and heads."""
    typer.echo(load())
    typer.echo("\n".join(attention_lines(head_dim, turns)))


@app.command()
def growth(
    heads: Annotated[int, typer.Option("--heads", help="Heads of the transformer, 128 features each.", min=1)] = 6,
    layers: Annotated[int, typer.Option("--layers", help="Blocks of the transformer.", min=1)] = 1,
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Length of the prompt, a multiple of 128.")] = 256,
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        typer.Option("--dtype", help="Precision [default: bf16; fp32 on a CPU].", show_default=False),
    ] = None,
    turns: Annotated[int, typer.Option("--turns", help="Turns of each size.", min=1)] = 5,
) -> None:
    """Time a denoising step of 2.3 at 1,000 to 8,000 tokens: how it grows, beside its operations."""
    with cli.exit_codes():
        precision = dtype or ("fp32" if on_cpu() else "bf16")
        typer.echo(f"{heads} heads, {layers} blocks, {text_tokens} text tokens, {precision}; {load()}\n")
        steps = steps_by_tokens(heads, layers, text_tokens, DTYPES[precision], turns)
        typer.echo("\n".join(growth_lines(steps)))


@app.command()
def reading(
    height: Annotated[int, typer.Option("--height", help="Height of the video in pixels.")] = 352,
    width: Annotated[int, typer.Option("--width", help="Width of the video in pixels.")] = 416,
    frames: Annotated[int, typer.Option("--frames", help="Number of frames, 8k + 1.")] = 57,
    mebibytes: Annotated[int, typer.Option("--mebibytes", help="Weights of the next stage.", min=16)] = 1024,
    turns: Annotated[int, typer.Option("--turns", help="Turns of each way.", min=1)] = 5,
) -> None:
    """Time a denoising step and reading the next stage's weights from disk, one after the other and at once."""
    with cli.exit_codes():
        typer.echo(load())
        seconds = reading_seconds(VideoShape(frames, height, width), Widths(), mebibytes, turns)
        for name, each in seconds.items():
            typer.echo(f"{name}: {each:.2f} s")
        _, _, in_turn, at_once = seconds.values()
        typer.echo(f"At once over one after the other: {at_once / in_turn:.2f}")


if __name__ == "__main__":
    app()
