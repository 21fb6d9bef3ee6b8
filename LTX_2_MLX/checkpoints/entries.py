"""Entries of the catalogue of published files, the local files that match them, and their download on first use.

A command allows downloads; by default nothing is downloaded.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Role = Literal[
    "model", "video-vae", "audio-vae", "duration-head",
    "spatial-upscaler", "temporal-upscaler", "distilled-lora", "text-encoder", "interpolator", "upscaler",
    "super-resolution", "decoder", "lora", "prompt-enhancer",
]  # fmt: skip
Variant = Literal["dev", "distilled"]
Family = Literal["LTX-2", "LTX-2.3", "LTX-2.5", "demo"]

# Endings of files that torch.save writes.
TORCH_SUFFIXES = (".pth", ".pkl", ".ckpt", ".pt", ".bin")
_HUB = "https://huggingface.co"


@dataclass(frozen=True)
class PublishedFile:
    """One file of a repository.

    Attributes:
        path: In the repository; may contain ``*``.
        num_bytes: Exact size, if known.
        sha256: Of the content, if known.
        optional: Downloaded only if the repository has it.
        url: Its address, if it does not lie in the entry's repository; optional then means that users may have the
            folder without it.
        git_blob: Git's name of the content, if known.
    """

    path: str
    num_bytes: int | None = None
    sha256: str | None = None
    optional: bool = False
    url: str | None = None
    git_blob: str | None = None

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Entry:
    """One checkpoint, or the files of one model, downloaded together under one name.

    Attributes:
        name: What users type.
        role: What it is used for.
        files: One file, or the files of a folder.
        folder: Its folder under ``weights/``; a model of several files has one of its own.
        repository: On the Hugging Face hub; None for files at ``url``.
        url: Address of the folder with the files, if they are not on the hub.
        licence: Of the weights.
        networks: The networks in it.
        family: Generation of the model; files of one family belong together.
        variant: How a model was trained.
        about_bytes: Approximate size of all files from a public listing, if the exact one is not known.
        gated: The repository needs a login and an accepted licence.
    """

    name: str
    role: Role
    files: tuple[PublishedFile, ...]
    folder: str
    licence: str
    networks: tuple[str, ...]
    repository: str | None = None
    url: str | None = None
    family: Family | None = None
    variant: Variant | None = None
    about_bytes: int | None = None
    gated: bool = False
    notes: str = field(default="")

    @property
    def num_bytes(self) -> int | None:
        """Size of all files, exact or approximate; None if unknown."""
        total = 0
        for file in self.files:
            if file.optional:
                continue
            if file.num_bytes is None:
                return self.about_bytes
            total += file.num_bytes
        return total

    @property
    def is_folder(self) -> bool:
        """Whether a loader takes the whole folder."""
        return len(self.files) > 1

    @property
    def page(self) -> str:
        """Its web page."""
        return f"{_HUB}/{self.repository}" if self.repository else (self.url or "comes with the code")


@dataclass(frozen=True)
class ResolvedFile:
    """A local file or folder.

    Attributes:
        path: Exists.
        entry: The catalogue entry that it matches; None for files that are not in the catalogue.
        stated_family: Model generation that a file states which is not in the catalogue.
    """

    path: Path
    entry: Entry | None = None
    stated_family: Family | None = None

    @property
    def family(self) -> Family | None:
        """Model generation; None if unknown."""
        return self.entry.family if self.entry else self.stated_family

    @property
    def is_demo(self) -> bool:
        """Whether it belongs to the demo model that comes with the code."""
        return self.family == "demo"


def local_names(entry: Entry) -> list[str]:
    """Names that a single-file entry may have on disk: the published one and those of its conversion."""
    name = entry.files[0].name
    if Path(name).suffix not in TORCH_SUFFIXES:
        return [name]
    return [name, f"{name}.safetensors", f"{Path(name).stem}.safetensors"]


# Fetches the files of an entry, or raises an error that says how to get them.
Obtain = Callable[[Entry], None]
_OBTAIN: ContextVar[Obtain | None] = ContextVar("obtain", default=None)


@contextmanager
def downloads(obtain: Obtain) -> Iterator[None]:
    """Allow downloads on first use inside this context."""
    token = _OBTAIN.set(obtain)
    try:
        yield
    finally:
        _OBTAIN.reset(token)


def obtain(entry: Entry) -> bool:
    """Download the files of an entry if that is allowed; returns whether it was.

    Raises:
        DownloadError: If it is allowed and fails, or the user refuses.
    """
    fetch = _OBTAIN.get()
    if fetch is None or entry.family == "demo":
        return False
    fetch(entry)
    return True
