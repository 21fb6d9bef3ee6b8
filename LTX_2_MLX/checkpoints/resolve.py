"""Resolves a weights argument to a local path. Named files are downloaded on first use where a command allows it.

The folders ``weights/`` (in the current folder and beside the package) are searched first, then the Hugging Face
cache. By default nothing is downloaded. The generation of other files is read from their metadata or name.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from LTX_2_MLX.checkpoints.catalog import ENTRIES, FAMILIES, Entry, Family, PublishedFile, Role, Variant, obtain
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.invocation import command_line

AUTO = "auto"
DOWNLOAD = command_line("download_weights")
BY_NAME = {entry.name.lower(): entry for entry in ENTRIES}
# Endings of files that torch.save writes.
TORCH_SUFFIXES = (".pth", ".pkl", ".ckpt", ".pt", ".bin")
_SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
_REPOSITORY = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?::(?P<file>[^:]+))?")
_STARTER = "ltx-2-19b-distilled ltx-2-spatial-upscaler-x2-1.0 gemma-3-12b-it"
# Metadata fields in which trainers write the base model.
_BASE_FIELDS = (
    "model_version", "base_model", "base_model_name_or_path", "ss_base_model_version", "ss_sd_model_name",
    "modelspec.architecture", "modelspec.implementation",
)  # fmt: skip
# LTX-2 has 19 and LTX-2.3 has 22 billion parameters.
_FAMILY_NAMES: tuple[tuple[Family, re.Pattern[str]], ...] = (
    ("LTX-2.5", re.compile(r"ltx[-_ ]?v?(?:ideo[-_ ]?)?2[._]5", re.IGNORECASE)),
    ("LTX-2.3", re.compile(r"ltx[-_ ]?v?(?:ideo[-_ ]?)?2[._]3|(?<!\d)22b(?![a-z])", re.IGNORECASE)),
    ("LTX-2", re.compile(r"ltx[-_ ]?v?(?:ideo[-_ ]?)?2(?![._]?\d)|ltx[-_ ]?2[._]0|(?<!\d)19b(?![a-z])", re.IGNORECASE)),
)
# A message for callers that chose the demo model because nothing else was there.
DEMO_NOTE = (
    "No LTX-2 files were found on this machine, so the small demo model is used. "
    f"To download the real model: {DOWNLOAD} {_STARTER}"
)


@dataclass(frozen=True)
class ResolvedFile:
    """A local file or folder.

    Attributes:
        path: Exists.
        entry: The catalogue entry that it matches; None for files that are not in the catalogue.
        family: Model generation: of the entry, or what a file states that is not in the catalogue; None if unknown.
    """

    path: Path
    entry: Entry | None = None
    family: Family | None = None

    @property
    def is_demo(self) -> bool:
        """Whether it belongs to the demo model that comes with the code."""
        return self.family == "demo"


def resolve(
    spec: str | Path, role: Role, *, variant: Variant | None = None, model: ResolvedFile | None = None
) -> ResolvedFile:
    """The local file or folder that ``spec`` means.

    Args:
        spec: A path, a catalogue name, ``owner/repository``, ``owner/repository:file``, or ``auto``.
        role: Selects among a repository's files, and for ``auto``.
        variant: For ``auto`` models: consider this variant only.
        model: The model that the file has to fit: ``auto`` then considers files of the same family only.

    Raises:
        CheckpointError: If it is not on this machine; the message says how to get it.
    """
    text = str(spec)
    if text == AUTO:
        return _resolve_auto(role, variant, model.family if model else None)
    path = Path(text).expanduser()
    if text and os.path.exists(path):
        entry = entry_of_file(path)
        return ResolvedFile(path, entry, entry.family if entry else None)
    entry = entry_by_name(text)
    if entry is not None:
        return _resolve_entry(entry)
    match = _REPOSITORY.fullmatch(text)
    # Without a colon, a/b.safetensors is a path to a missing file.
    if match and (match["file"] or path.suffix not in _SUFFIXES):
        return _resolve_repository(match["repository"], match["file"], role)
    entry = entry_by_name(path.name)
    if entry is not None:
        raise CheckpointError(f"{text} does not exist. Get it: {DOWNLOAD} {entry.name}")
    raise CheckpointError(
        f"{text} does not exist. Give a path, owner/repository:file or a catalogue name: {DOWNLOAD} --list"
    )


def open_checkpoint(spec: str, role: Role) -> Checkpoint:
    """Open the single file of a post-processing network; a pickled one is converted beside itself on first use.

    Args:
        spec: As for ``resolve``; of a folder, its only checkpoint is taken.
        role: What the file is used for.

    Raises:
        CheckpointError: If it is not on this machine or cannot be read, or the folder holds several checkpoints.
    """
    path = resolve(spec, role).path
    if path.is_dir():
        path = _only_file(path)
    if path.suffix == ".safetensors":
        return Checkpoint(path)
    from LTX_2_MLX.checkpoints.convert import as_safetensors

    return Checkpoint(as_safetensors(path))


def _only_file(folder: Path) -> Path:
    paths = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    # A pickle and its conversion are one checkpoint.
    paths = [path for path in paths if path.with_suffix("") not in paths]
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths[:5]) or "none"
        raise CheckpointError(f"{folder} should hold one checkpoint, it holds {names}. Name the file itself.")
    return paths[0]


def open_upscaler(spec: str, role: Role, model: ResolvedFile, note: Callable[[str], None]) -> Checkpoint:
    """The latent upscaler that ``spec`` means, as for ``resolve``; a line where its generation is not certain.

    Raises:
        CheckpointError: If it is missing or cannot be read, or is of another generation than the model.
    """
    file = resolve(spec, role, model=model)
    upscaler = Checkpoint(file.path)
    expected = model.family or generation_of(Checkpoint(model.path))
    if expected is None or "demo" in (file.family, expected):
        return upscaler
    possible = _generations(file, upscaler)
    name = file.path.name
    if not possible:
        note(f"{name} does not say for which model it was made; {model.path.name} is {expected}.")
    elif expected not in possible:
        raise CheckpointError(
            f"{file.path} was made for {' or '.join(possible)}, but {model.path.name} is {expected}: the result "
            f"would be a mosaic. Use the upscaler of {expected}."
        )
    elif len(possible) > 1:
        note(f"{name} was made for {' or '.join(possible)}, by its size; {model.path.name} is {expected}.")
    return upscaler


def _generations(file: ResolvedFile, upscaler: Checkpoint) -> list[Family]:
    """Generations that an upscaler may be of: by its name, its exact size, else by what it says of itself.

    The temporal upscalers of LTX-2.3 and LTX-2.5 have the same size.
    """
    if file.family is not None:
        return [file.family]
    by_size = _families_of_size(file.path.stat().st_size) if file.path.is_file() else []
    if len(by_size) == 1:
        return by_size
    stated = generation_of(upscaler)
    return by_size if stated is None else [stated]


def _families_of_size(num_bytes: int) -> list[Family]:
    families = []
    for entry in ENTRIES:
        if entry.family and len(entry.files) == 1 and entry.files[0].num_bytes == num_bytes:
            families.append(entry.family)
    return families


def generation_of(checkpoint: Checkpoint) -> Family | None:
    """Model generation by a file's metadata, else by its name; None if neither tells."""
    metadata = checkpoint.header.metadata
    version = re.match(r"2\.(\d+)", metadata.get("model_version", ""))
    if version:
        minor = int(version[1])
        return "LTX-2.5" if minor >= 5 else "LTX-2.3" if minor >= 3 else "LTX-2"
    stated = []
    for field in _BASE_FIELDS:
        stated.append(metadata.get(field, ""))
    for text in (" ".join(stated), checkpoint.path.name):
        for family, pattern in _FAMILY_NAMES:
            if pattern.search(text):
                return family
    return None


