"""Which job a film's stages are kept in: its folder, and everything that their results follow from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from LTX_2_MLX.pipelines.film import Film, Models
from LTX_2_MLX.runtime.job import Job, fingerprints

# Options that name files, which count by what is in them, and those that no latent follows from.
_FILES = {
    "weights", "spatial_upscaler_weights", "temporal_weights", "distilled_lora", "gemma", "lora", "image", "embeddings",
}  # fmt: skip
_ASIDE = {"save_latents", "resume", "save_embeddings", "low_ram", "tile_size", "memory_limit_gb"}
_FINISHING = ("enable_", "frame_interpolation_", "upscaling_")


def job_for(
    options: Mapping[str, Any],
    film: Film,
    models: Models,
    *,
    save: Path | None,
    resume: Path | None,
    note: Callable[[str], None],
) -> Job:
    """The job of a film; one that keeps nothing where neither folder is given.

    Args:
        options: The request by the command's names.
        film: What is to be seen.
        models: The files, opened.
        save: Folder for states; those that are there are replaced.
        resume: Folder whose states are used where they hold.
        note: Told what was found.

    Raises:
        RequestError: If the folder cannot be made, or there is none to resume from.
    """
    folder = resume or save
    if folder is None:
        return Job()
    asked = {
        name: value
        for name, value in options.items()
        if name not in _FILES | _ASIDE and not name.startswith(_FINISHING)
    }
    # Options that were left out follow from the model, and are settled by now.
    settled = {"frames": film.num_frames, "rate": str(film.frame_rate), "dtype": str(models.dtype)}
    job = Job(
        folder,
        {"asked": asked, "settled": settled, "files": _files(film, models)},
        resume=resume is not None,
        note=note,
    )
    job.remember(options)
    return job


def _files(film: Film, models: Models) -> dict[str, Any]:
    adapters = [*models.loras, *([models.distilled_lora] if models.distilled_lora else [])]
    roles = {
        "weights": [models.weights.path],
        "text_encoder": [models.text_encoder],
        "spatial_upscaler": [models.spatial_upscaler and models.spatial_upscaler.path],
        "temporal_upscaler": [models.temporal_upscaler and models.temporal_upscaler.path],
        "adapters": [adapter.checkpoint.path for adapter in adapters],
        "image": [film.image],
        "embeddings": [film.embeddings],
    }
    found = {role: fingerprints(path for path in paths if path is not None) for role, paths in roles.items()}
    # A file that was moved is the same file.
    return {role: list(prints.values()) for role, prints in found.items()} | {
        "strengths": [adapter.strength for adapter in adapters]
    }
