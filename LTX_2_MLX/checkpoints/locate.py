"""What a user writes for a file to a path on this machine. Nothing is downloaded here.

Looked for in ``weights/`` (beside the package and in the current folder), then in the Hugging Face cache.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from LTX_2_MLX.checkpoints.catalog import ENTRIES, Entry, Family, Role, Variant, entries_for, entry_named
from LTX_2_MLX.checkpoints.convert import TORCH_SUFFIXES
from LTX_2_MLX.errors import CheckpointError

AUTO = "auto"
DOWNLOAD = "python scripts/download_weights.py"
_SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
_REPOSITORY = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?::(?P<file>[^:]+))?")
_STARTER = ("ltx-2-19b-distilled", "ltx-2-spatial-upscaler-x2-1.0", "gemma-3-12b-it")
# Said once by whoever chose the demo model for the user.
DEMO_NOTE = (
    "No LTX-2 files are on this machine, so this is the small demo model that comes with the code. "
    f"The real ones: {DOWNLOAD} {' '.join(_STARTER)}"
)


@dataclass(frozen=True)
class Located:
    """A file or folder on this machine, and which published one it is, where that is known."""

    path: Path
    entry: Entry | None = None

    @property
    def family(self) -> Family | None:
        """Which generation it belongs to; None for a file of one's own."""
        return self.entry.family if self.entry else None

    @property
    def is_demo(self) -> bool:
        """Whether it is part of the model that comes with the code."""
        return self.family == "demo"


def weights_folders() -> list[Path]:
    """The ``weights/`` folders that exist: in the current folder, and beside the package in a clone."""
    found = [Path.cwd() / "weights", Path(__file__).resolve().parents[2] / "weights"]
    return list(dict.fromkeys(folder.resolve() for folder in found if folder.is_dir()))


def locate(given: str | Path, role: Role, *, variant: Variant | None = None, beside: Located | None = None) -> Located:
    """The file or folder that ``given`` means.

    Args:
        given: A path, a catalogue name, ``owner/repository``, ``owner/repository:file``, or ``auto``.
        role: What it is wanted for; decides among a repository's files and for ``auto``.
        variant: For ``auto`` models: only this one.
        beside: The model it has to fit: ``auto`` then takes files of the same family, the demo's for the demo.

    Raises:
        CheckpointError: If it is not on this machine; the message says how to get it.
    """
    text = str(given)
    if text == AUTO:
        return _automatic(role, variant, beside.family if beside else None)
    path = Path(text).expanduser()
    if text and os.path.exists(path):
        return Located(path, published_entry(path))
    if (entry := entry_named(text)) is not None:
        return _required(entry)
    match = _REPOSITORY.fullmatch(text)
    # Without a colon, a/b.safetensors is a path that is not there.
    if match and (match["file"] or path.suffix not in _SUFFIXES):
        return _in_repository(match["repository"], match["file"], role)
    known = entry_named(path.name)
    raise CheckpointError(
        f"{text} does not exist. Get it: {DOWNLOAD} {known.name}"
        if known
        else f"{text} does not exist. Give a path, owner/repository:file or a catalogue name: {DOWNLOAD} --list"
    )


def find(entry: Entry) -> Path | None:
    """Where a published file or folder is on this machine; None when it is not, or not whole."""
    for root in weights_folders():
        elsewhere = () if entry.family == "demo" else (root / entry.name, root, *_subfolders(root))
        for folder in (root / entry.folder, *elsewhere):
            if (found := _in_folder(entry, folder, alone=folder != root)) is not None:
                return found
    return _in_cache(entry)


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def _in_folder(entry: Entry, folder: Path, alone: bool = True) -> Path | None:
    if not entry.is_folder:
        return next((path for name in _names(entry) if (path := folder / name).exists()), None)
    # A model of several files is recognised by its names only in a folder of its own.
    needed = [file.path for file in entry.files if not file.optional]
    whole = alone and folder.is_dir() and all(any(folder.glob(name)) for name in needed)
    return folder if whole and _own_folder(entry, folder) else None