def weights_folders() -> list[Path]:
    """The existing ``weights/`` folders: in the current folder, beside the package in a clone, inside an installed one.

    The last one holds the demo model alone.
    """
    package = Path(__file__).resolve().parents[1]
    folders: list[Path] = []
    for folder in (Path.cwd() / "weights", package.parent / "weights", package / "weights"):
        if folder.is_dir() and folder.resolve() not in folders:
            folders.append(folder.resolve())
    return folders


def installed_path(entry: Entry) -> Path | None:
    """Local path of a catalogue entry, in ``weights/`` or in the hub's cache; None if it is absent or incomplete."""
    names = local_names(entry)
    for root in weights_folders():
        # The documented folder comes first.
        folders = [root / entry.folder]
        if entry.family != "demo":
            folders += [root / entry.name, root, *sorted(filter(Path.is_dir, root.iterdir()))]
            # A copy of the whole repository keeps its folders.
            folders.append(folders[0] / Path(entry.files[0].path).parent)
        for folder in folders:
            for name in names:
                if (folder / name).exists():
                    return folder / name
            # A model of several files is recognised by its file names only in a folder of its own.
            is_own = not names and folder != root and _may_be_named(entry, folder.name)
            if is_own and _is_complete(entry, folder):
                return folder

    if entry.repository is None:
        return None
    for file in entry.files:
        if "*" not in file.path:
            break
    path = _cached_file(entry.repository, file.path)
    if path is None or names:
        return path
    return path.parent if _is_complete(entry, path.parent) else None


