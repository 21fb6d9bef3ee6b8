"""The notebooks run as they stand, and print what they show."""

import ast
import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def only_the_demo_is_here(tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "demo").symlink_to(ROOT / "weights" / "demo")
    monkeypatch.setattr("LTX_2_MLX.checkpoints.resolve.weights_folders", lambda: [weights])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(autouse=True)
def display_of_notebooks(monkeypatch):
    """A stand-in for IPython's display, where there is no IPython: Jupyter is not needed to run the notebooks."""
    if importlib.util.find_spec("IPython") is None:
        module = ModuleType("IPython.display")
        module.HTML = str
        module.display = lambda page, display_id: SimpleNamespace(update=lambda changed: None)
        monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
        monkeypatch.setitem(sys.modules, "IPython.display", module)


def run_cell(source: str, scope: dict) -> tuple[str, str | None]:
    """What a code cell prints, and the text of its last expression, which is also drawn as a notebook draws it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), scope)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), scope) if last else None
        draw = getattr(value, "_repr_html_", None)
        assert draw is None or draw().startswith(("<video", "<img", "<p>"))
    return printed.getvalue(), None if value is None else repr(value)


def shown(cell: dict, kind: str) -> str | None:
    """The text that the notebook holds as a cell's output of one kind."""
    for output in cell["outputs"]:
        if output["output_type"] == kind:
            text = output.get("text") or output.get("data", {}).get("text/plain")
            return "".join(text)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_prints_what_it_shows(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict = {"__name__": "__main__"}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        printed, result = run_cell("".join(cell["source"]), scope)
        assert printed == (shown(cell, "stream") or "")
        # Pictures are drawn by whoever opens the notebook.
        if (wanted := shown(cell, "execute_result")) is not None:
            assert result == wanted
