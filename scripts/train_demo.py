"""Train the model in the box from nothing, or go on where a run stopped, and write its files."""

from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX.training.recipe import RUNS, Recipe, Workshop
from LTX_2_MLX.training.sound_recipe import SOUND_RUNS, SoundRecipe, SoundWorkshop

_ALL = (*RUNS, *SOUND_RUNS)


def main(
    folder: Annotated[Path, typer.Option(help="Checkpoints, latents and logs; a stopped run goes on from here.")],
    output: Annotated[Path | None, typer.Option(help="Write the finished files here, weights/demo for one.")] = None,
    run: Annotated[list[str] | None, typer.Option(help=f"Only these, of {', '.join(_ALL)}.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of these runs instead of the recipe's.")] = None,
    shortened: Annotated[bool, typer.Option(help="A few steps of everything, to see that it works.")] = False,
    model: Annotated[Path | None, typer.Option(help="Train only sound, for this model's video as it is.")] = None,
) -> None:
    """Train every network of the demo model in order: those of the video, then those of the sound."""
    names = run or (_ALL if model is None else SOUND_RUNS)
    for name in names:
        if name not in (_ALL if model is None else SOUND_RUNS):
            raise typer.BadParameter(f"{name} is no run; there are {', '.join(_ALL)}, with --model the last three.")
    recipe, sound_recipe = Recipe(), SoundRecipe()
    if shortened:
        recipe, sound_recipe = recipe.shortened(4), sound_recipe.shortened(4)
    for name in names if steps is not None else ():
        if name in RUNS:
            recipe = recipe.with_steps(name, steps)
        else:
            sound_recipe = sound_recipe.with_steps(name, steps)
    if model is None:
        workshop = Workshop(folder, recipe)
        for name in (name for name in names if name in RUNS):
            workshop.run(name)
        if output is None and not set(names) & set(SOUND_RUNS):
            return
        model = folder / "silent"
        workshop.write_bundle(model)
    sound = SoundWorkshop(folder / "sound", model, sound_recipe)
    for name in (name for name in names if name in SOUND_RUNS):
        sound.run(name)
    if output is not None:
        sound.write(output)
        typer.echo(f"Wrote {output}")


if __name__ == "__main__":
    typer.run(main)
