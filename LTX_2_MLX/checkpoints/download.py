"""Published files to this machine: into the Hugging Face cache, with links from ``weights/``.

Broken transfers go on where they stopped, also in a later run. Size and SHA-256 are checked before a file
gets its name.
"""

import fnmatch
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from LTX_2_MLX.checkpoints.catalog import Entry, PublishedFile, entry_by_name
from LTX_2_MLX.errors import DownloadError

# Told how many bytes of a file are here, of how many (None: the server does not say), and what is done with them.
Advance = Callable[[str, int, int | None], None]

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30
# Attempts without a single new byte before a transfer is given up.
_ATTEMPTS = 5
_REPOSITORY_FILE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+):(?P<file>[^:]+)")


@dataclass(frozen=True)
class RemoteFile:
    """One file as its server describes it."""

    path: str
    num_bytes: int | None = None
    sha256: str | None = None


def entry_for(name: str) -> Entry:
    """What a catalogue name, a published file's name, a repository or ``owner/repository:file`` asks for.

    Raises:
        DownloadError: If it is none of these, or comes with the code.
    """
    entry = entry_by_name(name)
    if entry is not None and entry.family != "demo":
        return entry
    if match := _REPOSITORY_FILE.fullmatch(name):
        file, repository = match["file"], match["repository"]
        return Entry(
            name, "model", (PublishedFile(file),), repository.rsplit("/", 1)[-1].lower(), "see the repository's page",
            ("unknown",), repository,
        )  # fmt: skip
    if entry is not None:
        raise DownloadError(f"{name} comes with the code, in weights/demo. There is nothing to download.")
    raise DownloadError(f"{name!r} is not in the catalogue. Give a name that --list shows, or owner/repository:file.")


def look_up(entry: Entry, *, endpoint: str | None = None) -> list[RemoteFile]:
    """The files of an entry that its server has now, with their sizes.

    Raises:
        DownloadError: If the server cannot be reached, refuses, or lacks a file.
    """
    if entry.repository is None:
        return [RemoteFile(file.path, file.num_bytes, file.sha256) for file in entry.files]
    from huggingface_hub import HfApi

    with _clear_errors(entry):
        info = HfApi(endpoint=endpoint).model_info(entry.repository, files_metadata=True)
    found = {
        sibling.rfilename: RemoteFile(sibling.rfilename, sibling.size, sibling.lfs.sha256 if sibling.lfs else None)
        for sibling in info.siblings or []
    }
    wanted: dict[str, RemoteFile] = {}
    for file in entry.files:
        matching = [
            found[path] for path in sorted(found) if fnmatch.fnmatchcase(path, file.path) and _is_plain(path, file)
        ]
        if not matching and not file.optional:
            raise DownloadError(f"{entry.repository} has no file {file.path} now. See {entry.page}.")
        for remote in matching:
            if file.sha256 not in (None, remote.sha256):
                raise DownloadError(
                    f"{entry.repository} now has another {remote.path} than the one this was made for: SHA-256 "
                    f"{remote.sha256}, expected {file.sha256}. Give {entry.repository}:{remote.path} to take it anyway."
                )
            wanted[remote.path] = remote
    return list(wanted.values())


def _is_plain(path: str, file: PublishedFile) -> bool:
    """A star stays within the folder it stands in."""
    return path.count("/") == file.path.count("/")


def is_here(entry: Entry, remote: RemoteFile) -> bool:
    """Whether a hub file is in the cache already, whole."""
    path = _cached(entry, remote)
    return path is not None and remote.num_bytes in (None, path.stat().st_size)


def _cached(entry: Entry, remote: RemoteFile) -> Path | None:
    if entry.repository is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(entry.repository, remote.path, cache_dir=cache_folder())
    return Path(found) if isinstance(found, str) and os.path.exists(found) else None


def fetch(
    entry: Entry,
    remote: RemoteFile,
    weights: Path,
    advance: Advance,
    *,
    endpoint: str | None = None,
    pause: float = 1.0,
) -> Path:
    """Bring one file here and give its place in ``weights``.

    Args:
        entry: What it belongs to.
        remote: From ``look_up``.
        weights: The folder that gets the link, or, for files that are not on the hub, the file.
        advance: Hears of every chunk.
        endpoint: The hub's address; None means the real one.
        pause: Seconds before the second attempt; they double with each further one.

    Raises:
        DownloadError: If the transfer keeps breaking, or what arrives has another size or SHA-256.
    """
    target = weights / entry.folder / Path(remote.path).name
    with _clear_errors(entry):
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.repository is None:
            if not target.is_file() or remote.num_bytes not in (None, target.stat().st_size):
                _transfer(remote, target, lambda: (f"{entry.url}/{remote.path}", {}), advance, pause)
            return target
        stored = (
            _cached(entry, remote) if is_here(entry, remote) else _into_cache(entry, remote, advance, endpoint, pause)
        )
        _link(stored, target)
        return target


