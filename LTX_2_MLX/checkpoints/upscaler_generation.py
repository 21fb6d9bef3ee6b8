"""Model generation of a latent upscaler. All are one network: with another generation's, a video becomes a mosaic."""

from collections.abc import Callable

from LTX_2_MLX.checkpoints.catalog import ENTRIES
from LTX_2_MLX.checkpoints.entries import Family, ResolvedFile
from LTX_2_MLX.checkpoints.lora_notes import generation_of
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError


def check_generation(upscaler: ResolvedFile, model: ResolvedFile, note: Callable[[str], None]) -> None:
    """Refuse an upscaler of another generation than the model; one line where its generation is not certain.

    Raises:
        CheckpointError: If they are of two generations.
    """
    if "demo" in (upscaler.family, model.family):
        return
    expected = model.family or generation_of(Checkpoint(model.path))
    if expected is None:
        return
    possible = _generations(upscaler)
    if not possible:
        note(f"{upscaler.path.name} does not say for which model it was made; {model.path.name} is {expected}.")
    elif expected not in possible:
        raise CheckpointError(
            f"{upscaler.path} was made for {' or '.join(possible)}, but {model.path.name} is {expected}: the result "
            f"would be a mosaic. Use the upscaler of {expected}."
        )
    elif len(possible) > 1:
        note(
            f"{upscaler.path.name} was made for {' or '.join(possible)}, by its size; {model.path.name} is {expected}."
        )


def _generations(file: ResolvedFile) -> list[Family]:
    """Generations that an upscaler may be of: by its name, its exact size, else by what it says of itself.

    The temporal upscalers of LTX-2.3 and LTX-2.5 have the same size.
    """
    if file.family is not None:
        return [file.family]
    by_size = _families_of_size(file.path.stat().st_size) if file.path.is_file() else []
    if len(by_size) == 1:
        return by_size
    stated = generation_of(Checkpoint(file.path))
    return by_size if stated is None else [stated]


def _families_of_size(num_bytes: int) -> list[Family]:
    families = []
    for entry in ENTRIES:
        if entry.family and not entry.is_folder and entry.files[0].num_bytes == num_bytes:
            families.append(entry.family)
    return families
