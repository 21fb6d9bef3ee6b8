"""Compare two or three videos."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from LTX_2_MLX.cli.command import command, report
from LTX_2_MLX.cli.options import Crf, Output, Repair, RunOptions, Yes
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.options import Opt

_COMPARISON = "Comparison"
PAGE_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True, kw_only=True)
class CompareOptions(RunOptions):
    """Options of the command."""

    videos: Annotated[
        tuple[Path, ...], Opt("Two or three video files.", positional=True, metavar="A B [C]", is_file=True)
    ] = ()
    output: Output
    wipe: Annotated[
        bool,
        Opt("Show two videos in one place, left and right of a moving line.", group=_COMPARISON, only_on=True),
    ] = False
    label: Annotated[
        tuple[str, ...],
        Opt("Label of a video, in their order; repeatable.", group=_COMPARISON, default="the files' names"),
    ] = ()
    height: Annotated[
        int | None,
        Opt("Height of each video in pixels.", group=_COMPARISON, min=16, max=8192, default="the largest of them"),
    ] = None
    crf: Crf = None
    repair: Repair = False
    yes: Yes = False


def compare(own: CompareOptions) -> None:
    """Show videos A, B and C together: in a video (.mp4 and others), a loop (.webp, .gif), or on a page (.html)."""
    if not 2 <= len(own.videos) <= 3:
        raise RequestError(f"{len(own.videos)} videos were given, expected 2 or 3.")
    if own.label and len(own.label) != len(own.videos):
        raise RequestError(f"{len(own.label)} labels were given for {len(own.videos)} videos. Give one for each.")
    is_page = own.output.suffix.lower() in PAGE_SUFFIXES
    if is_page and own.wipe:
        raise RequestError("--wipe is for videos; a page has a line of its own to drag. Leave out --wipe.")
    if is_page and own.crf is not None:
        raise RequestError("--crf is for videos. Leave it out for a page.")
    from LTX_2_MLX.files import check_writable
    from LTX_2_MLX.media.encoder import CRF, container_of
    from LTX_2_MLX.media.suffixes import LOOP_SUFFIXES
    from LTX_2_MLX.media.video import read_video, write_video
    from LTX_2_MLX.pipelines import compare as pipeline

    if not is_page and own.output.suffix.lower() not in LOOP_SUFFIXES:
        container_of(own.output)
    for video in own.videos:
        check_writable(own.output, video)
    with report(own.output, quiet=own.quiet, progress=own.progress, yes=own.yes) as runner:
        streams = [read_video(video, repair=own.repair) for video in own.videos]
        labels = own.label or _names(own.videos)
        if is_page:
            pipeline.write_comparison_page(streams, labels, own.output, height=own.height, progress=runner.progress)
            return
        together = pipeline.compare(streams, labels, wipe=own.wipe, height=own.height)
        write_video(together, own.output, crf=CRF if own.crf is None else own.crf, progress=runner.progress)


def _names(videos: tuple[Path, ...]) -> tuple[str, ...]:
    """The files' names; with their folders where two are the same."""
    names = [video.name for video in videos]
    if len(set(names)) < len(names):
        return tuple(f"{video.parent.name}/{video.name}" for video in videos)
    return tuple(names)


main = command("compare", compare, CompareOptions)
