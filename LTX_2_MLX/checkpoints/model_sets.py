"""Sets of published files on this machine, of which ``auto`` takes the newest that has all a pipeline needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from LTX_2_MLX.checkpoints.catalog import ENTRIES, FAMILIES, companion_entries
from LTX_2_MLX.checkpoints.entries import Entry, Role
from LTX_2_MLX.checkpoints.resolve import DOWNLOAD, ResolvedFile, installed_path


@dataclass(frozen=True)
class ModelSet:
    """An installed model with the files that a pipeline needs beside it.

    Attributes:
        model: The model's own file.
        missing: One entry for each needed role of which nothing is installed.
    """

    model: ResolvedFile
    missing: tuple[Entry, ...]


def newest_set(
    serves: Callable[[Entry], bool], needs: Callable[[Entry], Sequence[Role]], note: Callable[[str], None]
) -> ResolvedFile | None:
    """The model of the newest complete set; of the newest incomplete one where none is complete, None without any.

    Args:
        serves: Whether an entry is a model that may be taken.
        needs: Roles of the files that a pipeline needs beside a model.
        note: Callback for the lines on what was taken and what was passed over.
    """
    sets = installed_sets(serves, needs)
    for number, candidate in enumerate(sets):
        if not candidate.missing:
            for newer in sets[:number]:
                note(_passed_over(newer))
            note(f"Taken is {_name(candidate)}, the newest on this machine that is complete.")
            return candidate.model
    return sets[0].model if sets else None


def installed_sets(serves: Callable[[Entry], bool], needs: Callable[[Entry], Sequence[Role]]) -> list[ModelSet]:
    """Installed models with what is missing beside each, the newest first, without the demo."""
    sets = []
    for family in FAMILIES:
        for entry in ENTRIES:
            path = installed_path(entry) if entry.family == family and serves(entry) else None
            if path is not None:
                sets.append(ModelSet(ResolvedFile(path, entry), _missing(entry, needs(entry))))
    return sets


def _missing(model: Entry, roles: Sequence[Role]) -> tuple[Entry, ...]:
    missing = []
    for role in roles:
        entries = companion_entries(role, model.family)
        if entries and all(installed_path(entry) is None for entry in entries):
            missing.append(entries[0])
    return tuple(missing)


def _passed_over(candidate: ModelSet) -> str:
    names = " ".join(entry.name for entry in candidate.missing)
    return f"{_name(candidate)} is passed over, since not all it needs is here. Get the rest: {DOWNLOAD} {names}"


def _name(candidate: ModelSet) -> str:
    return candidate.model.path.name
