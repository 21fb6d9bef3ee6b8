"""Names of tensors in files of other tools, turned into the published names."""

from collections.abc import Iterable

_TRANSFORMER_PREFIX = "model.diffusion_model."
# Only LTX's transformer as published has this layer; diffusers' conversion names it proj_in.
_TRANSFORMER_PROBE = "patchify_proj.weight"


def published_names(stored: Iterable[str]) -> dict[str, str]:
    """Published name of each stored one, and the name as stored.

    A transformer file of ComfyUI (``diffusion_models/``) leaves out the prefix ``model.diffusion_model.``.
    """
    names = list(stored)
    if _TRANSFORMER_PROBE in names:
        return {f"{_TRANSFORMER_PREFIX}{name}": name for name in names}
    return dict(zip(names, names, strict=True))
