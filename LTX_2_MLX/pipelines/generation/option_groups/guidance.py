"""Options of steps and guidance."""

from typing import Annotated, Literal

from LTX_2_MLX.pipelines.options import Opt

SamplerName = Literal["euler", "ancestral", "gradient-estimation", "res-2s"]
GROUP = "Steps and guidance"
TWO_STAGES = ("two-stage", "hq")
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
        default="15, LTX-2.3 and 2.5 30 (hq 15), distilled 8",
        min=1,
        max=1000,
        only_in=TWO_STAGES,
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
        only_in=TWO_STAGES,
    ),
]
Sampler = Annotated[
    SamplerName | None,
    Opt(
        "Sampler of the first stage; of both stages in hq.",
        group=GROUP,
        default="euler, hq res-2s, distilled LTX-2.5 ancestral",
    ),
]
Cfg = Annotated[
    float | None,
    Opt(
        "Scale of classifier-free guidance; 1 disables it.",
        group=GROUP,
        default="5, LTX-2.3, 2.5 and hq 3, distilled 1",
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
        only_in=TWO_STAGES,
        replaces=("cfg",),
    ),
]
AudioCfg = Annotated[
    float | None,
    Opt(
        "Scale of classifier-free guidance of the audio stream.",
        group=GROUP,
        default="LTX-2.3, 2.5 and hq 7, else the video's",
        min=0,
        max=100,
    ),
]
GuidanceRescale = Annotated[
    float | None,
    Opt(
        "Rescale after guidance; 0.7 against oversaturation.",
        group=GROUP,
        default="0, LTX-2.3 and 2.5 0.7, hq 0.45 and 1 of the audio",
        min=0,
        max=1,
    ),
]
StgScale = Annotated[
    float | None,
    Opt(
        "Scale of spatio-temporal guidance; 0 disables it.",
        group=GROUP,
        default="0, LTX-2.3 and 2.5 1, hq and distilled 0",
        min=0,
        max=100,
    ),
]
StgBlocks = Annotated[
    tuple[int, ...] | None,
    Opt(
        "Block that spatio-temporal guidance bypasses; repeatable.",
        group=GROUP,
        metavar="BLOCK",
        default="29, LTX-2.3 and 2.5 28",
    ),
]
AudioStgBlocks = Annotated[
    tuple[int, ...] | None,
    Opt(
        "The same in the audio stream; repeatable.",
        group=GROUP,
        metavar="BLOCK",
        default="those of the video",
    ),
]
ModalityScale = Annotated[
    float | None,
    Opt(
        "Scale of guidance between video and audio; 1 disables it.",
        group=GROUP,
        default="1, LTX-2.3, 2.5 and hq 3, distilled 1",
        min=0,
        max=100,
    ),
]
GuidanceStart = Annotated[
    float,
    Opt("Share of the steps before which there is no guidance.", group=GROUP, min=0, max=1),
]
GuidanceEnd = Annotated[
    float,
    Opt("Share of the steps after which there is no guidance.", group=GROUP, min=0, max=1),
]
StepCache = Annotated[
    float | None,
    Opt(
        "Skip the transformer's blocks in steps whose input has changed by less than this share in sum, such as 0.1.",
        group=GROUP,
        metavar="SHARE",
        default="off",
        above=0,
        max=10,
        only_in=("one-stage", "text-to-video", *TWO_STAGES),
    ),
]
NegativePrompt = Annotated[
    str | None,
    Opt(
        "Negative prompt for classifier-free guidance.",
        group=GROUP,
        default="the reference's",
    ),
]