def _into_cache(entry: Entry, remote: RemoteFile, advance: Advance, endpoint: str | None, pause: float) -> Path:
    """Put a file where the hub's own library looks for it, and let it make the entry."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(entry.repository, remote.path, endpoint=endpoint)
    etag = get_hf_file_metadata(url, endpoint=endpoint).etag or ""
    if not re.fullmatch(r"[\w-]+", etag):
        raise DownloadError(f"{url} has no usable tag ({etag!r}), so it cannot be stored. Try again later.")

    def address() -> tuple[str, dict[str, str]]:
        # A content server's address holds for a while only, and must not get the hub's token.
        place = get_hf_file_metadata(url, endpoint=endpoint).location
        same = place.split("/")[:3] == url.split("/")[:3]
        return place, build_hf_headers() if same else {}

    blob = cache_folder() / f"models--{entry.repository.replace('/', '--')}" / "blobs" / etag
    blob.parent.mkdir(parents=True, exist_ok=True)
    if not blob.is_file():
        _transfer(remote, blob, address, advance, pause)
    return Path(hf_hub_download(entry.repository, remote.path, endpoint=endpoint, cache_dir=cache_folder()))


def cache_folder() -> Path:
    """Where the hub's library keeps its files; the variable HF_HOME moves it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _transfer(remote: RemoteFile, target: Path, address, advance: Advance, pause: float) -> None:
    """Fetch to a hidden file beside ``target``, check it, and rename it."""
    part = target.with_name(f".{target.name}.part")
    failures, reason = 0, ""
    while failures < _ATTEMPTS:
        before = part.stat().st_size if part.exists() else 0
        try:
            total = _receive(*address(), part, remote, advance)
            if part.stat().st_size == total or total is None:
                break
            reason = f"it stopped at {part.stat().st_size} of {total} bytes"
        except _broken() as error:
            if not _may_pass(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        failures = 0 if after > before else failures + 1
        time.sleep(pause * 2 ** max(failures - 1, 0) if failures < _ATTEMPTS else 0)
    else:
        raise DownloadError(
            f"{remote.path} keeps breaking off ({reason}). What has arrived is kept: run the command again to go on."
        )
    _check(remote, part, advance)
    part.replace(target)


def _broken() -> tuple[type[Exception], ...]:
    """What a bad connection raises, and the hub's answers."""
    from huggingface_hub.errors import HTTPError

    return (HTTPError, ConnectionError, TimeoutError)


def _may_pass(error: Exception) -> bool:
    """Whether it is worth another attempt: a broken line, or a server that is busy; not a refusal."""
    response = getattr(error, "response", None)
    return response is None or response.status_code >= 500 or response.status_code == 429


def _receive(url: str, headers: dict[str, str], part: Path, remote: RemoteFile, advance: Advance) -> int | None:
    """One attempt, from where the last one stopped; gives the size that the whole file has, where the server says."""
    from huggingface_hub import get_session

    have = part.stat().st_size if part.exists() else 0
    if have == remote.num_bytes:
        return have
    if remote.num_bytes is not None and have > remote.num_bytes:
        have = 0
    headers = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=True) as response:
        if response.status_code == 416:
            # Nothing is left behind what is here; whether it is right, the check tells.
            return have
        if response.status_code not in (200, 206):
            _refused(remote, response.status_code)
        if response.status_code == 200:
            # The server cannot go on in the middle.
            have = 0
        length = response.headers.get("Content-Length")
        total = remote.num_bytes or (have + int(length) if length else None)
        with part.open("ab" if have else "wb") as file:
            # Of a size of its own, a chunk would be lost when the line breaks inside it.
            for chunk in response.iter_raw():
                file.write(chunk)
                have += len(chunk)
                advance(remote.path, have, total)
    return total


def _refused(remote: RemoteFile, status: int) -> None:
    if status >= 500 or status == 429:
        raise ConnectionError(f"the server answers {status}")
    raise DownloadError(f"The server answers {status} to {remote.path}. Is it still published?")


def _check(remote: RemoteFile, part: Path, advance: Advance) -> None:
    """Raise, and throw the file away, unless it is what was published."""
    have = part.stat().st_size
    if remote.num_bytes not in (None, have):
        part.unlink()
        raise DownloadError(
            f"{remote.path} has {have} bytes, expected {remote.num_bytes}. It was thrown away: try again."
        )
    if remote.sha256 is None:
        return
    digest, done = hashlib.sha256(), 0
    with part.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            advance(f"{remote.path} (checking)", done, have)
    if digest.hexdigest() != remote.sha256:
        part.unlink()
        raise DownloadError(
            f"{remote.path} arrived with other content than was published: SHA-256 {digest.hexdigest()}, expected "
            f"{remote.sha256}. It was thrown away: try again."
        )


def _link(stored: Path, target: Path) -> None:
    """A link at ``target``; a file of the user's own is never replaced."""
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        raise DownloadError(f"{target} is a file already, and not a link of this program. Move it away first.")
    target.symlink_to(stored.resolve())


def free_bytes(folder: Path) -> int:
    """Free disk where ``folder`` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def _clear_errors(entry: Entry) -> Iterator[None]:
    """What the hub's library and the file system raise, as one line that says what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise DownloadError(
            f"{entry.repository} wants a login: accept its licence ({entry.licence}) at {entry.page}, make a token at "
            f"https://huggingface.co/settings/tokens, then run: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"{entry.repository} is not on the hub, or is private (then run: hf auth login). See {entry.page}."
        ) from error
    except EntryNotFoundError as error:
        raise DownloadError(f"{entry.repository} lacks a file of {entry.name} now. See {entry.page}.") from error
    except OfflineModeIsEnabled as error:
        raise DownloadError("HF_HUB_OFFLINE forbids downloads. Unset it, or fetch the files elsewhere.") from error
    except HfHubHTTPError as error:
        raise DownloadError(f"{entry.page} answers: {' '.join(str(error).split())}") from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise DownloadError(
            f"{entry.page} cannot be reached ({' '.join(str(error).split())}). Are you online?"
        ) from error
    except OSError as error:
        raise DownloadError(f"{entry.name} cannot be stored: {error.strerror or error}.") from error
