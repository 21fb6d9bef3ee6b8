"""Check and measure an NVIDIA machine in eight minutes: golden cases, a first video, networks, and torch beside them.

Install with the extra ``cuda13``; where torch is installed as well, its networks run on the same card.
"""

import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX.development.gpu_check import LIMIT_SECONDS, machine, planned, run, steps


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="The JSON file.")] = Path("gpu_check.json"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the commands, and write them to the file.")] = False,
    limit: Annotated[float, typer.Option("--limit", help="Seconds of all steps together.")] = LIMIT_SECONDS,
) -> None:
    """Run all steps, print a table and write the JSON file; the exit code is 1 if a step failed."""
    start = time.monotonic()
    outcomes = []
    typer.echo("| step | result | seconds |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for step in steps(Path(folder)):
            outcome = planned(step) if dry_run else run(step, limit - (time.monotonic() - start))
            outcomes.append(outcome)
            typer.echo(f"| {outcome.name} | {outcome.result} | {outcome.seconds:.0f} |")
    report = {"machine": "" if dry_run else machine(), "steps": [asdict(outcome) for outcome in outcomes]}
    output.write_text(json.dumps(report, indent=2))
    typer.echo(f"\nWritten to {output}.")
    if any(outcome.result == "failed" for outcome in outcomes):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
