"""Fetch published weights into the Hugging Face cache, with links from weights/."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from LTX_2_MLX.cli.command import command
from LTX_2_MLX.cli.echo import echo
from LTX_2_MLX.errors import DownloadError
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.pipelines.options import Opt

if TYPE_CHECKING:
    from LTX_2_MLX.checkpoints.catalog import Entry
    from LTX_2_MLX.checkpoints.transfer import Progress as Advance
    from LTX_2_MLX.checkpoints.transfer import RemoteFile

# Left free for the system when the disk is judged.
RESERVE_BYTES = 2 * 10**9
_CLONE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """Options of the command."""

    names: Annotated[
        tuple[str, ...], Opt("Catalogue names, or owner/repository:file.", positional=True, metavar="[NAME]...")
    ] = ()
    show_list: Annotated[bool, Opt("Show the catalogue and stop.", flags=("--list",), only_on=True)] = False
    dry_run: Annotated[bool, Opt("Show size, license and free disk, and stop.", only_on=True)] = False
    force: Annotated[bool, Opt("Ignore the check of the free disk.", only_on=True)] = False


def download_weights(own: DownloadOptions) -> None:
    """Show size, license and free disk, then fetch the files of NAME. An interrupted download continues."""
    if own.show_list or not own.names:
        echo(f"{catalogue()}\n\nFetch with: {command_line('download_weights')} NAME ...")
        return
    from LTX_2_MLX.checkpoints.download import entry_for, fetch, is_here, look_up

    requested = [(entry, remote) for entry in map(entry_for, own.names) for remote in look_up(entry)]
    missing = [(entry, remote) for entry, remote in requested if not is_here(entry, remote)]
    preflight(requested, missing, own.force)
    if own.dry_run:
        return
    with download_bars() as advance:
        paths = [fetch(entry, remote, weights_folder(), advance) for entry, remote in requested]
    for path in paths:
        echo(f"ready: {path}", err=True)


@contextmanager
def download_bars() -> Iterator["Advance"]:
    """A bar for each file; gives the callback that moves them."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(highlight=False, stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def advance(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield advance


def weights_folder() -> Path:
    """Where links to the files go: weights/ of a clone, else of the current folder."""
    is_clone = (_CLONE / "scripts" / "download_weights.py").is_file()
    return (_CLONE if is_clone else Path.cwd()) / "weights"


def preflight(
    requested: list[tuple["Entry", "RemoteFile"]],
    missing: list[tuple["Entry", "RemoteFile"]],
    force: bool,
) -> None:
    """Show the files to fetch; refuse if they do not fit on the disk."""
    from LTX_2_MLX.checkpoints.download import free_bytes

    for entry in dict.fromkeys(entry for entry, _ in requested):
        files = [remote for owner, remote in requested if owner is entry]
        echo(f"{entry.name}: {len(files)} files, {total(files)}; {entry.licence}; {entry.page}", err=True)
        if entry.notes:
            echo(f"  {entry.notes}", err=True)
    need = sum(remote.num_bytes or 0 for _, remote in missing)
    free = free_bytes(store(missing))
    echo(f"To fetch: {total([r for _, r in missing])}. Free disk: {free / 1e9:.1f} GB.", err=True)
    if need + RESERVE_BYTES > free and not force:
        raise DownloadError(
            f"The disk has {free / 1e9:.1f} GB free, but the files need {need / 1e9:.1f} GB, and "
            f"{RESERVE_BYTES / 1e9:.0f} GB should stay free. Make room, or set HF_HOME to a folder on another disk; "
            f"--force goes on regardless."
        )


def store(missing: list[tuple["Entry", "RemoteFile"]]) -> Path:
    """The folder that grows: the hub's cache, but for files from elsewhere."""
    from LTX_2_MLX.checkpoints.download import cache_folder

    return cache_folder() if any(entry.repository for entry, _ in missing) else weights_folder()


def total(files: list["RemoteFile"]) -> str:
    """Size of some files, as far as it is known."""
    known = sum(remote.num_bytes or 0 for remote in files)
    open_ends = sum(remote.num_bytes is None for remote in files)
    return f"{known / 1e9:.2f} GB" + (f" and {open_ends} of unknown size" if open_ends else "")


def catalogue() -> str:
    """The published files, their sizes and licences, and which are on this machine."""
    from LTX_2_MLX.checkpoints.catalog import ENTRIES
    from LTX_2_MLX.checkpoints.resolve import installed_path

    longest = max(len(entry.name) for entry in ENTRIES)
    widths = f"{{:<{longest}}} {{:<18}} {{:>9}}  {{:<25}} {{}}"
    lines = [widths.format("name", "use", "size", "licence", "here").rstrip()]
    for entry in ENTRIES:
        about = "" if entry.num_bytes is None else f"{entry.num_bytes / 1e9:.2f} GB"
        here = "yes" if installed_path(entry) else ""
        lines.append(widths.format(entry.name, entry.role, about, entry.licence, here).rstrip())
    return "\n".join(lines)


main = command("download_weights", download_weights, DownloadOptions)
