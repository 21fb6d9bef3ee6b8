"""The cache of prompts: a second run opens no text encoder, and nothing stale is ever taken."""

import os
import shutil

import numpy as np
import pytest

from LTX_2_MLX.pipelines.generate import Options, generate_video, prepare
from LTX_2_MLX.pipelines.generation import prompt as prompt_module
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.runtime.runner import StageRunner

ENCODING = ["text_encoder", "text_features"]


class Noted(SilentProgress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LTX_2_MLX_CACHE", str(tmp_path / "cache"))
    prompt_module._read.clear()
    return tmp_path / "cache" / "prompts"


@pytest.fixture
def run(files, folder, tmp_path):
    """``run(**options)``: frames of a short run, its stages and its notes."""
    gemma = shutil.copytree(files.gemma, tmp_path / "gemma")
    fixed = {
        "weights": str(files.weights), "gemma": str(gemma), "pipeline": "one-stage", "steps": 1, "height": 64,
        "width": 64, "frames": 9, "audio": False, "precision": "fp32",
    }  # fmt: skip

    def call(prompt="A blue ball", **options):
        runner = StageRunner(Noted())
        prepared = prepare(Options(prompt, **fixed | options), runner.progress.note)
        video = generate_video(prepared.request, runner, prepared.options).array()
        planned = [stage.name for stage in prepared.plan.stages]
        ran = [report.name for report in runner.reports]
        assert sorted(planned) == sorted(ran)
        return video, ran, runner.progress.notes

    call.gemma = gemma
    return call


def test_a_second_run_opens_no_text_encoder_and_gives_the_same_video(run, folder, tmp_path):
    first, stages, _ = run()
    assert stages[:2] == ENCODING
    again, stages, notes = run(save_embeddings=tmp_path / "saved.safetensors")
    assert not set(ENCODING) & set(stages) and any("earlier run" in note for note in notes)
    np.testing.assert_array_equal(first, again)
    embedded, _, _ = run(embeddings=tmp_path / "saved.safetensors", gemma="auto")
    np.testing.assert_array_equal(first, embedded)
    assert len(list(folder.iterdir())) == 1


def test_nothing_is_taken_for_another_prompt_encoder_or_precision_or_when_it_is_off(run):
    run()
    for options in ({"prompt": "A red box"}, {"negative_prompt": "grain"}, {"precision": "bf16"}, {"cache": False}):
        assert run(**options)[1][:2] == ENCODING, options
    # The same bytes with another time count as another file, since large files are not read whole.
    weights = next(run.gemma.glob("*.safetensors"))
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    assert run()[1][:2] == ENCODING


def test_a_damaged_entry_is_computed_again(run, folder):
    first, _, _ = run()
    (entry,) = folder.iterdir()
    data = bytearray(entry.read_bytes())
    data[-3] ^= 1
    entry.write_bytes(data)
    again, stages, _ = run()
    assert stages[:2] == ENCODING
    np.testing.assert_array_equal(first, again)
    assert run()[1][:2] != ENCODING


def test_the_entries_longest_unused_go_first(run, folder, monkeypatch):
    run()
    (first,) = folder.iterdir()
    monkeypatch.setattr(prompt_module, "_MOST_BYTES", 2 * first.stat().st_size)
    os.utime(first, (1, 1))
    run("A red box")
    (second,) = set(folder.iterdir()) - {first}
    os.utime(second, (2, 2))
    run()
    run("A star")
    assert first in folder.iterdir() and second not in folder.iterdir() and len(list(folder.iterdir())) == 2


def test_a_folder_that_cannot_be_written_costs_no_video(run, folder):
    folder.parent.write_text("a file")
    _, _, notes = run()
    assert any("not kept for later runs" in note for note in notes)
