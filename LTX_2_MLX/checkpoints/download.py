"""Downloads published files into the Hugging Face cache, with links from ``weights/``."""

import fnmatch
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from LTX_2_MLX.checkpoints.catalog import Entry, PublishedFile
from LTX_2_MLX.checkpoints.resolve import entry_by_name, file_entry
from LTX_2_MLX.checkpoints.transfer import Progress, RemoteFile, transfer
from LTX_2_MLX.errors import DownloadError

_REPOSITORY_FILE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+):(?P<file>[^:]+)")


def entry_for(name: str) -> Entry:
    """The entry of a catalogue name, a published file's name or ``owner/repository:file``.

    Raises:
        DownloadError: If it is none of these, or comes with the code.
    """
    entry = entry_by_name(name)
    if entry is not None and entry.family != "demo":
        return entry
    match = _REPOSITORY_FILE.fullmatch(name)
    if match:
        return file_entry(match["repository"], match["file"])
    if entry is not None:
        raise DownloadError(f"{name} comes with the code, in weights/demo. There is nothing to download.")
    raise DownloadError(f"{name!r} is not in the catalogue. Give a name that --list shows, or owner/repository:file.")


def look_up(entry: Entry, *, endpoint: str | None = None) -> list[RemoteFile]:
    """The files of an entry as its server has them now, with their sizes.

    Raises:
        DownloadError: If the server cannot be reached, refuses, or lacks a file.
    """
    if entry.repository is None:
        return [RemoteFile(file.path, file.num_bytes, file.sha256, file.git_blob) for file in entry.files]
    published = _list_repository(entry, entry.repository, endpoint)
    remote_files: dict[str, RemoteFile] = {}
    for file in entry.files:
        if file.url is not None:
            remote_files[file.path] = RemoteFile(file.path, file.num_bytes, file.sha256, file.git_blob)
            continue
        paths = [path for path in sorted(published) if _matches(path, file)]
        if not paths and not file.optional:
            raise DownloadError(f"{entry.repository} has no file {file.path} now. See {entry.page}.")
        for path in paths:
            remote = published[path]
            if file.sha256 not in (None, remote.sha256):
                raise DownloadError(
                    f"{entry.repository} now has another {path} than the one in the catalogue: SHA-256 "
                    f"{remote.sha256}, expected {file.sha256}. Give {entry.repository}:{path} to take it anyway."
                )
            remote_files[path] = remote
    return list(remote_files.values())


def _list_repository(entry: Entry, repository: str, endpoint: str | None) -> dict[str, RemoteFile]:
    """All files of a repository, by path."""
    from huggingface_hub import HfApi

    with _clear_errors(entry):
        info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True)
    files = {}
    for sibling in info.siblings or []:
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        files[sibling.rfilename] = RemoteFile(sibling.rfilename, sibling.size, sha256)
    return files


def _matches(path: str, file: PublishedFile) -> bool:
    """Whether a path fits the file's pattern; a ``*`` stands for no folder."""
    return fnmatch.fnmatchcase(path, file.path) and path.count("/") == file.path.count("/")


def is_here(entry: Entry, remote: RemoteFile) -> bool:
    """Whether the cache holds a complete copy of a hub file."""
    return _complete_copy(entry, remote) is not None


def _complete_copy(entry: Entry, remote: RemoteFile) -> Path | None:
    if entry.repository is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(entry.repository, remote.path, cache_dir=cache_folder())
    if not isinstance(cached, str) or not os.path.exists(cached):
        return None
    path = Path(cached)
    return path if remote.num_bytes in (None, path.stat().st_size) else None


