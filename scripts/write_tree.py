"""Write the tree of all modules into docs/DEVELOPMENT.md, from the first sentences of their docstrings."""

import ast
import re
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "DEVELOPMENT.md"
MARKED_BLOCK = re.compile(r"(<!-- tree -->\n```\n)(.*?)(```)", flags=re.DOTALL)
# Columns of an entry's indent and name, before its text.
NAME_WIDTH = 28
LINE_WIDTH = 118


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if the page is out of date.")
    ] = False,
) -> None:
    """Bring the tree in docs/DEVELOPMENT.md up to date."""
    page = PAGE.read_text(encoding="utf-8")
    current = with_tree(page)
    if check and page != current:
        typer.echo("docs/DEVELOPMENT.md is out of date. Run python scripts/write_tree.py.", err=True)
        raise typer.Exit(1)
    PAGE.write_text(current, encoding="utf-8")


def with_tree(page: str) -> str:
    """The page with the tree of this checkout between its marks."""
    tree = "\n".join(lines()) + "\n"
    return MARKED_BLOCK.sub(lambda block: block[1] + tree + block[3], page)


def lines() -> list[str]:
    """Lines of the tree: the package, then the scripts."""
    tree = []
    for name in ("LTX_2_MLX", "scripts"):
        tree += folder_lines(ROOT / name, depth=0)
    return tree


def folder_lines(folder: Path, depth: int) -> list[str]:
    """One folder with its modules, then its subfolders; a package is described by its ``__init__.py``."""
    init = folder / "__init__.py"
    text = first_sentence(init) if init.exists() else ""
    tree = [line(f"{folder.name}/", text, depth)]
    for module in sorted(folder.glob("*.py")):
        if not module.name.startswith("_"):
            tree.append(line(module.name, first_sentence(module), depth + 1))
    for subfolder in sorted(folder.iterdir()):
        if any(subfolder.glob("*.py")):
            tree += folder_lines(subfolder, depth + 1)
    return tree


def line(name: str, text: str, depth: int) -> str:
    """One entry, cut at a word where it would be too wide."""
    entry = f"{'  ' * depth + name:<{NAME_WIDTH}} {text}"
    if len(entry) <= LINE_WIDTH:
        return entry.rstrip()
    return entry[: LINE_WIDTH - 2].rpartition(" ")[0] + " …"


def first_sentence(module: Path) -> str:
    """First sentence of a module's docstring, up to its colon or full stop."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return re.split(r"[.:]\s", docstring + " ")[0].replace("\n", " ")


if __name__ == "__main__":
    typer.run(main)
