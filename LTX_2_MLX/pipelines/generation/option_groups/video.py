"""Options of the video."""

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from LTX_2_MLX.pipelines.options import Opt

PipelineName = Literal["one-stage", "text-to-video", "distilled", "two-stage", "hq", "dfr"]
GROUP = "Video"
# The reference has no IC-LoRA in the others.
_WITH_CONTROL = ("one-stage", "text-to-video", "distilled", "two-stage")
_MAX_SIDE, _MAX_FRAMES = 16384, 100_001

Prompt = Annotated[str, Opt("Text prompt.", positional=True, metavar="[PROMPT]", replaces=("embeddings",))]
EnhancePrompt = Annotated[
    bool,
    Opt(
        "Rewrite the prompt with the text encoder's chat model first, and print it (LTX-2.5: gemma-4-E2B-it).",
        group=GROUP,
        recorded=False,
    ),
]
Pipeline = Annotated[PipelineName, Opt("Generation pipeline; text-to-video is another name of one-stage.", group=GROUP)]
Height = Annotated[
    int | None,
    Opt(
        "Height in pixels (two-stage: of stage 1).",
        group=GROUP,
        default="the model's, usually 480",
        max=_MAX_SIDE,
        replaces=("output_height",),
    ),
]
Width = Annotated[
    int | None,
    Opt(
        "Width in pixels (two-stage: of stage 1).",
        group=GROUP,
        default="the model's, usually 704",
        max=_MAX_SIDE,
        replaces=("output_width",),
    ),
]
OutputHeight = Annotated[
    int | None,
    Opt("Height of the output, instead of --height.", group=GROUP, max=_MAX_SIDE, replaces=("height",)),
]
OutputWidth = Annotated[
    int | None,
    Opt("Width of the output, instead of --width.", group=GROUP, max=_MAX_SIDE, replaces=("width",)),
]
Frames = Annotated[
    int | None,
    Opt(
        "Number of frames, 8k + 1.",
        group=GROUP,
        flags=("--frames", "--num-frames"),
        default="the model's, usually 97",
        max=_MAX_FRAMES,
        replaces=("duration", "min_duration", "max_duration", "duration_head"),
    ),
]
Duration = Annotated[
    float | None,
    Opt(
        "Length in seconds, instead of --frames; rounded up to 8k + 1 frames.",
        group=GROUP,
        metavar="SECONDS",
        above=0,
        max=3600,
        replaces=("frames", "min_duration", "max_duration", "duration_head"),
    ),
]
MinDuration = Annotated[
    float | None,
    Opt(
        "Least length in seconds where LTX-2.5's duration head decides.",
        group=GROUP,
        metavar="SECONDS",
        default="1",
        above=0,
        max=3600,
        replaces=("frames", "duration"),
    ),
]
MaxDuration = Annotated[
    float | None,
    Opt(
        "Greatest length in seconds where LTX-2.5's duration head decides.",
        group=GROUP,
        metavar="SECONDS",
        default="20",
        above=0,
        max=3600,
        replaces=("frames", "duration"),
    ),
]
Fps = Annotated[
    Fraction | float | str | None,
    Opt(
        "Frames per second, such as 24 or 24000/1001.",
        group=GROUP,
        flags=("--fps", "--frame-rate"),
        metavar="RATE",
        default="the model's, usually 24",
        is_rate=True,
    ),
]
MotionSpeed = Annotated[
    float,
    Opt("Speed of motion at the same frame rate; 0.2 is five times slower.", group=GROUP, above=0, max=100),
]
Keyframes = Annotated[
    int,
    Opt("Keyframes that LTX-2.5 generates beside the video, evenly spread.", group=GROUP, min=0, max=1000),
]
Image = Annotated[
    str | Path | tuple[str | Path, ...] | None,
    Opt(
        "Image for the first frame, or a frame such as 48, -1 or 50%; repeatable.",
        group=GROUP,
        metavar="FILE[:FRAME[:STRENGTH]]",
        is_file=True,
        one_or_more=True,
        is_text=True,
    ),
]
ImageStrength = Annotated[
    float,
    Opt("Conditioning strength of every --image without its own.", group=GROUP, min=0, max=1, needs=("image",)),
]
Control = Annotated[
    str | Path | None,
    Opt(
        "Reference video that an IC-LoRA given with --lora reads; a file or a folder of images.",
        group=GROUP,
        metavar="VIDEO",
        is_file=True,
        only_in=_WITH_CONTROL,
    ),
]
ControlStrength = Annotated[
    float,
    Opt(
        "Conditioning strength of the reference video; 0 lets it be denoised.",
        group=GROUP,
        min=0,
        max=1,
        needs=("control",),
    ),
]
ControlAttention = Annotated[
    float,
    Opt(
        "Weight of the attention between the video and its reference; the sound attends to both.",
        group=GROUP,
        min=0,
        max=1,
        needs=("control",),
    ),
]
Audio = Annotated[
    bool | None,
    Opt(
        "Generate sound with the video.",
        group=GROUP,
        flags=("--audio", "--generate-audio"),
        default="on where the checkpoint has an audio VAE and a vocoder",
    ),
]
SaveAudio = Annotated[
    str | Path | None,
    Opt(
        "Save the sound as a .wav file, too.",
        group=GROUP,
        metavar="FILE",
        is_output=True,
        recorded=False,
    ),
]
TemporalUpscale = Annotated[
    bool,
    Opt("Double the frame rate in latent space before decoding.", group=GROUP),
]
VideoDecoder = Annotated[
    Literal["auto", "conv", "diffusion"],
    Opt(
        "Decoder of the video autoencoder; auto takes the one that its file holds, conv where both are at hand.",
        group=GROUP,
    ),
]
DecoderAttention = Annotated[
    Literal["chunked", "combined"] | None,
    Opt(
        "Attention of the diffusion decoder: in four slabs of the width, as published, or over all of it.",
        group=GROUP,
        default="chunked",
    ),
]
