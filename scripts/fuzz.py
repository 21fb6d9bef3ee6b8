"""Read thousands of damaged files: each has to be refused in words or accepted for what it is.

They are read in a process of its own, with limits of time and memory.
"""

import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import cli
from LTX_2_MLX.development.fuzz import KINDS
from LTX_2_MLX.development.fuzz_process import FAULT, FuzzProcess
from LTX_2_MLX.pipelines.generation.options import Options

ROOT = Path(__file__).parents[1]


def main(
    cases: Annotated[int, typer.Option("--cases", help="How many files are read.", min=1)] = 10_000,
    seed: cli.option(Options, "seed") = 0,
    kind: Annotated[str | None, typer.Option("--kind", help="One kind alone; all in turn unless given.")] = None,
) -> None:
    """Read CASES damaged files and print what became of them; exit code 1 if one was a fault."""
    kinds, found, start = [kind] if kind else [*KINDS], Counter(), time.perf_counter()
    largest: Counter[str] = Counter()
    tests = ROOT / "tests"
    process = FuzzProcess(tests / "goldens", tests / "media" / "pebbles_160x112.mp4", ROOT / "weights/demo/gemma")
    with cli.exit_codes(), closing(process):
        for number in range(cases):
            each = kinds[number % len(kinds)]
            outcome = process.read(each, seed + number)
            found[each, outcome.result] += 1
            largest[each] = max(largest[each], outcome.memory)
            if outcome.result == FAULT:
                typer.echo(f"FAULT: --kind '{each}' --seed {seed + number} --cases 1\n{outcome.text}")
    faults = sum(found[each, FAULT] for each in kinds)
    typer.echo("| kind | refused | accepted | largest memory |\n|---|---|---|---|")
    for each in kinds:
        memory = f"{largest[each] / 1e6:.0f} MB"
        typer.echo(f"| {each} | {found[each, 'refused']} | {found[each, 'accepted']} | {memory} |")
    typer.echo(f"{cases} files in {time.perf_counter() - start:.0f} s, {faults} faults.")
    raise typer.Exit(1 if faults else 0)


if __name__ == "__main__":
    cli.run(main)
