"""Measure LTX-2's transformer block and video decoder beside other implementations, each in a process, in turns.

The others are read from folders that environment variables name: BENCH_DGRAUET, BENCH_ACELOGIC and BENCH_DMLSRC, each
the entries of a PYTHONPATH. ``torch`` is the plain form of this repository, where torch is installed.
"""

import math
import os
import subprocess
from typing import Annotated

import typer
from comparison import workers as comparison
from comparison.peer_work import WORKS

# Implementation -> its module in scripts/comparison.
MODULES = {
    "ours": "peer_ours",
    "torch": "peer_torch",
    "dgrauet": "peer_dgrauet",
    "acelogic": "peer_forks",
    "dmlsrc": "peer_forks",
}


def main(
    name: Annotated[str, typer.Argument(metavar="WORK", help=", ".join(WORKS))],
    beside: Annotated[
        str | None,
        typer.Option("--with", help=f"Of {', '.join(MODULES)} [default: those at hand].", show_default=False),
    ] = None,
    shape: Annotated[str, typer.Option("--shape", help="Latent frames x rows x columns.")] = "7x11x11",
    heads: Annotated[int, typer.Option("--heads", help="Heads of the block, 128 features each.", min=1)] = 32,
    layers: Annotated[int, typer.Option("--layers", help="Blocks.", min=1)] = 1,
    text: Annotated[int, typer.Option("--text", help="Text tokens.", min=1)] = 256,
    audio: Annotated[int, typer.Option("--audio", help="Audio tokens; 0: no audio stream.", min=0)] = 70,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    turns: Annotated[int, typer.Option("--turns", help="Turns of each.", min=1)] = 5,
) -> None:
    """Print the medians of every implementation, and each over the first one's."""
    sizes = [int(side) for side in shape.split("x") if side.isdigit()]
    if name not in WORKS or len(sizes) != 3 or not all(sizes):
        raise typer.BadParameter(f"{name} at {shape}: use {', '.join(WORKS)} at a shape such as 7x11x11")
    work = {
        "name": name,
        "shape": sizes,
        "heads": heads,
        "layers": layers,
        "text": text,
        "audio": audio,
        "dtype": dtype,
    }
    chosen = beside.split(",") if beside else [each for each in MODULES if folders(each)]
    check_known(chosen)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{name} at {shape}, {math.prod(sizes)} latent cells, {dtype}; {load}")
    workers = started(chosen, work)
    if not workers:
        raise typer.Exit(1)
    print("\n".join(table(comparison.measured(workers, turns))))


def check_known(chosen: list[str]) -> None:
    """Raise BadParameter for a name that stands for nothing."""
    if unknown := [each for each in chosen if each not in MODULES]:
        raise typer.BadParameter(f"unknown implementation {unknown[0]!r}: use {', '.join(MODULES)}")


def folders(implementation: str) -> str:
    """Entries of the implementation's PYTHONPATH; empty where its variable is not set."""
    if implementation in ("ours", "torch"):
        return str(comparison.ROOT)
    named = os.environ.get(f"BENCH_{implementation.upper()}", "")
    return os.pathsep.join(os.path.abspath(folder) for folder in named.split(os.pathsep) if folder)


def started(chosen: list[str], work: dict[str, object]) -> dict[str, subprocess.Popen]:
    """One process for each implementation; one that cannot start is named and left out."""
    workers = {}
    for each in chosen:
        if not folders(each):
            print(f"{each}: left out, BENCH_{each.upper()} does not name its folder")
            continue
        try:
            workers[each] = comparison.started(MODULES[each], work, folders(each))
        except comparison.WorkerError as error:
            print(f"{each}: left out, {error}")
    return workers


def table(medians: dict[str, dict[str, float]]) -> list[str]:
    """Lines of the printed table; torch's memory is its process's alone."""
    first = next(iter(medians.values()))
    lines = ["| | commit | wall, s | CPU, s | peak, MiB | process, MiB | over the first: wall | CPU | peak |"]
    lines.append("|" + "---|" * 9)
    for each, figures in medians.items():
        seconds = [f"{figures[clock]:.3f}" for clock in ("wall", "cpu")]
        sizes = ["" if each == "torch" else f"{figures['peak'] / 2**20:.0f}", f"{figures['rss'] / 2**20:.0f}"]
        ratios = [f"{figures[figure] / first[figure]:.2f}" for figure in ("wall", "cpu")]
        ratios.append("" if each == "torch" else f"{figures['peak'] / first['peak']:.2f}")
        commit = comparison.commit(folders(each).split(os.pathsep)[0])
        lines.append(f"| {each} | {' | '.join([commit, *seconds, *sizes, *ratios])} |")
    return lines


if __name__ == "__main__":
    typer.run(main)
