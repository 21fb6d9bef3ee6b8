"""Model generation of a latent upscaler. All are one network: with another generation's, a video becomes a mosaic."""

from collections.abc import Callable

from LTX_2_MLX.checkpoints.catalog import ENTRIES
from LTX_2_MLX.checkpoints.lora_notes import generation
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.resolve import ResolvedFile
from LTX_2_MLX.errors import CheckpointError


def check_generation(upscaler: ResolvedFile, model: ResolvedFile, note: Callable[[str], None]) -> None:
    """Refuse an upscaler of another generation than the model; one line where its generation is unknown.

    Raises:
        CheckpointError: If they are of two generations.
    """
    if "demo" in (upscaler.family, model.family):
        return
    expected = _generation(model)
    if expected is None:
        return
    actual = _generation(upscaler)
    if actual is None:
        note(f"{upscaler.path.name} does not say for which model it was made; {model.path.name} is {expected}.")
    elif actual != expected:
        raise CheckpointError(
            f"{upscaler.path} was made for {actual}, but {model.path.name} is {expected}: the result would be a "
            f"mosaic. Use the upscaler of {expected}."
        )


def _generation(file: ResolvedFile) -> str | None:
    """By the catalogue's names and exact sizes, else by what the file says of itself."""
    if file.family is not None:
        return file.family
    if file.path.is_file():
        num_bytes = file.path.stat().st_size
        for entry in ENTRIES:
            if entry.family and not entry.is_folder and entry.files[0].num_bytes == num_bytes:
                return entry.family
    return generation(Checkpoint(file.path))
