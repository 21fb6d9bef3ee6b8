"""Copy and encode thousands of disturbed clips into every container: each has to be refused or to stay in step."""

import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import cli
from LTX_2_MLX.development.container_fuzz import KEPT, REFUSED, SAID, Case, Fault, cases, run_case


def main(
    runs: Annotated[int, typer.Option("--runs", help="How many clips are written.", min=1)] = 2_000,
    first: Annotated[int, typer.Option("--first", help="Number of the first one.", min=0)] = 0,
) -> None:
    """Write RUNS disturbed clips again and print what became of them; exit code 1 if one was a fault."""
    found: Counter[tuple[str, str]] = Counter()
    faults, start = 0, time.perf_counter()
    chosen = [*cases(first + runs)][first:]
    with cli.exit_codes():
        for case in chosen:
            result = _result(case)
            found[case.kind, result] += 1
            faults += result == "fault"
    typer.echo("| clip | as it was | said | refused | fault |\n|---|---|---|---|---|")
    for kind in dict.fromkeys(case.kind for case in chosen):
        counts = " | ".join(str(found[kind, result]) for result in (KEPT, SAID, REFUSED, "fault"))
        typer.echo(f"| {kind} | {counts} |")
    typer.echo(f"{runs} runs in {time.perf_counter() - start:.0f} s, {faults} faults.")
    raise typer.Exit(1 if faults else 0)


def _result(case: Case) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return run_case(case, Path(folder))
        except Fault as fault:
            typer.echo(f"FAULT: --first {case.seed} --runs 1: {case.kind} to {case.suffix}, {case.way}: {fault}")
        except Exception:
            typer.echo(f"BROKEN: --first {case.seed} --runs 1\n{traceback.format_exc(limit=-4)}")
    return "fault"


if __name__ == "__main__":
    cli.run(main)
