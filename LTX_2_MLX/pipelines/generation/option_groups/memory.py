"""Options of memory and precision."""

from typing import Annotated, Literal

from LTX_2_MLX.pipelines.options import Opt
from LTX_2_MLX.pipelines.requests import MEMORY_GROUP

Quantize = Annotated[
    int | None,
    Opt(
        "Quantize the large layers while loading: 8 bits (weights off by 0.6 %), or 4 (9.9 %).",
        group=MEMORY_GROUP,
        flags=("--quantize", "-q"),
        metavar="BITS",
    ),
]
LowRam = Annotated[bool, Opt("Stream transformer and text encoder blocks from disk in every step.", group=MEMORY_GROUP)]
Fit = Annotated[
    bool,
    Opt(
        "Adjust quantization, tiling and length until the run fits in memory.",
        group=MEMORY_GROUP,
        recorded=False,
    ),
]

ParallelMode = Literal["auto", "guidance", "sequence", "blocks"]
Parallel = Annotated[
    ParallelMode,
    Opt(
        "Under mlx.launch: share the passes of guidance, the video's tokens (sequence), or the networks' blocks, which "
        "divides the memory.",
        group=MEMORY_GROUP,
        recorded=False,
    ),
]
DecodeDtype = Annotated[
    Literal["float32"] | None,
    Opt(
        "Decode the video in float32: nearer to the reference, twice the decoder's memory or more.",
        group=MEMORY_GROUP,
        default="the network's",
    ),
]
