"""Results of a run's stages in a folder, so that a run that was ended goes on from its last complete stage.

A state is a .safetensors file with the arrays of one stage, a digest of everything that they follow from, and a sum of
their bytes. It appears whole or not at all. One that is damaged, or was made from anything else, is named and computed
again, never trusted.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from LTX_2_MLX.errors import OutputError, RequestError
from LTX_2_MLX.files import parse_json, read_small_file, replaced_file, write_file
from LTX_2_MLX.runtime.folder_lock import lock_folder
from LTX_2_MLX.runtime.runner import digest_of, load_whole, sum_of

REQUEST_FILE = "request.json"
_FORMAT_NAME = "LTX-2-MLX state"
_FORMAT = f"{_FORMAT_NAME} 1"
# More than any saved stage's header takes.
_MAX_HEADER_BYTES = 2**24
_PARTIAL = re.compile(
    r"\.(?:request\.json|[a-z0-9_]+\.safetensors)\.\d+\.partial"
    r"|\.(?:request\.[a-z0-9_]{8}\.partial\.json|[a-z0-9_]+\.[a-z0-9_]{8}\.partial\.safetensors)"
)

Arrays = dict[str, mx.array]


class Job:
    """The folder in which a run saves its stages' results, and loads those of an earlier run.

    Attributes:
        folder: Where states are.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any] | None = None,
        *,
        resume: bool = False,
        note: Callable[[str], None] = lambda text: None,
    ):
        """Make the folder, if it is not there.

        Args:
            folder: Where states are.
            facts: Everything that results follow from, as values that JSON has a form for.
            resume: Use the states that are there already; else they are replaced as their stages end.
            note: Callback for messages: states that were loaded, and states that were unusable and why.

        Raises:
            RequestError: If the folder cannot be made, there is none to resume from, or another run uses it.
        """
        self.folder, self._resume, self._note = folder, resume, note
        self._digest = digest_of(facts or {})
        if resume and not folder.is_dir():
            raise RequestError(f"{folder} is not a folder, so there is nothing to resume. Start with --save-latents.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not resume:
                _refuse_foreign(folder)
            self._lock = lock_folder(folder)
            _remove_stale(folder)
        except OSError as error:
            raise RequestError(f"The folder {folder} for states cannot be written: {error.strerror}.") from error

    def save(self, stage: str, arrays: Arrays, **more: Any) -> None:
        """Write the state of a stage.

        Args:
            stage: Its name, which becomes the file's.
            arrays: Its result.
            **more: Facts that the result follows from, beside those of the run.

        Raises:
            OutputError: If the disk is full or the folder cannot be written.
        """
        path = self._path(stage)
        facts = {"format": _FORMAT, "stage": stage, "digest": self._digest_of(stage, more), "sum": sum_of(arrays)}
        facts["facts"] = json.dumps(more, sort_keys=True, default=str)
        try:
            with replaced_file(path) as temporary, temporary.open("wb") as file:
                mx.save_safetensors(file, arrays, metadata=facts)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            raise OutputError(
                f"The state {path} cannot be written ({error}). Make room, or name another folder."
            ) from error

    def load(self, stage: str, **more: Any) -> Arrays | None:
        """The arrays of a stage's state, evaluated; None without a valid one, after a note on the reason."""
        if not self._resume or not (path := self._path(stage)).is_file():
            return None
        if (loaded := load_whole(path)) is None:
            self._note(f"{path} is damaged. It is computed again.")
            return None
        arrays, facts = loaded
        wanted = {"format": _FORMAT, "stage": stage, "digest": self._digest_of(stage, more)}
        if any(facts.get(name) != value for name, value in wanted.items()):
            differing = _differing(facts.get("facts", "{}"), more)
            names = f" ({', '.join(differing)})" if differing else ""
            self._note(f"{path} was made from another request or other files{names}. It is computed again.")
            return None
        return arrays

    def remember(self, request: Mapping[str, Any]) -> None:
        """Write the request beside the states, so that resuming needs no more than the folder."""
        path = self.folder / REQUEST_FILE
        try:
            write_file(path, json.dumps(dict(request), default=str, indent=1))
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}.") from error

    def _path(self, stage: str) -> Path:
        return self.folder / f"{stage}.safetensors"

    def _digest_of(self, stage: str, more: Mapping[str, Any]) -> str:
        return digest_of({"run": self._digest, "stage": stage, **more})


def remembered_request(folder: Path) -> dict[str, Any]:
    """The request of the run whose states are in a folder.

    Raises:
        RequestError: If the folder holds none that can be read.
    """
    path = folder / REQUEST_FILE
    try:
        found = parse_json(read_small_file(path))
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise RequestError(
            f"{folder} holds no run to resume: {path.name} cannot be read ({why}). Give a folder of --save-latents."
        ) from error
    if not isinstance(found, dict):
        raise RequestError(f"{path} holds no request. Start again with --save-latents {folder}.")
    return found


def _remove_stale(folder: Path) -> None:
    """Remove partial files that ended runs of this program have left; the folder is locked by this run."""
    for path in folder.glob(".*.partial*"):
        if _PARTIAL.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _refuse_foreign(folder: Path) -> None:
    """Raise ``RequestError`` for a folder whose files a run would replace, but that no run has written."""
    states = [path for path in folder.glob("*.safetensors") if not _PARTIAL.fullmatch(path.name)]
    for path in [folder / REQUEST_FILE, *states]:
        if path.exists() and not _is_own(path):
            raise RequestError(
                f"{folder} holds {path.name}, which is no saved stage. Give --save-latents a folder of its own."
            )


def _is_own(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            request = parse_json(read_small_file(path))
            return isinstance(request, dict) and ("request" in request or "prompt" in request)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return _FORMAT_NAME in file.read(min(length, _MAX_HEADER_BYTES)).decode("utf-8")
    except (OSError, ValueError, RecursionError):
        return False


def _differing(saved: str, current: Mapping[str, Any]) -> list[str]:
    """Names of the facts that differ from saved ones."""
    try:
        before = parse_json(saved)
    except (ValueError, RecursionError):
        return []
    return differing_facts(before, parse_json(json.dumps(current, default=str)))


def differing_facts(before: Any, now: Any) -> list[str]:
    """Names of the facts that differ between two nested dictionaries."""
    flat = _flat(before)
    other = _flat(now)
    return sorted({name[-1] for name in flat.keys() | other.keys() if flat.get(name) != other.get(name)})


def _flat(facts: Any, name: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(facts, dict):
        return {name: facts}
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in facts.items():
        flat |= _flat(value, (*name, str(key)))
    return flat
