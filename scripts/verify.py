"""Run golden cases through this machine's own loaders, networks and device."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import mlx.core as mx
import typer

from LTX_2_MLX import cli
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.verify import Result, find_cases, run_case

GOLDENS = Path(__file__).parent.parent / "tests" / "goldens"


class Device(StrEnum):
    """Where to compute."""

    cpu = "cpu"
    gpu = "gpu"


def main(
    cases: Annotated[
        list[Path] | None, typer.Argument(metavar="[CASE]...", help="Case folders, or folders above them.")
    ] = None,
    device: Annotated[Device | None, typer.Option("--device", help="Default: the GPU where there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as a JSON list.")] = False,
) -> None:
    """Compare every output of every CASE with the published reference; exit code 1 if one is over its tolerance."""
    choose_device(device)
    results = []
    for path in find_cases(cases or [GOLDENS]):
        results.append(run_case(path))
        if not as_json:
            typer.echo(line(results[-1]))
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], indent=2))
    failed = sum(not result.ok for result in results)
    if not as_json:
        typer.echo(f"{len(results) - failed} of {len(results)} cases pass on {mx.default_device()}.")
    if failed:
        raise typer.Exit(cli.FAILED)


def choose_device(device: Device | None) -> None:
    """Compute on ``device``, or leave MLX's own choice."""
    if device is Device.gpu and not mx.is_available(mx.gpu):
        raise RequestError("--device gpu: MLX finds no GPU here. Leave the option out.")
    if device is not None:
        mx.set_default_device(getattr(mx, device))


def line(result: Result) -> str:
    """One case as a line of text: its error nearest to the tolerance, or what is wrong."""
    if result.worst is None:
        return f"{'ok' if result.ok else 'FAIL'}  {result.case}: {result.reason or 'nothing to compare'}"
    figures = f"{result.worst:.1e} of {result.tolerance:.0e}"
    return f"{'ok' if result.ok else 'FAIL'}  {result.case}: {figures}" + ("" if result.ok else f"; {result.reason}")


if __name__ == "__main__":
    cli.run(main)