def local_names(entry: Entry) -> list[str]:
    """Names that the file of an entry may have on disk: the published one and those of its conversion.

    An entry of several files has none: it is a folder.
    """
    if len(entry.files) > 1:
        return []
    path = Path(entry.files[0].path)
    if path.suffix not in TORCH_SUFFIXES:
        return [path.name]
    return [path.name, f"{path.name}.safetensors", f"{path.stem}.safetensors"]


def _is_complete(entry: Entry, folder: Path) -> bool:
    return folder.is_dir() and all(any(folder.glob(file.path)) for file in entry.files if not file.optional)


def _may_be_named(entry: Entry, folder_name: str) -> bool:
    """Whether a folder's name fits: Gemma folders differ by nothing else, and plain ``gemma`` is any of them."""
    folder = Path(entry.folder)
    repository_name = (entry.repository or "").rsplit("/", 1)[-1]
    return folder_name in (folder.name, folder.parts[0], entry.name, repository_name)


def _cached_file(repository: str, file: str) -> Path | None:
    from huggingface_hub import constants

    # What follows takes a moment to import, and most runs have their files in weights/.
    if not Path(constants.HF_HUB_CACHE, "--".join(("models", *repository.split("/")))).is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(repository, file)
    except HFValidationError:
        return None
    return Path(path) if isinstance(path, str) else None


def _resolve_entry(entry: Entry) -> ResolvedFile:
    path = installed_path(entry)
    if path is None and obtain(entry):
        path = installed_path(entry)
    if path is None:
        raise _not_installed(entry)
    return ResolvedFile(path, entry, entry.family)


def _not_installed(entry: Entry) -> CheckpointError:
    size = f" ({entry.num_bytes / 1e9:.1f} GB)" if entry.num_bytes else ""
    return CheckpointError(f"{entry.name} is not on this machine. Get it{size}: {DOWNLOAD} {entry.name}")


def _resolve_repository(repository: str, file: str | None, role: Role) -> ResolvedFile:
    entries = [entry for entry in ENTRIES if (entry.repository or "").lower() == repository.lower()]
    if file is None:
        return _resolve_repository_role(repository, [entry for entry in entries if entry.role == role], role)
    for entry in entries:
        if file in (entry.files[0].path, entry.files[0].name):
            return _resolve_entry(entry)
    path = _path_of_file(repository, file)
    if path is None and obtain(file_entry(repository, file)):
        path = _path_of_file(repository, file)
    if path is not None:
        return ResolvedFile(path)
    raise CheckpointError(f"{repository}:{file} is not on this machine. Get it: {DOWNLOAD} {repository}:{file}")


def _path_of_file(repository: str, file: str) -> Path | None:
    """Local path of a repository's file that is not in the catalogue."""
    for root in weights_folders():
        for folder in (root, *sorted(filter(Path.is_dir, root.iterdir()))):
            path = folder / Path(file).name
            if path.exists():
                return path
    return _cached_file(repository, file)


def _resolve_repository_role(repository: str, entries: list[Entry], role: Role) -> ResolvedFile:
    """The first installed one of a repository's entries for a role."""
    if not entries:
        raise CheckpointError(
            f"{repository} has no {role} in the catalogue, so its file has to be named. Give {repository}:FILE."
        )
    for entry in entries:
        path = installed_path(entry)
        if path is not None:
            return ResolvedFile(path, entry, entry.family)
    return _resolve_entry(entries[0])


