"""Options of saved results."""

from pathlib import Path
from typing import Annotated

from LTX_2_MLX.pipelines.options import Opt

GROUP = "Saved results"

Cache = Annotated[
    bool,
    Opt(
        "Keep prompt embeddings for later runs, and take those of earlier ones.",
        group=GROUP,
        flags=("--cache",),
        recorded=False,
    ),
]
Embeddings = Annotated[
    str | Path | None,
    Opt(
        "Prompt embeddings saved by an earlier run, instead of the text encoder.",
        group=GROUP,
        metavar="FILE",
        is_file=True,
        replaces=("gemma", "save_embeddings"),
    ),
]
SaveEmbeddings = Annotated[
    str | Path | None,
    Opt(
        "Save the prompt embeddings to this file.",
        group=GROUP,
        metavar="FILE",
        is_output=True,
        recorded=False,
        replaces=("embeddings",),
    ),
]
SaveLatents = Annotated[
    str | Path | None,
    Opt(
        "Save the result of every stage in this folder.",
        group=GROUP,
        metavar="FOLDER",
        is_output=True,
        recorded=False,
    ),
]
Resume = Annotated[
    str | Path | None,
    Opt(
        "Continue an earlier run from the last complete stage in this folder.",
        group=GROUP,
        metavar="FOLDER",
        is_output=True,
        recorded=False,
    ),
]
Preview = Annotated[
    str | Path | None,
    Opt(
        "Write a contact sheet of the clean estimate into this folder while the video is denoised.",
        group=GROUP,
        metavar="FOLDER",
        is_output=True,
        recorded=False,
    ),
]
PreviewEvery = Annotated[
    int,
    Opt(
        "Steps from one preview to the next; the last step has one, too.",
        group=GROUP,
        min=1,
        recorded=False,
        needs=("preview",),
    ),
]
