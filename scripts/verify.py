"""Run golden cases through the real loaders and networks on this machine."""

import json
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import mlx.core as mx
import typer

from LTX_2_MLX import cli
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.ops.device import as_backend, on_cpu
from LTX_2_MLX.verify import COMPONENTS, Result, component_of, find_cases, run_case

GOLDENS = Path(__file__).parent.parent / "tests" / "goldens"


class Device(StrEnum):
    """Where to compute."""

    cpu = "cpu"
    gpu = "gpu"


def main(
    cases: Annotated[
        list[Path] | None, typer.Argument(metavar="[CASE]...", help="Case folders, or folders above them.")
    ] = None,
    device: Annotated[
        Device | None, typer.Option("--device", help="Device to compute on [default: the GPU, else the CPU].")
    ] = None,
    backend_forms: Annotated[
        bool,
        typer.Option("--backend-forms", help="Compute with the forms that operations take on the other backend."),
    ] = False,
    skip_unknown: Annotated[
        bool,
        typer.Option("--skip-unknown", help="List the cases of components that this version lacks, and go on."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as a JSON list.")] = False,
) -> None:
    """Compare every output of every CASE with the published reference.

    The exit code is 1 if an output is over its tolerance, or if a case's component is unknown.
    """
    choose_device(device)
    paths = find_cases(cases or [GOLDENS])
    if skip_unknown:
        paths = known_cases(paths)
    with forms(backend_forms):
        results = run_cases(paths, quiet=as_json)
    failed = sum(not result.ok for result in results)
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], indent=2))
    else:
        typer.echo(f"{len(results) - failed} of {len(results)} cases pass on {mx.default_device()}.")
    if failed:
        raise typer.Exit(cli.FAILED)


def choose_device(device: Device | None) -> None:
    """Compute on ``device``, or leave MLX's own choice."""
    if device is Device.gpu and not mx.is_available(mx.gpu):
        raise RequestError("--device gpu: MLX finds no GPU here. Leave the option out.")
    if device is not None:
        mx.set_default_device(getattr(mx, device))


def known_cases(paths: list[Path]) -> list[Path]:
    """The cases whose component this version has; the others are listed on stderr by component."""
    known = []
    left_out = Counter()
    for path in paths:
        component = component_of(path)
        # A case that cannot be read is no unknown component: it fails when it is run.
        if component is None or component in COMPONENTS:
            known.append(path)
        else:
            left_out[component] += 1
    for component, number in sorted(left_out.items()):
        typer.echo(f"left out: {component} ({number} {'case' if number == 1 else 'cases'})", err=True)
    return known


def forms(of_other_backend: bool) -> AbstractContextManager[None]:
    """Where asked for, let operations take the other backend's forms; the device stays the same."""
    if not of_other_backend:
        return nullcontext()
    return as_backend("gpu" if on_cpu() else "cpu")


def run_cases(paths: list[Path], quiet: bool) -> list[Result]:
    """Run the cases in order, and print a line for each unless ``quiet``."""
    results = []
    for path in paths:
        result = run_case(path)
        results.append(result)
        if not quiet:
            typer.echo(line(result))
    return results


def line(result: Result) -> str:
    """One case as a line of text: its error nearest to the tolerance, or what is wrong."""
    state = "ok" if result.ok else "FAIL"
    if result.worst is None:
        return f"{state}  {result.case}: {result.reason or 'nothing to compare'}"
    figures = f"{result.worst:.1e} of {result.tolerance:.0e}"
    reason = "" if result.ok else f"; {result.reason}"
    return f"{state}  {result.case}: {figures}{reason}"


if __name__ == "__main__":
    cli.run(main)
