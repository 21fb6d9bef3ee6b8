"""Options that commands have beside those of the library: files, progress, plans, questions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.options import Opt, check_options

ProgressKind = Literal["bar", "json"]
_RUN, _OUTPUT = "Run", "Output"

Output = Annotated[
    Path,
    Opt(
        "File to write. An existing file is replaced after a question, or unasked without a terminal.",
        group=_OUTPUT,
        flags=("--output", "-o"),
        metavar="FILE",
        is_output=True,
    ),
]
Crf = Annotated[float | None, Opt("Quality of the video file; 0 is best.", group=_OUTPUT, min=0, max=51, default="17")]
Repair = Annotated[
    bool,
    Opt("Read a damaged video too; damaged and missing frames repeat the one before.", group="Input", only_on=True),
]
KeepMetadata = Annotated[
    bool,
    Opt("Keep EXIF and tags of the input, and record the run in a video.", group=_OUTPUT),
]
ExactSize = Annotated[
    bool,
    Opt(
        "Keep an odd width or height in H.264 and H.265, in a pixel format (4:4:4) that Apple's players lack.",
        group=_OUTPUT,
        only_on=True,
    ),
]
Deinterlacing = Annotated[
    Literal["same", "double"] | None,
    Opt("Deinterlace the video, at the same rate or at twice the rate (one frame for each field).", group="Input"),
]
BitDepth = Annotated[
    int,
    Opt(
        "Bits for each colour; 10 writes H.265 with the HDR data of the input (.mp4, .mov, .mkv).",
        group=_OUTPUT,
        choices=(8, 10),
    ),
]
InputVideo = Annotated[
    Path, Opt("Video file in any format that FFmpeg reads.", positional=True, metavar="VIDEO", is_file=True)
]

Yes = Annotated[bool, Opt("Answer every question with yes.", group=_RUN, flags=("--yes", "-y"), only_on=True)]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run reports."""

    quiet: Annotated[bool, Opt("Print nothing but warnings and errors.", group=_RUN, only_on=True)] = False
    progress: Annotated[
        ProgressKind, Opt("Progress output format: bars, or JSON lines on stderr for programs.", group=_RUN)
    ] = "bar"

    def __post_init__(self) -> None:
        """Validate the fields; raises RequestError."""
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class WriteOptions(RunOptions):
    """What is written, and which checks it has to pass."""

    output: Output
    report: Annotated[
        Path | None,
        Opt(
            "Write a page on the run: settings, plan beside measured by stage, notes, frames of the result.",
            group=_OUTPUT,
            metavar="FILE.html",
            is_output=True,
        ),
    ] = None
    yes: Yes = False
    no_download: Annotated[bool, Opt("Refuse to download files that are missing.", group=_RUN, only_on=True)] = False
    allow_blank: Annotated[
        bool, Opt("Accept an output of a single color or of identical frames.", group=_RUN, only_on=True)
    ] = False


@dataclass(frozen=True, kw_only=True)
class PlanOptions(WriteOptions):
    """A plan of memory before the run."""

    dry_run: Annotated[bool, Opt("Print the plan and stop.", group=_RUN, only_on=True)] = False
    json: Annotated[bool, Opt("With --dry-run: print the plan as JSON.", group=_RUN, only_on=True)] = False
    force: Annotated[bool, Opt("Ignore the memory check.", group=_RUN, only_on=True)] = False

    def __post_init__(self) -> None:
        """Validate the fields; raises RequestError."""
        super().__post_init__()
        if self.json and not self.dry_run:
            raise RequestError("--json does nothing without --dry-run. Pass both.")


@dataclass(frozen=True, kw_only=True)
class VideoOptions(PlanOptions):
    """A video in, a video out."""

    video: InputVideo
    crf: Crf = None
    repair: Repair = False
    metadata: KeepMetadata = True
    exact_size: ExactSize = False
    deinterlace: Deinterlacing = None
    bit_depth: BitDepth = 8

    @property
    def reading(self) -> dict[str, Any]:
        """Keyword arguments of ``read_video``."""
        return {"repair": self.repair, "deinterlace": self.deinterlace, "bit_depth": self.bit_depth}
