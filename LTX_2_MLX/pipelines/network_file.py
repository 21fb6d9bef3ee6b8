"""The one file that a post-processor's network comes in."""

from pathlib import Path

from LTX_2_MLX.checkpoints.catalog import Role
from LTX_2_MLX.checkpoints.convert import TORCH_SUFFIXES, as_safetensors
from LTX_2_MLX.checkpoints.locate import locate
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError


def open_network_file(given: str, role: Role) -> Checkpoint:
    """The checkpoint that ``given`` means; a pickled one is converted beside itself on first use.

    Args:
        given: A path, a folder that holds one checkpoint, a catalogue name, ``owner/repository`` with or without
            ``:file``.
        role: What it is wanted for.

    Raises:
        CheckpointError: If it is not on this machine, cannot be read, or a folder leaves open which file is meant.
    """
    path = locate(given, role).path
    return Checkpoint(as_safetensors(_only_file(path) if path.is_dir() else path))


def _only_file(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", *TORCH_SUFFIXES))
    # A pickle and its conversion are one checkpoint.
    found = [path for path in found if path.with_suffix("") not in found]
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "none"
        raise CheckpointError(f"{folder} should hold one checkpoint, it holds {names}. Name the file itself.")
    return found[0]
