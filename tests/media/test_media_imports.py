"""Modules of media import each other in one direction."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import LTX_2_MLX.media

ROOM = Path(LTX_2_MLX.media.__file__).parent
PREFIX = "LTX_2_MLX.media."


def imported(path: Path) -> set[str]:
    """Modules of media that a module imports, anywhere in its text."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PREFIX):
            names.add(node.module.removeprefix(PREFIX))
    return names


def test_modules_of_media_have_no_import_circle():
    graph = {path.stem: imported(path) for path in ROOM.glob("*.py")}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("source") < order.index("tracks") < order.index("writer") < order.index("video")
