"""Contexts of earlier prompts in the user's cache folder, so that the text encoder runs once per prompt.

An entry is named after everything that contexts follow from, and holds a sum of its bytes: a damaged one is computed
again. The entries longest unused go once all of them take more than 1 GiB.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import mlx.core as mx

from LTX_2_MLX.atomic_file import replaced_file
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.state import Arrays, text_encoder_digest
from LTX_2_MLX.runtime.digest import content_digest, digest_of, file_stamps, load_whole, sum_of

# Names another folder; empty: nothing is kept.
FOLDER_VARIABLE = "LTX_2_MLX_CACHE"
_MOST_BYTES = 2**30
_PACKAGE = Path(__file__).parents[2]

# The entry that a plan was made with, for the run that follows.
_read: dict[str, Arrays] = {}


def cache_entry(request: Request) -> Path | None:
    """File of the request's contexts; None where it takes them from elsewhere, or the environment turns the cache off.

    Digests of large files are those of samples, so the times of all files count, too.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if not request.cache or request.embeddings is not None or named == "":
        return None
    if named is not None:
        folder = Path(named).expanduser()
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches" / "ltx-2-mlx"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltx-2-mlx"
    models = request.models
    # A checkout of this package changes without another version.
    program = []
    for stamp in file_stamps(_PACKAGE):
        if stamp[0].endswith(".py"):
            program.append(stamp)
    encoder, connectors = models.text_encoder_files, models.text_features.paths
    facts = {
        "prompts": request.prompts,
        "text_encoder": [text_encoder_digest(encoder), file_stamps(encoder)],
        "connectors": [*map(content_digest, connectors), *map(file_stamps, connectors)],
        "dtype": str(models.text_dtype),
        "quantize": models.quantize,
        "program": program,
    }
    name = digest_of(facts)
    return folder / "prompts" / f"{name}.safetensors"


def load_entry(path: Path, *, use: bool = False) -> Arrays | None:
    """The contexts of an entry, evaluated; None where there is none that is whole.

    Without ``use`` they stay in memory for the run that is planned.
    """
    arrays = _read.pop(path.name, None)
    if arrays is None and path.is_file():
        loaded = load_whole(path)
        arrays = None if loaded is None else loaded[0]
    if arrays is not None and use:
        # Its time tells when it was used last.
        with suppress(OSError):
            os.utime(path)
    elif arrays is not None:
        _read.clear()
        _read[path.name] = arrays
    return arrays


def keep_entry(path: Path, contexts: Arrays, note: Callable[[str], None]) -> None:
    """Write an entry, and remove those longest unused; ``note`` gets a line where the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as temporary:
            mx.save_safetensors(str(temporary), contexts, metadata={"sum": sum_of(contexts)})
        entries = []
        for entry in path.parent.glob("*.safetensors"):
            status = entry.stat()
            entries.append((status.st_mtime_ns, status.st_size, entry))
        total = 0
        for _, size, entry in sorted(entries, reverse=True):
            total += size
            if total > _MOST_BYTES and entry != path:
                entry.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        note(f"The prompt's embeddings are not kept for later runs: {error}")
