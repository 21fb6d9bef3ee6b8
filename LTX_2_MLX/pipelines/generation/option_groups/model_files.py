"""Options that name model files."""

from typing import Annotated, Literal

from LTX_2_MLX.pipelines.generation.option_groups.guidance import TWO_STAGES
from LTX_2_MLX.pipelines.options import Opt
from LTX_2_MLX.pipelines.requests import FILE_HELP

GROUP = "Model files"

Lora = Annotated[
    tuple[str, ...],
    Opt(
        "LoRA of the transformer, merged while loading; repeatable; none drops those of a replayed video.",
        group=GROUP,
        metavar="PATH[:SCALE]",
        is_file=True,
    ),
]
ModelVariant = Annotated[
    Literal["dev", "distilled"] | None,
    Opt(
        "Which checkpoint to use, or what kind --weights is.",
        group=GROUP,
        default="from the file",
        replaces=("weights",),
    ),
]
Weights = Annotated[
    str | tuple[str, ...],
    Opt(
        f"LTX-2 checkpoint: {FILE_HELP}; repeatable for a model in several files.",
        group=GROUP,
        is_file=True,
        one_or_more=True,
        replaces=("model_variant",),
    ),
]
VideoVae = Annotated[
    str,
    Opt(
        f"Video autoencoder, if it is not in --weights or another one is wanted: {FILE_HELP}.",
        group=GROUP,
        flags=("--video-vae",),
        is_file=True,
    ),
]
AudioVae = Annotated[
    str,
    Opt(
        f"Audio autoencoder and vocoder, if they are not in --weights: {FILE_HELP}.",
        group=GROUP,
        flags=("--audio-vae",),
        is_file=True,
    ),
]
DurationHead = Annotated[
    str,
    Opt(
        f"Duration head of LTX-2.5, which decides how long the video is: {FILE_HELP}.",
        group=GROUP,
        flags=("--duration-head",),
        is_file=True,
        replaces=("frames", "duration"),
    ),
]
SpatialUpscalerWeights = Annotated[
    str,
    Opt(
        f"Spatial latent upscaler for two-stage and dfr: {FILE_HELP}.",
        group=GROUP,
        is_file=True,
        only_in=(*TWO_STAGES, "dfr"),
        reported=True,
    ),
]
TemporalWeights = Annotated[
    str,
    Opt(
        f"Temporal latent upscaler: {FILE_HELP}.",
        group=GROUP,
        is_file=True,
        needs=("temporal_upscale", "rounds"),
        reported=True,
    ),
]
DistilledLora = Annotated[
    str,
    Opt(
        f"Distillation LoRA for dev checkpoints: {FILE_HELP}; a strength may follow a colon.",
        group=GROUP,
        is_file=True,
        only_in=(*TWO_STAGES, "distilled", "dfr"),
        reported=True,
    ),
]
Gemma = Annotated[
    str,
    Opt(
        f"Folder or file of the text encoder: {FILE_HELP}.",
        group=GROUP,
        is_file=True,
        replaces=("embeddings",),
    ),
]
