"""Time and memory of a denoising step, and of work on frames, on several processes beside one (``mlx.launch``)."""

import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

import LTX_2_MLX  # noqa: F401  (loads BLAS before MLX)
from LTX_2_MLX.bench.parallel import Step
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.machines import joined, machines

MANIFEST = Path(__file__).parents[1] / "tests" / "manifests" / "ltx-2-19b-dev.safetensors.transformer.json.gz"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def speed(
    mode: Annotated[str, typer.Argument(help="guidance, sequence or blocks.")],
    heads: Annotated[int, typer.Option(help="Heads of 128 features.")] = 12,
    layers: Annotated[int, typer.Option(help="Blocks.")] = 1,
    height: Annotated[int, typer.Option(help="Of the video.")] = 480,
    width: Annotated[int, typer.Option(help="Of the video.")] = 704,
    frames: Annotated[int, typer.Option(help="Of the video.")] = 97,
    cfg: Annotated[float, typer.Option(help="Guidance scale; above 1 a step has two passes.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="Steps by one process and by all, in turns.")] = 3,
) -> None:
    """Time a step by the first process alone and by all together, in turns, and print the ratio of the medians."""
    with joined(sys.exit):
        step = Step(heads, layers, (frames, height, width), cfg)
        alone: list[float] = []
        together: list[float] = []
        step.run(mode)
        for _ in range(rounds):
            alone.append(timed(lambda: step.run(None) if launch.RANK == 0 else None))
            together.append(timed(lambda: step.run(mode)))
        if launch.RANK == 0:
            ratio = statistics.median(together) / statistics.median(alone)
            typer.echo(f"one process   {' '.join(f'{seconds:.2f}' for seconds in alone)} s")
            typer.echo(f"{machines().group.size} processes   {' '.join(f'{seconds:.2f}' for seconds in together)} s")
            typer.echo(f"{mode}, {step.num_tokens} tokens: ratio of the medians {ratio:.2f}")


@app.command()
def memory(blocks: Annotated[int, typer.Option(help="Of the published file's 48.")] = 4) -> None:
    """Print the peak of each process in one step of the published network at full width, with a few of its blocks.

    Without mlx.launch that of one process. The file has the published names and shapes, with holes for values.
    """
    if launch.RANK is None:
        typer.echo(f"one process: {peak(blocks, None) / 2**30:.2f} GiB")
        return
    with joined(sys.exit):
        peaks = machines().exchange(peak(blocks, "blocks"))
        for name, value in peaks if launch.RANK == 0 else ():
            typer.echo(f"{name}: {value / 2**30:.2f} GiB")


@app.command()
def frames(
    names: Annotated[list[str] | None, typer.Argument(help="Kinds of work; all unless given.")] = None,
    height: Annotated[int, typer.Option(help="Of the video.")] = 128,
    width: Annotated[int, typer.Option(help="Of the video.")] = 192,
    frames: Annotated[int, typer.Option(help="Of the video.")] = 49,
    rounds: Annotated[int, typer.Option(help="Runs by one process and by all, in turns.")] = 3,
) -> None:
    """Time work on frames by the first process alone and by all together, in turns, and print a table.

    Every process keeps to one core, as a machine of its own would have.
    """
    from LTX_2_MLX.bench.shared_frames import WORK, shared_work
    from LTX_2_MLX.ops.collective import ALONE
    from LTX_2_MLX.runtime.machines import Machines, acting_as
    from LTX_2_MLX.shapes import VideoShape

    with joined(sys.exit), ExitStack() as opened:
        use_one_core()
        say("| work | one process | all processes | ratio |")
        say("|---|---|---|---|")
        for name in names or WORK:
            work = shared_work(name, VideoShape(frames, height, width), opened)
            alone: list[float] = []
            together: list[float] = []
            work()
            for _ in range(rounds):
                with acting_as(Machines(ALONE)):
                    by_one = work if launch.RANK == 0 else (lambda: None)
                    single = clocked(by_one)
                alone.append(max(value for _, value in machines().exchange(single)))
                together.append(timed(work))
            ratio = statistics.median(together) / statistics.median(alone)
            cells = [" ".join(f"{seconds:.2f}" for seconds in found) for found in (alone, together)]
            say(f"| {name} | {cells[0]} s | {cells[1]} s | {ratio:.2f} |")


def use_one_core() -> None:
    """Keep this process to a core of its own, where the system allows that."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[(launch.RANK or 0) % len(cores)]})


def say(line: str) -> None:
    """Print on the first process."""
    if launch.RANK == 0:
        typer.echo(line)


def clocked(work: Callable[[], object]) -> float:
    """Seconds of this process's work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(work: Callable[[], object]) -> float:
    """Seconds until all processes have done their work."""
    machines().exchange(None)
    start = time.perf_counter()
    work()
    machines().exchange(None)
    return time.perf_counter() - start


def peak(blocks: int, mode: str | None) -> int:
    """Peak of MLX's memory in a step of the published network with its first blocks."""
    import mlx.core as mx

    from LTX_2_MLX.development.full_size import denoised_step, first_blocks, write_hollow
    from LTX_2_MLX.shapes import VideoShape

    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "few_blocks.json.gz"
        manifest.write_bytes(gzip.compress(json.dumps(first_blocks(MANIFEST, blocks)).encode()))
        checkpoint = write_hollow(Path(folder) / "few_blocks.safetensors", manifest)
        return denoised_step(checkpoint, VideoShape(9, 64, 96), mx.bfloat16, parallel=mode or "auto")


if __name__ == "__main__":
    app()
