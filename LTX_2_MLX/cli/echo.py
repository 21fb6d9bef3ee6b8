"""Printing of commands: text and tables, with escapes for characters that control a terminal."""

from collections.abc import Iterable, Sequence

import typer

from LTX_2_MLX.files import printable
from LTX_2_MLX.runtime import launch


def echo(text: str, *, err: bool = False) -> None:
    """Print text whole, with its line breaks; the text may hold names and values from files."""
    if launch.FOLLOWS:
        return
    typer.echo(printable(text, len(text), newlines=True), err=err)


def echo_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; its cells may hold names and values from files."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(highlight=False, soft_wrap=True).print(table)
