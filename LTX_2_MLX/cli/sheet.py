"""Write a contact sheet of a video."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from LTX_2_MLX.cli.command import check_existing, command, progress_from
from LTX_2_MLX.cli.options import Deinterlacing, InputVideo, Output, Repair, RunOptions, Yes
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.options import Opt

_SHEET = "Sheet"


@dataclass(frozen=True, kw_only=True)
class SheetOptions(RunOptions):
    """Options of the command."""

    video: InputVideo
    output: Output
    columns: Annotated[int, Opt("Frames in a row.", group=_SHEET, min=1, max=50)] = 4
    rows: Annotated[int, Opt("Rows of frames.", group=_SHEET, min=1, max=50)] = 3
    width: Annotated[int, Opt("Width of each frame in pixels; at most its own.", group=_SHEET, min=16, max=4096)] = 320
    waveform: Annotated[bool, Opt("Draw the waveform of the sound below the frames.", group=_SHEET)] = True
    repair: Repair = False
    deinterlace: Deinterlacing = None
    yes: Yes = False


def sheet(own: SheetOptions) -> None:
    """Write frames of VIDEO, evenly spread from the first to the last, to the image OUTPUT."""
    from LTX_2_MLX.files import check_writable
    from LTX_2_MLX.media.contact_sheet import Layout, contact_sheet, read_peaks
    from LTX_2_MLX.media.image import StillImage, write_image
    from LTX_2_MLX.media.image_formats import format_of
    from LTX_2_MLX.media.video import read_video

    format_of(own.output)
    check_writable(own.output)
    if own.output.exists() and own.video.exists() and own.output.samefile(own.video):
        raise RequestError(f"{own.output} is the input itself. Give --output another name.")
    check_existing(own.output, yes=own.yes)
    stream = read_video(own.video, repair=own.repair, deinterlace=own.deinterlace)
    progress = progress_from(vars(own))
    for line in stream.notes:
        progress.note(line)
    peaks = read_peaks(own.video) if own.waveform and stream.audio is not None else None
    pixels = contact_sheet(stream, Layout(own.columns, own.rows, own.width), peaks)
    write_image(StillImage(pixels), Path(own.output))
    if not own.quiet:
        progress.note(f"Wrote {own.output}")


main = command("sheet", sheet, SheetOptions)
