"""Options of steps and guidance."""

from typing import Annotated

from LTX_2_MLX.pipelines.options import Opt

GROUP = "Steps and guidance"
ONE_STAGE = ("one-stage", "text-to-video", "distilled")

Steps = Annotated[
    int | None,
    Opt(
        "Denoising steps of one-stage and distilled.",
        group=GROUP,
        default="30, distilled 8",
        min=1,
        max=1000,
        only_in=ONE_STAGE,
    ),
]
StepsStage1 = Annotated[
    int | None,
    Opt(
        "Denoising steps of stage 1.",
        group=GROUP,
        default="15, distilled 8",
        min=1,
        max=1000,
        only_in=("two-stage",),
    ),
]
StepsStage2 = Annotated[
    int | None,
    Opt(
        "Denoising steps of stage 2.",
        group=GROUP,
        default="3",
        min=1,
        max=1000,
        only_in=("two-stage",),
    ),
]
Cfg = Annotated[
    float | None,
    Opt(
        "Scale of classifier-free guidance; 1 disables it.",
        group=GROUP,
        default="5, distilled 1",
        min=0,
        max=100,
        replaces=("cfg_stage1",),
    ),
]
CfgStage1 = Annotated[
    float | None,
    Opt(
        "Scale of classifier-free guidance in stage 1.",
        group=GROUP,
        default="the value of --cfg",
        min=0,
        max=100,
        only_in=("two-stage",),
        replaces=("cfg",),
    ),
]
GuidanceRescale = Annotated[
    float,
    Opt("Rescale after guidance; 0.7 against oversaturation.", group=GROUP, min=0, max=1),
]
StgScale = Annotated[
    float,
    Opt("Scale of spatio-temporal guidance; 0 disables it.", group=GROUP, min=0, max=100),
]
NegativePrompt = Annotated[
    str | None,
    Opt(
        "Negative prompt for classifier-free guidance.",
        group=GROUP,
        default="the reference's",
    ),
]
