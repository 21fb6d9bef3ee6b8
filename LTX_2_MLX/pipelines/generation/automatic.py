"""The model that ``--weights auto`` takes: the newest on this machine with all that the options need beside it."""

from collections.abc import Callable
from functools import partial

from LTX_2_MLX.checkpoints.entries import Entry, ResolvedFile, Role, Variant
from LTX_2_MLX.checkpoints.resolve import AUTO, DEMO_NOTE, newest_set, resolve
from LTX_2_MLX.pipelines.generation.option_groups.guidance import TWO_STAGES
from LTX_2_MLX.pipelines.generation.options import Options


def automatic_model(options: Options, variant: Variant | None, note: Callable[[str], None]) -> ResolvedFile:
    """The newest complete model on this machine, else the demo's.

    Args:
        options: They say which files are needed, and which of them the user has named.
        variant: Consider models of this variant only; of the demo, whose dev checkpoint shows guidance, dev by default.
        note: Callback for the lines on what was taken.

    Raises:
        CheckpointError: If not even the demo is there.
    """

    def serves(entry: Entry) -> bool:
        # Detail-fidelity rendering generates keyframes, which LTX-2.5 alone does.
        fits = not options.renders or entry.family == "LTX-2.5"
        return entry.role == "model" and variant in (None, entry.variant) and fits

    model = newest_set(serves, partial(companion_roles, options), note)
    if model is not None:
        return model
    note(DEMO_NOTE)
    return resolve(AUTO, "model", variant=variant or "dev")


def companion_roles(options: Options, model: Entry) -> list[Role]:
    """Roles of the published files that a model needs beside it where the options name none."""
    roles: list[Role] = []
    if options.embeddings is None and options.gemma == AUTO:
        roles.append("text-encoder")
    if "video VAE" not in model.networks and options.video_vae == AUTO:
        roles.append("video-vae")
    if (options.two_stages or options.renders) and options.spatial_upscaler_weights == AUTO:
        roles.append("spatial-upscaler")
    has_lora = options.pipeline in (*TWO_STAGES, "distilled", "dfr")
    if model.variant == "dev" and has_lora and options.distilled_lora == AUTO:
        roles.append("distilled-lora")
    doubles = options.temporal_upscale or (options.renders and options.rounds)
    if doubles and options.temporal_weights == AUTO:
        roles.append("temporal-upscaler")
    return roles
