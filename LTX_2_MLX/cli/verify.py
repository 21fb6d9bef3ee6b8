"""Run golden cases through the real loaders and networks on this machine."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from LTX_2_MLX.cli.command import FAILED, command
from LTX_2_MLX.cli.echo import echo
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.options import Opt

if TYPE_CHECKING:
    from LTX_2_MLX.verify import Result

_GOLDENS = Path(__file__).resolve().parents[2] / "tests" / "goldens"


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Options of the command."""

    cases: Annotated[
        tuple[Path, ...],
        Opt(
            "Case folders, or folders above them.",
            positional=True,
            metavar="[CASE]...",
            default="tests/goldens of a clone",
            is_file=True,
        ),
    ] = ()
    device: Annotated[Literal["cpu", "gpu"] | None, Opt("Device to compute on.", default="the GPU, else the CPU")] = (
        None
    )
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"],
        Opt(
            "Precision of the networks. In 16 bit an output passes within a band around the published network's own "
            "error in that precision (tests/goldens/bands.json), and every output's figures are printed."
        ),
    ] = "fp32"
    backend_forms: Annotated[
        bool, Opt("Compute with the forms that operations take on the other backend.", only_on=True)
    ] = False
    as_metal: Annotated[
        bool,
        Opt("Compute on the CPU with a GPU's forms, and convolutions with the roundings of Metal.", only_on=True),
    ] = False
    skip_unknown: Annotated[
        bool, Opt("List the cases of components that this version lacks, and go on.", only_on=True)
    ] = False
    as_table: Annotated[
        bool,
        Opt("Print a table by component: its widest errors and what is allowed.", flags=("--table",), only_on=True),
    ] = False
    as_json: Annotated[bool, Opt("Print the results as a JSON list.", flags=("--json",), only_on=True)] = False


def verify(own: VerifyOptions) -> None:
    """Compare every output of every CASE with the published reference.

    The exit code is 1 if an output is over its tolerance, or if a case's component is unknown.
    """
    from LTX_2_MLX.ops.device import device
    from LTX_2_MLX.verify import find_cases

    if own.as_json and own.as_table:
        raise RequestError("--json and --table are two forms of the results. Leave out one.")
    choose_device(own.device)
    paths = find_cases([Path(case).expanduser() for case in own.cases] or [_GOLDENS])
    if own.skip_unknown:
        paths = known_cases(paths)
    with forms(own.backend_forms, own.as_metal):
        results = run_cases(paths, own.dtype, quiet=own.as_json or own.as_table)
    failed = sum(not result.ok for result in results)
    if own.as_json:
        echo(json.dumps([asdict(result) for result in results], indent=2))
    else:
        if own.as_table:
            echo("\n".join(table(results)))
        precision = "" if own.dtype == "fp32" else f" in {own.dtype}"
        metal = ", as Metal would" if own.as_metal else ""
        echo(f"{len(results) - failed} of {len(results)} cases pass on {device()}{precision}{metal}.")
    if failed:
        raise typer.Exit(FAILED)


def choose_device(name: str | None) -> None:
    """Compute on a device by its name, or leave MLX's own choice."""
    import mlx.core as mx

    if name == "gpu" and not mx.is_available(mx.gpu):
        raise RequestError("--device gpu: MLX finds no GPU here. Leave the option out.")
    if name is not None:
        mx.set_default_device(getattr(mx, name))


def known_cases(paths: list[Path]) -> list[Path]:
    """The cases whose component this version has; the others are listed on stderr by component."""
    from LTX_2_MLX.verify import COMPONENTS, component_of

    known: list[Path] = []
    left_out: Counter[str] = Counter()
    for path in paths:
        component = component_of(path)
        # A case that cannot be read is no unknown component: it fails when it is run.
        if component is None or component in COMPONENTS:
            known.append(path)
        else:
            left_out[component] += 1
    for component, number in sorted(left_out.items()):
        echo(f"left out: {component} ({number} {'case' if number == 1 else 'cases'})", err=True)
    return known


