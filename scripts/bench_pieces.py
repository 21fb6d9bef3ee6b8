"""Measure the longest work between two evaluations of every network, from shapes alone, beside an M1 Max's rates."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import cli  # The package first: it loads the fast BLAS.
from LTX_2_MLX.development.network_calls import calls, record_call
from LTX_2_MLX.development.work_record import seconds_on_m1_max

MANIFESTS = Path(__file__).parents[1] / "tests" / "manifests"
GIB = 2**30


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Parts of networks' names [default: all].")] = None,
) -> None:
    """Print a table. Nothing is computed; weights are not needed."""
    typer.echo("| network | input | TFLOP in all | longest piece | s on an M1 Max | largest array, GiB |")
    typer.echo("|---|---|---|---|---|---|")
    with cli.exit_codes(), tempfile.TemporaryDirectory() as folder:
        for call in calls():
            if names and not any(name in call.name for name in names):
                continue
            record = record_call(call, MANIFESTS, Path(folder))
            longest = record.longest
            typer.echo(
                f"| {call.name} | {call.size} | {record.total / 1e12:.2f} | {longest.total() / 1e12:.2f} | "
                f"{seconds_on_m1_max(longest):.2f} | {record.largest_array / GIB:.2f} |"
            )


if __name__ == "__main__":
    typer.run(main)
