"""Show what a checkpoint holds: networks, variant, precision, bytes, config."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from LTX_2_MLX import cli
from LTX_2_MLX.checkpoints.contents import Contents, Part, inspect
from LTX_2_MLX.checkpoints.resolve import resolve


def main(
    file: Annotated[str, typer.Argument(help="File or folder: path, catalogue name or repository:file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Print what FILE holds, from its header alone; exit code 2 if a network in it cannot be loaded."""
    contents = inspect(resolve(file, "model").path)
    if as_json:
        typer.echo(json.dumps(asdict(contents), indent=2, default=str))
    else:
        show(contents)
    if any(part.problem for part in contents.parts):
        raise typer.Exit(cli.REFUSED)


def show(contents: Contents) -> None:
    """Print the contents as a table, what is wrong, and the config."""
    console = Console(highlight=False, soft_wrap=True)
    files = f"{contents.num_files} files" if contents.num_files > 1 else "one file"
    console.print(f"{contents.path}: {size(contents.num_bytes)} of tensors in {files}", markup=False)
    if contents.entry is not None:
        variant = f", {contents.entry.variant}" if contents.entry.variant else ""
        console.print(f"Published as {contents.entry.name}{variant}: {contents.entry.page}", markup=False)
    table = Table("network", "tensors", "bytes", "precision", box=None, pad_edge=False)
    for part in contents.parts:
        table.add_row(part.name, *figures(part))
    for part in contents.others:
        table.add_row(f"({part.name})", *figures(part))
    console.print(table)
    for part in contents.parts:
        if part.problem:
            console.print(f"{part.name} cannot be loaded: {part.problem}", markup=False)
    for name, value in {**contents.metadata, "config": json.dumps(contents.config, indent=1)}.items():
        console.print(f"{name}: {value}", markup=False)


def figures(part: Part) -> tuple[str, str, str]:
    """Count, size and precision of a part."""
    names = [f"{dtype} {size(num_bytes)}" for dtype, num_bytes in part.precision.items()]
    return str(part.num_tensors), size(part.num_bytes), ", ".join(names) if len(names) > 1 else "".join(part.precision)


def size(num_bytes: int) -> str:
    """Bytes in decimal units, as file managers and the hub show them."""
    for unit, divisor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= divisor:
            return f"{num_bytes / divisor:.1f} {unit}"
    return f"{num_bytes} bytes"


if __name__ == "__main__":
    cli.run(main)
