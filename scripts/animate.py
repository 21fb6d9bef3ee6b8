"""Convert a short video to an animated image for a page."""

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from LTX_2_MLX import cli, read_video
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.files import replaced_when_complete


def main(
    video: Annotated[Path, typer.Argument(help="Video file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .webp or .gif.")],
) -> None:
    """Write every frame of VIDEO, as it is, to OUTPUT, which ends in .webp or .gif and repeats for ever."""
    with cli.report(output, source=video):
        if output.suffix.lower() not in (".webp", ".gif"):
            raise RequestError(f"Unsupported animation format {output.suffix}. Use .webp or .gif.")
        clip = read_video(video)
        first, *others = [Image.fromarray(frame) for frame in clip.frames()]
        with replaced_when_complete(output) as temporary:
            milliseconds = round(1000 / clip.frame_rate)
            first.save(temporary, save_all=True, append_images=others, duration=milliseconds, loop=0, quality=90)


if __name__ == "__main__":
    cli.run(main)
