"""Downloads on first use, as the commands do them: one line, a question above 1 GB, a bar."""

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from LTX_2_MLX.errors import DownloadError
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.runtime.progress import JsonProgress, NotesOnly, Progress

if TYPE_CHECKING:
    from LTX_2_MLX.checkpoints.catalog import Entry
    from LTX_2_MLX.checkpoints.transfer import RemoteFile

# Downloads above this are asked for.
ASKED_BYTES = 10**9
_OFFLINE = "HF_HUB_OFFLINE"


@dataclass(frozen=True)
class FirstUse:
    """Fetches the files of a catalogue entry, within what the user allows.

    Attributes:
        progress: Reporter of the run.
        yes: Download large files without a question.
        forbidden: Download nothing.
    """

    progress: Progress
    yes: bool = False
    forbidden: bool = False

    def __call__(self, entry: "Entry") -> None:
        """Download what is missing of an entry.

        Raises:
            DownloadError: If it may not be downloaded, does not fit on the disk, or the transfer fails.
        """
        from huggingface_hub import constants

        from LTX_2_MLX.checkpoints.download import is_here, look_up

        if self.forbidden:
            raise _refused(entry, "--no-download forbids fetching it")
        if constants.HF_HUB_OFFLINE:
            raise _refused(entry, f"{_OFFLINE} forbids fetching it")
        try:
            published = look_up(entry)
            self._ask(entry, [remote for remote in published if not is_here(entry, remote)])
            self._fetch(entry, published)
        except DownloadError as error:
            raise _refused(entry, str(error).rstrip(".")) from error

    def _ask(self, entry: "Entry", missing: list["RemoteFile"]) -> None:
        """Show size, licence and free disk in one line; ask if it is large."""
        from LTX_2_MLX.checkpoints.download import free_bytes
        from LTX_2_MLX.cli.download_weights import RESERVE_BYTES, store

        known = sum(remote.num_bytes or 0 for remote in missing)
        need = known or entry.num_bytes or 0
        free = free_bytes(store([(entry, remote) for remote in missing]))
        size = f"{need / 1e9:.2f} GB" if need else "of unknown size"
        line = f"{entry.name} ({size}; {entry.licence}; {entry.page}); free disk: {free / 1e9:.1f} GB"
        if need + RESERVE_BYTES > free:
            raise DownloadError(
                f"the disk has {free / 1e9:.1f} GB free, and it needs {need / 1e9:.2f} GB beside "
                f"{RESERVE_BYTES / 1e9:.0f} GB that should stay free. Make room, or set HF_HOME to a folder on "
                f"another disk"
            )
        if need > ASKED_BYTES and not self.yes:
            if not _on_terminal():
                raise DownloadError(f"downloads of more than {ASKED_BYTES / 1e9:.0f} GB need --yes")
            if not typer.confirm(f"Download {line}?", err=True):
                raise DownloadError("the download was declined")
            return
        self.progress.note(f"Downloading {line}.")

    def _fetch(self, entry: "Entry", published: list["RemoteFile"]) -> None:
        from LTX_2_MLX.checkpoints.download import fetch
        from LTX_2_MLX.cli.download_weights import download_bars, weights_folder

        bars: Any = nullcontext(lambda *_: None)
        if not isinstance(self.progress, JsonProgress | NotesOnly):
            bars = download_bars()
        with bars as advance:
            for remote in published:
                fetch(entry, remote, weights_folder(), advance)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _refused(entry: "Entry", reason: str) -> DownloadError:
    size = f" ({entry.num_bytes / 1e9:.1f} GB)" if entry.num_bytes else ""
    return DownloadError(
        f"{entry.name} is not on this machine: {reason}. Get it{size}: {command_line('download_weights')} {entry.name}"
    )
