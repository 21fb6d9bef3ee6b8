"""Fetch published weights into the Hugging Face cache, with links from weights/."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from LTX_2_MLX import cli
from LTX_2_MLX.checkpoints.catalog import ENTRIES, Entry
from LTX_2_MLX.checkpoints.download import cache_folder, entry_for, fetch, free_bytes, is_here, look_up
from LTX_2_MLX.checkpoints.resolve import installed_path
from LTX_2_MLX.checkpoints.transfer import RemoteFile
from LTX_2_MLX.errors import DownloadError

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
# Left free for the system when the disk is judged.
RESERVE_BYTES = 2 * 10**9


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Catalogue names, or owner/repository:file.")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show the catalogue and stop.")] = False,
    dry_run: cli.DryRun = False,
    force: cli.Force = False,
) -> None:
    """Show size, licence and free disk, then fetch what NAMEs mean. A broken download goes on where it stopped."""
    if show_list or not names:
        typer.echo(f"{catalogue()}\n\nFetch with: python scripts/download_weights.py NAME ...")
        return
    console = Console(highlight=False, stderr=True)
    wanted = [(entry, remote) for entry in map(entry_for, names) for remote in look_up(entry)]
    missing = [(entry, remote) for entry, remote in wanted if not is_here(entry, remote)]
    preflight(console, wanted, missing, force)
    if dry_run:
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, int] = {}

        def advance(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        places = [fetch(entry, remote, WEIGHTS, advance) for entry, remote in wanted]
    for place in places:
        console.print(f"ready: {place}", markup=False)


def preflight(
    console: Console, wanted: list[tuple[Entry, RemoteFile]], missing: list[tuple[Entry, RemoteFile]], force: bool
) -> None:
    """Show what is going to be fetched; refuse what does not fit on the disk."""
    for entry in dict.fromkeys(entry for entry, _ in wanted):
        files = [remote for owner, remote in wanted if owner is entry]
        console.print(f"{entry.name}: {len(files)} files, {total(files)}; {entry.licence}; {entry.page}", markup=False)
        if entry.notes:
            console.print(f"  {entry.notes}", markup=False)
    need, free = sum(remote.num_bytes or 0 for _, remote in missing), free_bytes(store(missing))
    console.print(f"To fetch: {total([r for _, r in missing])}. Free disk: {free / 1e9:.1f} GB.", markup=False)
    if need + RESERVE_BYTES > free and not force:
        raise DownloadError(
            f"The disk has {free / 1e9:.1f} GB free, but the files need {need / 1e9:.1f} GB, and "
            f"{RESERVE_BYTES / 1e9:.0f} GB should stay free. Make room, or set HF_HOME to a folder on another disk; "
            f"--force goes on regardless."
        )


def store(missing: list[tuple[Entry, RemoteFile]]) -> Path:
    """The folder that grows: the hub's cache, but for files from elsewhere."""
    return cache_folder() if any(entry.repository for entry, _ in missing) else WEIGHTS


def total(files: list[RemoteFile]) -> str:
    """Size of some files, as far as it is known."""
    known = sum(remote.num_bytes or 0 for remote in files)
    open_ends = sum(remote.num_bytes is None for remote in files)
    return f"{known / 1e9:.2f} GB" + (f" and {open_ends} of unknown size" if open_ends else "")


def catalogue() -> str:
    """The published files, their sizes and licences, and which are on this machine."""
    widths = "{:<36} {:<18} {:>9}  {:<24} {}"
    lines = [widths.format("name", "use", "size", "licence", "here").rstrip()]
    for entry in ENTRIES:
        about = "" if entry.num_bytes is None else f"{entry.num_bytes / 1e9:.2f} GB"
        here = "yes" if installed_path(entry) else ""
        lines.append(widths.format(entry.name, entry.role, about, entry.licence, here).rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
