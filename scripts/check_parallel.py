"""Golden pipelines by several processes: ``mlx.launch -n 2 -- python scripts/check_parallel.py sequence``."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import typer

import LTX_2_MLX  # noqa: F401  (loads BLAS before MLX)
from LTX_2_MLX import cli
from LTX_2_MLX.checkpoints.block_run import BlockRun
from LTX_2_MLX.ops.collective import ALONE
from LTX_2_MLX.pipelines.generation.option_groups.memory import ParallelMode
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.machines import Machines, acting_as, joined, machines
from LTX_2_MLX.verify.case import Case
from LTX_2_MLX.verify.figures import Figures
from LTX_2_MLX.verify.layout import readable
from LTX_2_MLX.verify.ltx_dfr import dfr, dfr_new
from LTX_2_MLX.verify.ltx_dfr_spatial import dfr_spatial_stage
from LTX_2_MLX.verify.ltx_pipeline import pipeline
from LTX_2_MLX.verify.ltx_text import gemma, gemma4
from LTX_2_MLX.verify.run import Result, compare

GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
CASES = ("ltx2/pipeline_*", "ltx2/gemma_tiny", "ltx25/*")
PIPELINES = {
    "ltx2/pipeline": pipeline,
    "ltx25/pipeline": pipeline,
    "ltx25/dfr": dfr,
    "ltx25/dfr_new": dfr_new,
    "ltx25/dfr_new_two_rounds": dfr_new,
    "ltx25/dfr_spatial_stage": dfr_spatial_stage,
}
# Over the largest value of an output.
LARGEST_DIFFERENCE = 1e-6
TEXT_ENCODERS = {"ltx2/gemma_tiny": gemma, "ltx25/gemma4_tiny": gemma4}


def main(
    modes: Annotated[list[str], typer.Argument(help="guidance, sequence, blocks: ways to share the work.")],
    case: Annotated[str | None, typer.Option(help="Part of the names of the cases; all unless given.")] = None,
) -> None:
    """Run the golden cases in each of MODES; print the largest error and the largest difference from one process.

    Exit code 1 when a case fails, or differs by more than 1e-6 of its largest value from what one process computes.
    """
    unknown = set(modes) - set(get_args(ParallelMode))
    if unknown or launch.RANK is None:
        raise typer.BadParameter("Start this with mlx.launch, and name modes of --parallel.")
    failed = 0
    with joined(lambda number: sys.exit(128 + number)):
        for mode in modes:
            for folder in cases(case):
                found = run(folder, mode)
                if found is None:
                    continue
                result, difference = found
                ok = result.ok and difference <= LARGEST_DIFFERENCE
                failed += not ok
                if not launch.FOLLOWS:
                    words = "bit-equal" if difference == 0 else f"{difference:.1e} from one process"
                    typer.echo(
                        f"{'ok  ' if ok else 'FAIL'} {mode:<9} {folder.name:<30} {result.worst} {words} {result.reason}"
                    )
    raise typer.Exit(1 if failed else 0)


def cases(part: str | None) -> list[Path]:
    """Folders of the golden cases that several processes compute."""
    found = [folder for pattern in CASES for folder in sorted(GOLDENS.glob(pattern))]
    return [folder for folder in found if (folder / "case.json").is_file() and (part is None or part in folder.name)]


def run(folder: Path, mode: ParallelMode) -> tuple[Result, float] | None:
    """One case by all processes, compared with the reference on each of them, and with what one process computes.

    None where the mode does not share it.
    """
    if component_of(folder) not in PIPELINES and (component_of(folder) not in TEXT_ENCODERS or mode != "blocks"):
        return None
    shared = outputs(folder, mode)
    with acting_as(Machines(ALONE)):
        alone = outputs(folder, mode)
    with tempfile.TemporaryDirectory() as scratch:
        case = Case.open(folder, Path(scratch))
        result = Result(case=folder.name, component=case.component, ok=False)
        compare(case, shared, result)
    differences = [Figures.of(shared[name], alone[name]).largest for name in alone]
    return result, max(differences)


def component_of(folder: Path) -> str:
    """The component of a case."""
    component: str = json.loads((folder / "case.json").read_text())["component"]
    return component


def outputs(folder: Path, mode: ParallelMode) -> dict[str, np.ndarray]:
    """Of a case by the processes of the run."""
    with tempfile.TemporaryDirectory() as scratch:
        case = Case.open(folder, Path(scratch))
        if case.component in TEXT_ENCODERS:
            found = TEXT_ENCODERS[case.component](case, BlockRun(machines().group))
        else:
            found = PIPELINES[case.component](case, mode)
        return {name: readable(value) for name, value in found.items()}


if __name__ == "__main__":
    cli.run(main)
