"""Options of a sound that the video follows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.options import AUTO, Declared, Opt

GROUP = "Given sound"

AudioInput = Annotated[
    str | Path | None,
    Opt(
        "Sound that the video follows and gets as it is: an audio file, or a video with sound.",
        group=GROUP,
        metavar="FILE",
        is_file=True,
        replaces=("audio", "audio_cfg", "audio_stg_blocks", "duration_head", "min_duration", "max_duration"),
    ),
]

# Options that say what the given sound says already.
_OF_SOUND = {
    "audio": "the video gets the given sound",
    "save_audio": "the video gets the given sound",
    "audio_cfg": "the sound is given, not guided",
    "audio_stg_blocks": "the sound is given, not guided",
    "duration_head": "the sound gives the length",
    "min_duration": "the sound gives the length",
    "max_duration": "the sound gives the length",
}


def refuse_beside_sound(declared: Mapping[str, Declared], options: Any) -> None:
    """Raise ``RequestError`` for an option that has no place beside ``--audio-input``."""
    for name, reason in _OF_SOUND.items():
        if getattr(options, name) not in (None, AUTO):
            raise RequestError(f"{declared[name].flag} has no place beside --audio-input: {reason}. Leave it out.")
    if options.renders:
        raise RequestError("--audio-input has no place in --pipeline dfr, which makes its own sound. Use two-stage.")
    if options.frames == 1:
        raise RequestError("--audio-input needs more than one frame: a still image has no sound.")
