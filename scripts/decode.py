"""Decode the latent that a run of generate.py has kept, without computing anything before it."""

from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import cli, write_video
from LTX_2_MLX.media.encoder import CRF
from LTX_2_MLX.media.validate import validated
from LTX_2_MLX.pipelines.generate import kept_film


def main(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Given to --save-latents or --resume before.")],
    output: cli.Output,
    tile_size: cli.TileSize = None,
    crf: cli.Crf = CRF,
    quiet: cli.Quiet = False,
    progress: cli.ProgressOption = cli.ProgressKind.bar,
    force: cli.Force = False,
) -> None:
    """Write the film whose latent is in FOLDER to OUTPUT."""
    with cli.report(output, quiet=quiet, progress=progress) as runner:
        stream = kept_film(folder, runner, tile_size=tile_size)
        write_video(stream if force else validated(stream, moving=True), output, crf=crf, progress=runner.progress)


if __name__ == "__main__":
    cli.run(main)
