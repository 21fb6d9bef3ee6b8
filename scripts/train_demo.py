"""Train the model in the box from nothing, or go on where a run stopped, and write its files."""

from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX.training.recipe import RUNS, Recipe, Workshop


def main(
    folder: Annotated[Path, typer.Option(help="Checkpoints, latents and logs; a stopped run goes on from here.")],
    output: Annotated[Path | None, typer.Option(help="Write the finished files here, weights/demo for one.")] = None,
    run: Annotated[list[str] | None, typer.Option(help=f"Only these, of {', '.join(RUNS)}.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of these runs instead of the recipe's.")] = None,
    shortened: Annotated[bool, typer.Option(help="A few steps of everything, to see that it works.")] = False,
) -> None:
    """Train every network of the demo model in order."""
    recipe = Recipe().shortened(4) if shortened else Recipe()
    for name in run or RUNS:
        if name not in RUNS:
            raise typer.BadParameter(f"{name} is no run; there are {', '.join(RUNS)}.")
        if steps is not None:
            recipe = recipe.with_steps(name, steps)
    workshop = Workshop(folder, recipe)
    for name in run or RUNS:
        workshop.run(name)
    if output is not None:
        workshop.write_bundle(output)
        typer.echo(f"Wrote {output}")


if __name__ == "__main__":
    typer.run(main)
