"""Examine this machine: system, memory, MLX, weights on disk, and the kernels that the networks use."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from LTX_2_MLX._version import __version__
from LTX_2_MLX.cli.command import FAILED, command
from LTX_2_MLX.cli.echo import echo
from LTX_2_MLX.pipelines.options import Opt

# The check of large indices takes 4 GiB beside everything else.
_LARGE_CHECK_BYTES = 16 * 2**30


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Options of the command."""

    kernels: Annotated[bool, Opt("Compute with MLX's kernels and compare with NumPy.")] = True
    as_json: Annotated[bool, Opt("Print the report as JSON.", flags=("--json",), only_on=True)] = False


def doctor(own: DoctorOptions) -> None:
    """Print a report on this machine, to attach to a bug report; it holds no paths and no names of yours.

    The exit code is 1 if a kernel computes wrong numbers.
    """
    # Imported here: `--help` needs no MLX.
    from LTX_2_MLX.bench.kernels import check_kernels
    from LTX_2_MLX.bench.machine import findings
    from LTX_2_MLX.runtime.this_machine import total_bytes

    facts = list(findings())
    if not own.as_json:
        echo(f"LTX-2-MLX {__version__}")
        for fact in facts:
            echo(f"{fact.subject}: {fact.value}")
            if fact.advice:
                echo(f"    -> {fact.advice}")
    checks = []
    if own.kernels:
        for check in check_kernels(large_arrays=total_bytes() >= _LARGE_CHECK_BYTES):
            checks.append(check)
            if not own.as_json:
                verdict = "ok" if check.ok else "WRONG"
                echo(f"{verdict}  {check.name}: {check.error:.1e} of {check.bound:.0e}")
    wrong = [check for check in checks if not check.ok]
    if own.as_json:
        report = {
            "version": __version__,
            "findings": [asdict(fact) for fact in facts],
            "kernels": [asdict(check) for check in checks],
        }
        echo(json.dumps(report, indent=2))
    elif wrong:
        advice = "Update macOS and MLX (pip install -U mlx), and report it with this output."
        echo(f"{len(wrong)} kernels are wrong. {advice}")
    else:
        echo("No kernel is wrong." if checks else "The kernels were not tried.")
    if wrong:
        raise typer.Exit(FAILED)


main = command("doctor", doctor, DoctorOptions)
