"""Read thousands of damaged files: each has to be refused in words or accepted for what it is."""

import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import cli
from LTX_2_MLX.development.fuzz import KINDS, Good, run_fuzz
from LTX_2_MLX.pipelines.generation.options import Options

ROOT = Path(__file__).parents[1]


def main(
    cases: Annotated[int, typer.Option("--cases", help="How many files are read.", min=1)] = 10_000,
    seed: cli.option(Options, "seed") = 0,
    kind: Annotated[str | None, typer.Option("--kind", help="One kind alone; all in turn unless given.")] = None,
) -> None:
    """Read CASES damaged files and print what became of them; exit code 1 if one was a fault."""
    kinds, found, faults, start = [kind] if kind else [*KINDS], Counter(), 0, time.perf_counter()
    with cli.exit_codes(), tempfile.TemporaryDirectory() as folder:
        tests = ROOT / "tests"
        good = Good.make(
            tests / "goldens", tests / "media" / "pebbles_160x112.mp4", ROOT / "weights/demo/gemma", Path(folder)
        )
        for number in range(cases):
            each = kinds[number % len(kinds)]
            try:
                found[each, run_fuzz(each, seed + number, good, Path(folder))] += 1
            except Exception:
                faults += 1
                typer.echo(f"FAULT: --kind '{each}' --seed {seed + number} --cases 1\n{traceback.format_exc(limit=-4)}")
    typer.echo("| kind | refused | accepted |\n|---|---|---|")
    for each in kinds:
        typer.echo(f"| {each} | {found[each, 'refused']} | {found[each, 'accepted']} |")
    typer.echo(f"{cases} files in {time.perf_counter() - start:.0f} s, {faults} faults.")
    raise typer.Exit(1 if faults else 0)


if __name__ == "__main__":
    cli.run(main)