def _own_folder(entry: Entry, folder: Path) -> bool:
    """Several Gemma folders hold the same names, so the folder's own name counts; plain ``gemma`` is any of them."""
    place = Path(entry.folder)
    return folder.name in (place.name, place.parts[0], entry.name, (entry.repository or "").rsplit("/", 1)[-1])


def _names(entry: Entry) -> list[str]:
    """The published name, or that of its conversion."""
    name = entry.files[0].name
    converted = [f"{name}.safetensors", f"{Path(name).stem}.safetensors"] if Path(name).suffix in TORCH_SUFFIXES else []
    return [name, *converted]


def _in_cache(entry: Entry) -> Path | None:
    if entry.repository is None:
        return None
    first = _cached(entry.repository, next(file.path for file in entry.files if "*" not in file.path))
    if first is None or not entry.is_folder:
        return first
    folder = first.parent
    needed = [file.path for file in entry.files if not file.optional]
    return folder if all(any(folder.glob(name)) for name in needed) else None


def _cached(repository: str, file: str) -> Path | None:
    # Imported here: it takes a moment, and most runs find their files in weights/.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, file)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _in_repository(repository: str, file: str | None, role: Role) -> Located:
    entries = [e for e in ENTRIES if (e.repository or "").lower() == repository.lower()]
    if file is None:
        chosen = [entry for entry in entries if entry.role == role]
        for entry in chosen:
            if (path := find(entry)) is not None:
                return Located(path, entry)
        if chosen:
            raise _missing(chosen[0])
        raise CheckpointError(
            f"{repository} has no {role} in the catalogue, so its file has to be named. Give {repository}:FILE."
        )
    for entry in entries:
        if file in (entry.files[0].path, entry.files[0].name):
            return _required(entry)
    for root in weights_folders():
        for folder in (root, *_subfolders(root)):
            if (path := folder / Path(file).name).exists():
                return Located(path)
    if (path := _cached(repository, file)) is not None:
        return Located(path)
    raise CheckpointError(f"{repository}:{file} is not on this machine. Get it: {DOWNLOAD} {repository}:{file}")


def _required(entry: Entry) -> Located:
    path = find(entry)
    if path is None:
        raise _missing(entry)
    return Located(path, entry)


def _automatic(role: Role, variant: Variant | None, family: Family | None) -> Located:
    """The first published file of the role that is here; for models, or beside the demo's, the demo's own."""
    # The same language model serves every generation.
    shared = role == "text-encoder" and family != "demo"
    entries = entries_for(role, family=None if shared else family, variant=variant)
    published = [entry for entry in entries if entry.family != "demo"]
    demo = [entry for entry in entries if entry.family == "demo" and (role == "model" or family == "demo")]
    for entry in (*published, *demo):
        if (path := find(entry)) is not None:
            return Located(path, entry)
    if demo:
        raise CheckpointError(
            f"The demo model is not there either: weights/demo lacks {demo[0].files[0].path}. It comes with a clone of "
            f"the repository. The real files: {DOWNLOAD} {' '.join(_STARTER)}"
        )
    if published:
        raise _missing(published[0])
    raise CheckpointError(f"No {role} is published for {family or 'this'}. Give a path.")


def _missing(entry: Entry) -> CheckpointError:
    size = f" ({entry.num_bytes / 1e9:.1f} GB)" if entry.num_bytes else ""
    return CheckpointError(f"{entry.name} is not on this machine. Get it{size}: {DOWNLOAD} {entry.name}")


def published_entry(path: Path) -> Entry | None:
    """Which published file a path's name is; files of the demo by their folder as well, None for others."""
    for entry in ENTRIES:
        if entry.is_folder:
            continue
        same = path.name in _names(entry)
        if same and (entry.family != "demo" or path.resolve().parent.name == "demo"):
            return entry
    return None
