"""Options of a sound that the video follows, and of a clip that is made anew in part or continued."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.options import AUTO, Declared, Opt

GROUP = "Given sound and clips"
_ONE_STAGE = ("one-stage", "distilled")
# What a clip says of itself, and what has no place in one.
_OF_CLIP = {
    "height": "the clip has its own size",
    "width": "the clip has its own size",
    "output_height": "the clip has its own size",
    "output_width": "the clip has its own size",
    "frames": "the clip has its own length",
    "duration": "the clip has its own length",
    "duration_head": "the clip has its own length",
    "min_duration": "the clip has its own length",
    "max_duration": "the clip has its own length",
    "fps": "the clip has its own frame rate",
    "image": "the clip gives the images",
    "audio_input": "the clip has its own sound",
    "keyframes": "the clip gives the images",
    "control": "the clip gives the video",
    "motion_speed": "the clip sets the times",
    "temporal_upscale": "it changes the clip's frames. Run upscale_temporal on the result",
}
# What the given sound says already.
_OF_SOUND = {
    "audio": "the video gets the given sound",
    "save_audio": "the video gets the given sound",
    "audio_cfg": "the sound is given, not guided",
    "audio_stg_blocks": "the sound is given, not guided",
    "duration_head": "the sound gives the length",
    "min_duration": "the sound gives the length",
    "max_duration": "the sound gives the length",
}
_CLIP_OPTIONS = ("retake", "retake_from", "retake_to", "extend", "seconds")

AudioInput = Annotated[
    str | Path | None,
    Opt(
        "Sound that the video follows and gets as it is: an audio file, or a video with sound.",
        group=GROUP,
        metavar="FILE",
        is_file=True,
        replaces=(
            "audio", "audio_cfg", "audio_stg_blocks", "duration_head", "min_duration", "max_duration", *_CLIP_OPTIONS,
        ),
    ),
]  # fmt: skip
Retake = Annotated[
    str | Path | None,
    Opt(
        "Clip of which the span from --from to --to is made anew, video and sound.",
        group=GROUP,
        metavar="VIDEO",
        is_file=True,
        replaces=(*_OF_CLIP, "image_strength", "extend", "seconds"),
    ),
]
RetakeFrom = Annotated[
    float | None,
    Opt("Where the span begins.", group=GROUP, flags=("--from",), metavar="SECONDS", min=0, needs=("retake",)),
]
RetakeTo = Annotated[
    float | None,
    Opt("Where the span ends.", group=GROUP, flags=("--to",), metavar="SECONDS", above=0, needs=("retake",)),
]
Extend = Annotated[
    str | Path | None,
    Opt(
        "Clip that goes on for --seconds after its end, video and sound.",
        group=GROUP,
        metavar="VIDEO",
        is_file=True,
        replaces=(*_OF_CLIP, "image_strength", "retake", "retake_from", "retake_to"),
    ),
]
Seconds = Annotated[
    float | None,
    Opt("How long the clip goes on.", group=GROUP, metavar="SECONDS", above=0, max=3600, needs=("extend",)),
]


def refuse_beside_sound(declared: Mapping[str, Declared], options: Any) -> None:
    """Raise ``RequestError`` for an option that has no place beside ``--audio-input``."""
    _refuse(declared, options, _OF_SOUND, "--audio-input")
    if options.pipeline == "dfr":
        raise RequestError("--audio-input has no place in --pipeline dfr, which makes its own sound. Use two-stage.")
    if options.frames == 1:
        raise RequestError("--audio-input needs more than one frame: a still image has no sound.")


def refuse_beside_clip(declared: Mapping[str, Declared], options: Any) -> None:
    """Raise ``RequestError`` for an option that has no place beside a clip, or where its span or length is missing."""
    flag = "--extend" if options.retake is None else "--retake"
    if options.retake is not None and options.extend is not None:
        raise RequestError("--retake and --extend are mutually exclusive. Do one after the other.")
    if options.retake is not None and None in (options.retake_from, options.retake_to):
        raise RequestError("--retake needs the span that is made anew: --from SECONDS --to SECONDS.")
    if options.extend is not None and options.seconds is None:
        raise RequestError("--extend needs --seconds: how long the clip goes on.")
    if options.retake is not None and options.retake_from >= options.retake_to:
        raise RequestError(
            f"--from is {options.retake_from:g}, but --to is {options.retake_to:g}. Give a span that ends after it "
            f"begins."
        )
    if options.pipeline not in _ONE_STAGE:
        raise RequestError(
            f"{flag} works at the clip's own size, in one stage: --pipeline can be {' or '.join(_ONE_STAGE)}, not "
            f"{options.pipeline}."
        )
    _refuse(declared, options, _OF_CLIP, flag)


def _refuse(declared: Mapping[str, Declared], options: Any, reasons: Mapping[str, str], beside: str) -> None:
    for name, reason in reasons.items():
        if getattr(options, name) not in (declared[name].default, None, AUTO):
            raise RequestError(f"{declared[name].flag} has no place beside {beside}: {reason}. Leave it out.")
