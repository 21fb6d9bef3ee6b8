"""Write the tables of every command's options into docs/OPTIONS.md, from the declared fields."""

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from LTX_2_MLX.cli.app import COMMANDS  # noqa: E402

PAGE = ROOT / "docs" / "OPTIONS.md"
OPENING = """# Options of all commands

Every command is a subcommand of `ltx-2-mlx` and a script of the same name: `ltx-2-mlx upscale` is
`python scripts/upscale.py`. The tables are printed by `python scripts/write_options.py` from the fields that declare
the options; a test compares. An option without a default has no effect unless it is given.
"""
HEADER = "| option | value | range and default | effect |\n|---|---|---|---|"


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if the page is out of date.")
    ] = False,
) -> None:
    """Bring docs/OPTIONS.md up to date."""
    current = page()
    if not check:
        PAGE.write_text(current, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != current:
        typer.echo("docs/OPTIONS.md is out of date. Run python scripts/write_options.py.", err=True)
        raise typer.Exit(1)


def page() -> str:
    """The page: a section for each command, a table for each group of options."""
    sections = [OPENING]
    for name in COMMANDS:
        command = import_module(f"LTX_2_MLX.cli.{name}").main
        title = name.replace("_", "-")
        summary = (command.__doc__ or "").strip().partition("\n")[0]
        sections.append(f"## {title}\n\n{summary}\n")
        for group, rows in tables(command).items():
            sections.append("\n".join([f"### {title}: {group.lower()}", "", HEADER, *rows, ""]))
    return "\n".join(sections)


def tables(command: Callable[..., None]) -> dict[str, list[str]]:
    """Rows by the heading under which the command's help lists an option; arguments come first."""
    groups: dict[str, list[str]] = {"Arguments": []}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if parameter.annotation is typer.Context:
            continue
        kind, note = get_args(parameter.annotation)
        if isinstance(note, ArgumentInfo):
            groups["Arguments"].append(row(f"`{note.metavar or name.upper()}`", "", note.help or ""))
            continue
        # In an annotation, Typer keeps the first name of an option where a default would stand.
        names = "/".join([note.default, *(note.param_decls or ())]).split("/")
        group = groups.setdefault(note.rich_help_panel or "Options", [])
        group.append(row(", ".join(f"`{flag}`" for flag in names), value(kind, note.metavar), note.help))
    return {group: rows for group, rows in groups.items() if rows}


def row(names: str, taken: str, text: str) -> str:
    """One line of a table; the range and the default stand in brackets at the end of an option's help."""
    effect, _, note = text.partition(" [")
    cells = [names, taken, note.removesuffix("]"), effect]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def value(kind: Any, metavar: str | None) -> str:
    """What an option takes: one of its choices, or a value by its name in the help. Empty for a switch."""
    if kind is bool:
        return ""
    if get_origin(kind) is UnionType or get_origin(kind) is Union:
        kind = next(each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    return f"`{metavar or 'TEXT'}`"


if __name__ == "__main__":
    typer.run(main)
