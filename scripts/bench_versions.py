"""Measure networks of another checkout of this repository beside those of this one, each in a process, in turns.

OPENBLAS_NUM_THREADS in the environment sets the threads of both.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from comparison import workers

# Network -> frames, rows and columns that it is given [default]: of the latent for the first two, else in pixels.
SHAPES = {
    "block23": (13, 15, 22),
    "vae23": (2, 4, 6),
    "ifnet": (2, 480, 704),
    "srvgg": (1, 256, 448),
    "rrdbnet": (1, 96, 128),
    "wan-encoder": (5, 64, 96),
    "wan-decoder": (5, 64, 96),
    "light-decoder": (9, 128, 192),
    "flashvsr": (25, 64, 96),
}


def main(
    other: Annotated[Path, typer.Argument(help="Folder of the other checkout.", exists=True, file_okay=False)],
    names: Annotated[
        list[str] | None, typer.Argument(help=f"{', '.join(SHAPES)} [default: all].", show_default=False)
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--shape", help="Frames x rows x columns [default: by network].", show_default=False),
    ] = None,
    heads: Annotated[int, typer.Option("--heads", help="Heads of the block, 128 features each.", min=1)] = 6,
    turns: Annotated[int, typer.Option("--turns", help="Turns of each.", min=1)] = 7,
) -> None:
    """Print medians of seconds of both, and this checkout's over the other's: below 1 this one is faster."""
    chosen = names or list(SHAPES)
    if unknown := [each for each in chosen if each not in SHAPES]:
        raise typer.BadParameter(f"unknown network {unknown[0]!r}: use {', '.join(SHAPES)}")
    sizes = sizes_from(shape) if shape else None
    threads = os.environ.get("OPENBLAS_NUM_THREADS", os.cpu_count())
    commits = [workers.commit(str(folder)) for folder in (workers.ROOT, other)]
    print(f"this at {commits[0]}, other at {commits[1]}; {threads} threads; ", end="")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| network | size | CPU, s: this | other | this over other | wall, s: this | other | this over other |")
    print("|---|---|---|---|---|---|---|---|")
    for each in chosen:
        work = {"name": each, "shape": sizes or SHAPES[each], "heads": heads}
        print(row(work, other, turns), flush=True)


def sizes_from(shape: str) -> tuple[int, ...]:
    """The three sizes that an option names."""
    sizes = tuple(int(side) for side in shape.split("x") if side.isdigit())
    if len(sizes) != 3 or not all(sizes):
        raise typer.BadParameter(f"--shape is {shape}, expected three sizes such as 1x96x128")
    return sizes


def row(work: dict[str, Any], other: Path, turns: int) -> str:
    """One line of the table, of medians."""
    folders = {"this": workers.ROOT, "other": other.resolve()}
    try:
        started = {each: workers.started("peer_version", work, str(folder)) for each, folder in folders.items()}
    except workers.WorkerError as error:
        raise typer.BadParameter(f"{work['name']}: {error}") from error
    medians = workers.measured(started, turns)
    cells = [work["name"], "×".join(map(str, work["shape"]))]
    for clock in ("cpu", "wall"):
        this, that = (medians[each][clock] for each in folders)
        cells += [f"{this:.3f}", f"{that:.3f}", f"{this / that:.2f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
