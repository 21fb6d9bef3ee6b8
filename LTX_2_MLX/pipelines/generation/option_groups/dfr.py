"""Options of detail-fidelity rendering, the pipeline ``dfr``."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.options import Declared, Opt
from LTX_2_MLX.pipelines.requests import FILE_HELP

GROUP = "Detail-fidelity rendering"
NAME = "dfr"
_MAX_ROUNDS = 2

Rounds = Annotated[
    int,
    Opt("Rounds, each of which doubles the frame rate.", group=GROUP, min=0, max=_MAX_ROUNDS, only_in=(NAME,)),
]
DetailingLora = Annotated[
    str,
    Opt(
        f"Detailing LoRA of dfr, at strength 0.5 unless one follows a colon: {FILE_HELP}; none goes without.",
        group=GROUP,
        metavar="PATH[:SCALE]",
        is_file=True,
        only_in=(NAME,),
        reported=True,
    ),
]
SpatialDoubling = Annotated[
    bool,
    Opt("Refine the result once more at twice the size of stage 2.", group=GROUP, only_in=(NAME,)),
]
Reference = Annotated[
    Literal["400fd31"] | None,
    Opt(
        "An earlier form of dfr: that of Lightricks/LTX-2 at 400fd31, whose rounds attend to no sound.",
        group=GROUP,
        only_in=(NAME,),
    ),
]

# Options of other pipelines that nothing else keeps out, and why dfr has none of them.
_FOREIGN = {
    "motion_speed": "it sets the times of the video itself",
    "keyframes": "it places its keyframes itself",
    "temporal_upscale": "it doubles the frame rate in --rounds",
    "sampler": "its stages have their own",
    "cfg": "it runs without guidance",
    "audio_cfg": "it runs without guidance",
    "guidance_rescale": "it runs without guidance",
    "stg_scale": "it runs without guidance",
    "stg_blocks": "it runs without guidance",
    "audio_stg_blocks": "it runs without guidance",
    "modality_scale": "it runs without guidance",
    "guidance_start": "it runs without guidance",
    "guidance_end": "it runs without guidance",
}
# Values that turn guidance off, as a record of such a run has them.
_OFF = {"cfg": 1, "audio_cfg": 1, "guidance_rescale": 0, "stg_scale": 0, "modality_scale": 1}


def refuse_foreign(declared: Mapping[str, Declared], options: Any) -> None:
    """Raise ``RequestError`` for an option that detail-fidelity rendering does not have."""
    for name, reason in _FOREIGN.items():
        value = getattr(options, name)
        if value not in (declared[name].default, _OFF.get(name)):
            raise RequestError(f"{declared[name].flag} has no place in --pipeline {NAME}: {reason}. Leave it out.")
    if options.reference is not None and options.spatial_doubling:
        raise RequestError("--spatial-doubling belongs to the newer form of dfr. Leave out it or --reference.")