def fetch(
    entry: Entry,
    remote: RemoteFile,
    weights: Path,
    progress: Progress,
    *,
    endpoint: str | None = None,
    pause: float = 1.0,
) -> Path:
    """Download one file, unless it is here already; returns its path in ``weights``.

    Args:
        entry: The entry that it belongs to.
        remote: From ``look_up``.
        weights: The folder that gets the link, or, for files that are not on the hub, the file.
        progress: Callback: file name, bytes that are done, bytes in total.
        endpoint: The hub's address; None means the default.
        pause: Seconds before the second attempt; doubled for each further one.

    Raises:
        DownloadError: If the transfer keeps failing, or the file has another size or SHA-256.
    """
    target = weights / entry.folder / Path(remote.path).name
    with _clear_errors(entry):
        target.parent.mkdir(parents=True, exist_ok=True)
        url = _url(entry, remote)
        if url is not None or entry.repository is None:
            if not target.is_file() or remote.num_bytes not in (None, target.stat().st_size):
                transfer(remote, target, lambda: (url or f"{entry.url}/{remote.path}", {}), progress, pause)
            return target
        cached = _complete_copy(entry, remote)
        if cached is None:
            cached = _fetch_into_cache(entry.repository, remote, progress, endpoint, pause)
        _link(cached, target)
        return target


def _url(entry: Entry, remote: RemoteFile) -> str | None:
    """Address of a file that lies elsewhere than the rest of its entry."""
    return next((file.url for file in entry.files if file.path == remote.path), None)


def _fetch_into_cache(
    repository: str, remote: RemoteFile, progress: Progress, endpoint: str | None, pause: float
) -> Path:
    """Download the content to its place in the cache, and let the hub's library make the cache entry for it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repository, remote.path, endpoint=endpoint)
    etag = get_hf_file_metadata(url, endpoint=endpoint).etag or ""
    if not re.fullmatch(r"[\w-]+", etag):
        raise DownloadError(f"{url} has no usable tag ({etag!r}), so it cannot be stored. Try again later.")

    def locate() -> tuple[str, dict[str, str]]:
        # The address of a content server expires, and that server must not get the hub's token.
        location = get_hf_file_metadata(url, endpoint=endpoint).location
        is_hub = location.split("/")[:3] == url.split("/")[:3]
        return location, build_hf_headers() if is_hub else {}

    blob = cache_folder() / f"models--{repository.replace('/', '--')}" / "blobs" / etag
    blob.parent.mkdir(parents=True, exist_ok=True)
    if not blob.is_file():
        transfer(remote, blob, locate, progress, pause)
    return Path(hf_hub_download(repository, remote.path, endpoint=endpoint, cache_dir=cache_folder()))


def cache_folder() -> Path:
    """The cache of the hub's library; the variable HF_HOME moves it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _link(cached: Path, target: Path) -> None:
    """Make ``target`` a link; a file that is no link is never replaced."""
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        raise DownloadError(f"{target} is a file, not a link made by this program. Move it away first.")
    target.symlink_to(cached.resolve())


def free_bytes(folder: Path) -> int:
    """Free space on the disk where ``folder`` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def _clear_errors(entry: Entry) -> Iterator[None]:
    """Turn errors of the hub's library and the file system into one line that says what to do."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
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
            f"{entry.repository} needs a login: accept its licence ({entry.licence}) at {entry.page}, make a token at "
            f"https://huggingface.co/settings/tokens, then run: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"{entry.repository} is not on the hub, or is private (then run: hf auth login). See {entry.page}."
        ) from error
    except EntryNotFoundError as error:
        raise DownloadError(f"{entry.repository} lacks a file of {entry.name} now. See {entry.page}.") from error
    except OfflineModeIsEnabled as error:
        raise DownloadError(
            "HF_HUB_OFFLINE forbids downloads. Unset it, or get the files on another machine."
        ) from error
    except HfHubHTTPError as error:
        raise DownloadError(f"{entry.page} answers: {' '.join(str(error).split())}") from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise DownloadError(
            f"{entry.page} cannot be reached ({' '.join(str(error).split())}). Are you online?"
        ) from error
    except OSError as error:
        raise DownloadError(f"{entry.name} cannot be stored: {error.strerror or error}.") from error
