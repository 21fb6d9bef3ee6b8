"""Measure FlashVSR's memory, and its plan's, with networks of stand-in weights.

Weights are random, which changes no shape: it is the memory of networks of this width and depth.
"""

import json
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from LTX_2_MLX import cli
from LTX_2_MLX.bench.flashvsr import write_files
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.pipelines.super_resolve import Request, plan_of, super_resolve
from LTX_2_MLX.runtime.runner import StageRunner


def clip(num_frames: int, height: int, width: int) -> FrameStream:
    """A clip of noise, made as it is read."""
    random = np.random.default_rng(0)
    chunks = (random.integers(0, 256, (1, height, width, 3), dtype=np.uint8) for _ in range(num_frames))
    return FrameStream(chunks=chunks, height=height, width=width, frame_rate=Fraction(24), num_frames=num_frames)


def measured(stream: FrameStream, request: Request) -> int:
    """The largest peak of MLX's memory."""
    runner = StageRunner()
    for _ in super_resolve(stream, request, runner):
        pass
    return max(report.peak_bytes for report in runner.reports)


def print_lengths(request: Request) -> None:
    """Peaks of clips that differ in length alone."""
    for frames in (25, 73, 217):
        print(f"{frames:4d} frames  peak {measured(clip(frames, 32, 48), request) / 2**20:8.1f} MiB", flush=True)


def print_plans(request: Request) -> None:
    """Planned and measured peaks of frames of three sizes."""
    for height, width in ((32, 32), (64, 96), (96, 128)):
        expected = plan_of(clip(29, height, width), request).largest_bytes
        peak = measured(clip(29, height, width), request)
        print(
            f"{height * request.scale:4g} x {width * request.scale:4g}  planned {expected / 2**20:8.1f} MiB  "
            f"measured {peak / 2**20:8.1f} MiB  {expected / peak - 1:+.0%}",
            flush=True,
        )


def main(
    what: Annotated[str, typer.Argument(help="length or plan")] = "length",
    dim: Annotated[int, typer.Option(help="Width of the transformer; the published one has 1536.")] = 256,
    layers: Annotated[int, typer.Option(help="Its blocks; the published one has 30.")] = 4,
    widths: Annotated[int, typer.Option(help="Width of the decoder; the published one has 512.")] = 64,
    options: Annotated[str, typer.Option(help="More of the request, as JSON.")] = "{}",
) -> None:
    """Print peaks by the clip's length, or planned beside measured ones."""
    tables = {"length": print_lengths, "plan": print_plans}
    if what not in tables:
        raise typer.BadParameter(f"{what} is not {' or '.join(tables)}")
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), dim, layers, widths)
        tables[what](Request(weights=folder, **json.loads(options)))


if __name__ == "__main__":
    cli.run(main)