def forms(of_other_backend: bool, as_metal: bool) -> AbstractContextManager[Any]:
    """If asked for, let operations take the other backend's forms, or Metal's with its roundings on the CPU.

    Raises:
        RequestError: If a GPU is to compute as Metal would, or both are asked for.
    """
    import mlx.core as mx

    from LTX_2_MLX.ops.device import as_backend, device, on_cpu

    if as_metal and of_other_backend:
        raise RequestError("--as-metal takes a GPU's forms already. Leave out --backend-forms.")
    if as_metal and device().type != mx.cpu:
        raise RequestError("--as-metal computes on the CPU what a Mac would. Pass --device cpu with it.")
    stack = ExitStack()
    if of_other_backend or as_metal:
        from LTX_2_MLX.verify.as_metal import fused_attention, metal_convolutions

        if on_cpu():
            stack.enter_context(fused_attention())
        stack.enter_context(as_backend("gpu" if on_cpu() else "cpu"))
    if as_metal:
        stack.enter_context(metal_convolutions())
    return stack


def run_cases(paths: list[Path], precision: str, quiet: bool) -> list["Result"]:
    """Run the cases in order, and print a line for each unless ``quiet``; in 16 bit one for each output as well."""
    from LTX_2_MLX.planning.plan import DTYPES, RULES
    from LTX_2_MLX.verify import Bands, run_case

    bands = None if precision == "fp32" else Bands.read(precision)
    if precision == "fp16":
        echo(f"Text encoders and connectors run in bfloat16: {RULES['text encoder'].reason}.", err=True)
    results = []
    for path in paths:
        result = run_case(path, dtype=DTYPES[precision], bands=bands)
        results.append(result)
        if not quiet:
            echo("\n".join([line(result), *figure_lines(result)] if bands else [line(result)]))
    return results


def figure_lines(result: "Result") -> list[str]:
    """Every output's figures as lines of text, with what is allowed where that is a band."""
    lines = []
    for name, figures in result.figures.items():
        text = f"largest {figures.largest:.1e}  rms {figures.rms:.1e}  cosine {figures.cosine:.6f}"
        limit = result.limits.get(name)
        allowed = f"  (at most {limit.largest:.1e}, {limit.rms:.1e})" if limit else "  (as in float32)"
        lines.append(f"      {name}: {text}{allowed}")
    return lines


def table(results: list["Result"]) -> Iterator[str]:
    """Markdown: the widest root mean square and largest errors of every component, and what is allowed there."""
    yield "| component | cases | rms, at most | largest, at most |"
    yield "|---|---|---|---|"
    for component in sorted({result.component for result in results}):
        mine = [result for result in results if result.component == component]
        outputs = [(figures, each.limits.get(name)) for each in mine for name, figures in each.figures.items()]
        cells = []
        for measure in ("rms", "largest"):
            figures, limit = max(outputs, key=lambda pair: getattr(pair[0], measure), default=(None, None))
            allowed = "as in float32" if limit is None else f"{getattr(limit, measure):.1e}"
            cells.append("" if figures is None else f"{getattr(figures, measure):.1e}, {allowed}")
        failed = sum(not result.ok for result in mine)
        yield f"| {component} | {len(mine)}{f', {failed} fail' if failed else ''} | {' | '.join(cells)} |"


def line(result: "Result") -> str:
    """One case as a line of text: its error nearest to the tolerance, or what is wrong."""
    state = "ok" if result.ok else "FAIL"
    if result.worst is None:
        return f"{state}  {result.case}: {result.reason or 'nothing to compare'}"
    figures = f"{result.worst:.1e} of {result.tolerance:.0e}"
    reason = "" if result.ok else f"; {result.reason}"
    return f"{state}  {result.case}: {figures}{reason}"


main = command("verify", verify, VerifyOptions)
