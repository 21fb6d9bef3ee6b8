"""Fetches one file over HTTP: resumes broken transfers, also in a later run, and checks size and SHA-256.

``hf_hub_download`` is not used for this: it deletes a partial file when it ends early (huggingface_hub 2.4,
file_download.py, _download_to_tmp_and_move), and checks the size alone. The published models have up to 46 GB.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from LTX_2_MLX.errors import DownloadError

# Callback: name of the file, bytes that are done, bytes of the whole file (None if unknown).
Progress = Callable[[str, int, int | None], None]
# Returns URL and headers for the next attempt.
Locate = Callable[[], tuple[str, dict[str, str]]]

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30
# Attempts without a single new byte before a transfer is given up.
ATTEMPTS = 5


@dataclass(frozen=True)
class RemoteFile:
    """One file as its server describes it."""

    path: str
    num_bytes: int | None = None
    sha256: str | None = None
    # Git's name of the content, for files from a code repository.
    git_blob: str | None = None


def transfer(remote: RemoteFile, target: Path, locate: Locate, progress: Progress, pause: float) -> None:
    """Fetch a file to a hidden one beside ``target``, check it, and rename it.

    Args:
        remote: The file.
        target: An existing file is replaced.
        locate: Called before each attempt, since addresses may expire.
        progress: Called after each chunk.
        pause: Seconds before the second attempt; doubled for each further one.

    Raises:
        DownloadError: If the transfer keeps breaking, or the file has another size or SHA-256.
    """
    partial = target.with_name(f".{target.name}.part")
    failures = 0
    while (failure := _attempt(remote, partial, locate, progress)) is not None:
        failures = failures + 1 if failure.is_stuck else 0
        if failures >= ATTEMPTS:
            raise DownloadError(
                f"The download of {remote.path} keeps failing ({failure.text}). The bytes so far are kept: run the "
                f"command again to continue."
            )
        time.sleep(pause * 2 ** max(failures - 1, 0))
    _check(remote, partial, progress)
    partial.replace(target)


@dataclass(frozen=True)
class _Failure:
    """Why an attempt ended early, and whether it brought no new byte."""

    text: str
    is_stuck: bool


def _attempt(remote: RemoteFile, partial: Path, locate: Locate, progress: Progress) -> _Failure | None:
    """Continue the transfer; None if the file is complete."""
    before = _size(partial)
    try:
        url, headers = locate()
        total = _receive(url, headers, partial, remote, progress)
        size = _size(partial)
        if total is None or size == total:
            return None
        text = f"it stopped at {size} of {total} bytes"
    except _connection_errors() as error:
        if not _is_transient(error):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
    return _Failure(text, is_stuck=_size(partial) <= before)


def _size(partial: Path) -> int:
    return partial.stat().st_size if partial.exists() else 0


def _connection_errors() -> tuple[type[Exception], ...]:
    """Errors of the connection and of the hub's answers."""
    # The HTTP client's own class, whichever client the hub's library uses.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return (HTTPError, ConnectionError, TimeoutError)


def _is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed: the connection broke or the server is busy, but it did not refuse."""
    response = getattr(error, "response", None)
    return response is None or _is_busy(response.status_code)


def _is_busy(status: int) -> bool:
    return status >= 500 or status == 429


def _receive(url: str, headers: dict[str, str], partial: Path, remote: RemoteFile, progress: Progress) -> int | None:
    """Append what is missing to the partial file; returns the size of the whole file, None if unknown."""
    from huggingface_hub import get_session

    size = _size(partial)
    if size == remote.num_bytes:
        return size
    if remote.num_bytes is not None and size > remote.num_bytes:
        size = 0
    request_headers = {**headers, "Accept-Encoding": "identity"}
    if size:
        request_headers["Range"] = f"bytes={size}-"
    with get_session().stream(
        "GET", url, headers=request_headers, timeout=_TIMEOUT_SECONDS, follow_redirects=True
    ) as response:
        if response.status_code == 416:
            # Nothing follows what is here; the check tells whether that is right.
            return size
        if response.status_code not in (200, 206):
            _refuse(remote, response.status_code)
        if response.status_code == 200:
            # The server cannot continue in the middle.
            size = 0
        length = response.headers.get("Content-Length")
        total = remote.num_bytes or (size + int(length) if length else None)
        with partial.open("ab" if size else "wb") as file:
            # With a fixed chunk size, a chunk would be lost when the connection breaks inside it.
            for chunk in response.iter_raw():
                file.write(chunk)
                size += len(chunk)
                progress(remote.path, size, total)
    return total


def _refuse(remote: RemoteFile, status: int) -> None:
    if _is_busy(status):
        raise ConnectionError(f"HTTP status {status}")
    raise DownloadError(f"The server answers {remote.path} with HTTP status {status}. Is it still published?")


def _check(remote: RemoteFile, partial: Path, progress: Progress) -> None:
    """Raise, and delete the file, unless it is the published one."""
    size = _size(partial)
    if remote.num_bytes not in (None, size):
        partial.unlink()
        raise DownloadError(
            f"{remote.path} has {size} bytes, expected {remote.num_bytes}. The file was deleted: try again."
        )
    if remote.git_blob is not None and (blob := _git_blob(partial)) != remote.git_blob:
        partial.unlink()
        raise DownloadError(
            f"{remote.path} differs from the published file: Git's name is {blob}, expected {remote.git_blob}. The "
            f"file was deleted: try again."
        )
    if remote.sha256 is None:
        return
    sha256 = _sha256(remote.path, partial, progress)
    if sha256 != remote.sha256:
        partial.unlink()
        raise DownloadError(
            f"{remote.path} differs from the published file: SHA-256 {sha256}, expected {remote.sha256}. The file was "
            f"deleted: try again."
        )


def _git_blob(path: Path) -> str:
    """Name that Git gives to a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _sha256(name: str, path: Path, progress: Progress) -> str:
    total = _size(path)
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(f"{name} (checking)", done, total)
    return digest.hexdigest()