def _resolve_auto(role: Role, variant: Variant | None, family: Family | None) -> ResolvedFile:
    """The first installed model, or file of a role that was published for models of a family."""
    entries = entries_for_role(role, family, variant)
    for entry in entries:
        path = installed_path(entry)
        if path is not None:
            return ResolvedFile(path, entry, entry.family)
    if not entries:
        raise CheckpointError(f"No {role} is published for {family or 'this model'}. Give a path.")
    if role == "model":
        # The demo is the last.
        raise CheckpointError(
            f"The demo model is missing as well: weights/demo lacks {entries[-1].files[0].path}. It comes with a clone "
            f"of the repository. To download the real model: {DOWNLOAD} {_STARTER}"
        )
    if family == "demo":
        raise CheckpointError(
            f"weights/demo lacks {entries[0].files[0].path}. It comes with a clone of the repository."
        )
    raise _not_installed(entries[0])


def file_entry(repository: str, file: str) -> Entry:
    """An entry for one file of any repository on the hub."""
    return Entry(
        name=f"{repository}:{file}",
        role="model",
        files=(PublishedFile(file),),
        folder=repository.rsplit("/", 1)[-1].lower(),
        licence="see the repository's page",
        networks=("unknown",),
        repository=repository,
    )


def entry_by_name(name: str) -> Entry | None:
    """The entry of a catalogue name or of a published file's name, in any case; None if there is none."""
    lower = name.lower()
    if lower in BY_NAME:
        return BY_NAME[lower]
    for entry in ENTRIES:
        names = local_names(entry)
        if names and names[0].lower() == lower:
            return entry
    return None


def entries_for_role(role: Role, family: Family | None = None, variant: Variant | None = None) -> list[Entry]:
    """Entries of a role that belong to models of a family, in order of preference; all models where it is unknown.

    LTX-2 and LTX-2.3 share their text encoders. Beside a model of unknown family, files of the oldest come first:
    LTX-2 alone was published without saying what it is.
    """
    entries = []
    for entry in ENTRIES:
        if entry.role != role or variant not in (None, entry.variant):
            continue
        if role == "text-encoder" and family in ("LTX-2", "LTX-2.3", None):
            fits = entry.family is None
        elif family is None:
            fits = role == "model" or entry.family != "demo"
        else:
            fits = entry.family == family
        if fits:
            entries.append(entry)
    if family is None and role != "model":
        entries.sort(key=lambda entry: FAMILIES[::-1].index(entry.family) if entry.family else 0)
    return entries


def entry_of_file(path: Path) -> Entry | None:
    """The entry of a published file by its name, and for the demo by its folder too; None for other files."""
    for entry in ENTRIES:
        is_named = path.name in local_names(entry)
        if is_named and (entry.family != "demo" or path.resolve().parent.name == "demo"):
            return entry
    return None


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
    models: Iterable[Entry], needs: Callable[[Entry], Sequence[Role]], note: Callable[[str], None]
) -> ResolvedFile | None:
    """The model of the newest complete set; of the newest incomplete one where none is complete, None without any.

    Installed models are looked through from the newest on, without the demo.

    Args:
        models: Entries that may be taken.
        needs: Roles of the files that a pipeline needs beside a model.
        note: Callback for the lines on what was taken and what was passed over.
    """
    sets = []
    for family in FAMILIES:
        for entry in models:
            path = installed_path(entry) if entry.family == family else None
            if path is not None:
                sets.append(ModelSet(ResolvedFile(path, entry, entry.family), _missing(entry, needs(entry))))
    for number, candidate in enumerate(sets):
        if not candidate.missing:
            for newer in sets[:number]:
                note(_passed_over(newer))
            note(f"Taken is {candidate.model.path.name}, the newest on this machine that is complete.")
            return candidate.model
    return sets[0].model if sets else None


def _missing(model: Entry, roles: Sequence[Role]) -> tuple[Entry, ...]:
    missing = []
    for role in roles:
        entries = entries_for_role(role, model.family)
        if entries and all(installed_path(entry) is None for entry in entries):
            missing.append(entries[0])
    return tuple(missing)


def _passed_over(candidate: ModelSet) -> str:
    names = " ".join(entry.name for entry in candidate.missing)
    return (
        f"{candidate.model.path.name} is passed over, since not all it needs is here. Get the rest: {DOWNLOAD} {names}"
    )
