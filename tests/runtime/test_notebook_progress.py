"""Progress in a notebook: bars and a preview that replace themselves, and an interrupt that leaves nothing behind."""

import gc
import sys
import types
import weakref

import pytest
from PIL import Image

from LTX_2_MLX.runtime.notebook_progress import NotebookProgress
from LTX_2_MLX.runtime.runner import StageRunner


class Cell:
    """What is below a cell: one page for each display, as it is now."""

    def __init__(self):
        self.pages = []

    def show(self, page):
        place = len(self.pages)
        self.pages.append(page)
        return lambda changed: self.pages.__setitem__(place, changed)


def test_bars_notes_and_the_preview_replace_themselves(tmp_path):
    cell = Cell()
    progress = NotebookProgress(cell.show)
    progress.begin("stage_1")
    assert '<progress aria-label="stage_1"></progress>' in cell.pages[0]
    progress.advance("stage_1", 4, 4)
    assert 'value="4" max="4"' in cell.pages[0]
    for number in range(20):
        progress.note(f"<note {number}>")
    assert "&lt;note 19&gt;" in cell.pages[0] and "note 3&gt;" not in cell.pages[0]
    for name in ("stage_1-1.png", "stage_1-2.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        progress.preview("stage_1", tmp_path / name)
    progress.end("stage_1")
    assert len(cell.pages) == 2
    assert "stage_1-2" in cell.pages[1] and "stage_1-1" not in cell.pages[1]
    assert "<progress" not in cell.pages[0]


def test_ipython_draws_it(monkeypatch):
    drawn = []

    class Handle:
        def update(self, page):
            drawn.append(("update", page))

    def display(page, display_id):
        drawn.append(("display", page))
        return Handle()

    fake = types.ModuleType("IPython.display")
    fake.HTML, fake.display = str, display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    progress = NotebookProgress()
    progress.begin("decode")
    progress.end("decode")
    assert [kind for kind, _ in drawn] == ["display", "update"]


class Network:
    """Stands for a network that has to be freed."""


def test_an_interrupt_frees_the_network_and_the_next_cell_runs():
    cell = Cell()
    runner = StageRunner(NotebookProgress(cell.show))
    loaded = []

    def load():
        network = Network()
        loaded.append(weakref.ref(network))
        return network

    def interrupted(network):
        for done in range(10):
            runner.progress.advance("denoise", done, 10)
            if done == 3:
                raise KeyboardInterrupt
        return network

    with pytest.raises(KeyboardInterrupt):
        runner.run("denoise", load, interrupted)
    gc.collect()
    assert loaded[0]() is None
    assert "3 of 10" in cell.pages[0] and "<progress" not in cell.pages[0]
    assert runner.run("denoise", load, lambda network: 7) == 7
