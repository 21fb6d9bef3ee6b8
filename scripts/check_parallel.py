"""Golden pipelines by several processes: ``mlx.launch -n 2 -- python scripts/check_parallel.py sequence``."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated, get_args

import typer

import LTX_2_MLX  # noqa: F401  (loads BLAS before MLX)
from LTX_2_MLX import cli
from LTX_2_MLX.pipelines.generation.option_groups.memory import ParallelMode
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.machines import joined
from LTX_2_MLX.verify.case import Case
from LTX_2_MLX.verify.layout import readable
from LTX_2_MLX.verify.ltx_pipeline import pipeline
from LTX_2_MLX.verify.run import Result, compare

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
CASES = ("ltx2/pipeline_*", "ltx25/pipeline_*")


def main(
    modes: Annotated[list[str], typer.Argument(help="guidance, sequence: ways to share the work.")],
    case: Annotated[str | None, typer.Option(help="Part of the names of the cases; all unless given.")] = None,
) -> None:
    """Run the golden pipelines in each of MODES and print their largest error; exit code 1 when one fails."""
    unknown = set(modes) - set(get_args(ParallelMode))
    if unknown or launch.RANK is None:
        raise typer.BadParameter("Start this with mlx.launch, and name modes of --parallel.")
    failed = 0
    with joined(lambda number: sys.exit(128 + number)):
        for mode in modes:
            for folder in cases(case):
                result = run(folder, mode)
                failed += not result.ok
                if not launch.FOLLOWS:
                    typer.echo(
                        f"{'ok  ' if result.ok else 'FAIL'} {mode:<9} {folder.name:<30} {result.worst} {result.reason}"
                    )
    raise typer.Exit(1 if failed else 0)


def cases(part: str | None) -> list[Path]:
    """Folders of the golden pipelines."""
    found = [folder for pattern in CASES for folder in sorted(GOLDENS.glob(pattern))]
    return [folder for folder in found if part is None or part in folder.name]


def run(folder: Path, mode: ParallelMode) -> Result:
    """One case by all processes, compared with the reference on each of them."""
    with tempfile.TemporaryDirectory() as scratch:
        case = Case.open(folder, Path(scratch))
        result = Result(case=folder.name, component=case.component, ok=False)
        computed = {name: readable(value) for name, value in pipeline(case, mode).items()}
        compare(case, computed, result)
    return result


if __name__ == "__main__":
    cli.run(main)
