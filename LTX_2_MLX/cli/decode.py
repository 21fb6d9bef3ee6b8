"""Decode the latent that an earlier run of generate has saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from LTX_2_MLX.cli.command import command, progress_from, report
from LTX_2_MLX.cli.options import Crf, WriteOptions
from LTX_2_MLX.pipelines.options import Opt
from LTX_2_MLX.pipelines.requests import TileSize


@dataclass(frozen=True, kw_only=True)
class DecodeOptions(WriteOptions):
    """Options of the command."""

    folder: Annotated[
        Path, Opt("Folder of --save-latents or --resume.", positional=True, metavar="FOLDER", is_file=True)
    ]
    tile_size: TileSize = None
    crf: Crf = None
    force: Annotated[
        bool, Opt("Has no effect: decoding tiles its frames to fit in memory.", group="Run", only_on=True)
    ] = False


def decode(own: DecodeOptions) -> None:
    """Write the video whose latent is in FOLDER to OUTPUT; nothing before the decoder is computed again."""
    from LTX_2_MLX.media.encoder import CRF
    from LTX_2_MLX.media.frames import validated
    from LTX_2_MLX.media.video import write_video
    from LTX_2_MLX.pipelines.generate import decode_saved

    crf = CRF if own.crf is None else own.crf
    if own.force:
        progress_from(vars(own)).note("--force has no effect here. To accept a blank output, pass --allow-blank.")
    with report(own.output, quiet=own.quiet, progress=own.progress, yes=own.yes, page=own.report) as runner:
        runner.facts |= {"command": "decode", "settings": {"folder": own.folder, "tile_size": own.tile_size}}
        stream = decode_saved(own.folder, runner, tile_size=own.tile_size)
        stream = stream if own.allow_blank else validated(stream, moving=True)
        write_video(stream, own.output, crf=crf, progress=runner.progress)


main = command("decode", decode, DecodeOptions)
