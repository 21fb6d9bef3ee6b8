"""Prompts that a chat model rewrites before the text encoder reads them."""

import re
from pathlib import Path

import numpy as np
import pytest
from launching import ROOT, launched

import LTX_2_MLX
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.media.writer import read_run_record
from LTX_2_MLX.pipelines.generate import generate_video, plan_for, prepare
from LTX_2_MLX.pipelines.generation import enhance
from LTX_2_MLX.pipelines.generation.enhance import IMAGE_INSTRUCTION, IMAGE_NOTE, TEXT_INSTRUCTION
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.record import options_from, saved_record
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.runtime.runner import StageRunner

REWRITTEN = Path(__file__).parents[2] / "parallel" / "rewritten_prompt.py"


class Notes(SilentProgress):
    """Keeps the notes of a run."""

    def __init__(self):
        self.lines: list[str] = []
        self.note = self.lines.append


@pytest.fixture
def asked(files):
    """``asked(...)``: options of a short run whose prompt is rewritten."""

    def make(**changes) -> Options:
        named = {"weights": str(files.weights), "gemma": str(files.gemma), "pipeline": "one-stage", "steps": 1}
        size = {"height": 64, "width": 96, "frames": 9, "cfg": 1.0}
        return Options("A blue ball", **(named | size | {"enhance_prompt": True} | changes))

    return make


def run(options: Options, notes: Notes | None = None):
    prepared, runner = prepare(options), StageRunner(notes)
    return generate_video(prepared.request, runner, prepared.options), runner


def test_rewritten_prompt_is_shown_recorded_and_replayed(asked, tmp_path):
    notes = Notes()
    video, runner = run(asked(), notes)
    assert [report.name for report in runner.reports][:2] == ["prompt_enhancer", "text_encoder"]
    (line,) = [line for line in notes.lines if line.startswith("Prompt: ")]
    path = video.save(tmp_path / "video.mp4")
    record = read_run_record(path, "generate")
    text = record.request["prompt"]
    assert text == line.removeprefix("Prompt: ") and text not in ("", "A blue ball")
    again = options_from(record, {})
    assert not again.enhance_prompt
    repeated, runner = run(again)
    assert "prompt_enhancer" not in [report.name for report in runner.reports]
    wanted, _ = run(asked())
    plain, _ = run(asked(enhance_prompt=False))
    frames = wanted.array()
    np.testing.assert_array_equal(repeated.array(), frames)
    assert not np.array_equal(plain.array(), frames)


def test_plan_counts_the_chat_model_and_the_longest_prompt(asked):
    options = asked()
    with_it, without = (
        {stage.name: stage for stage in plan_for(prepare(each).request, each).stages}
        for each in (options, asked(enhance_prompt=False))
    )
    assert with_it["prompt_enhancer"].weights_bytes == with_it["text_encoder"].weights_bytes > 0
    assert with_it["text_encoder"].activation_bytes > without["text_encoder"].activation_bytes
    assert "prompt_enhancer" not in without


def test_model_that_does_not_see_the_image_is_told_so(asked, files, monkeypatch):
    told = []
    question = enhance.question
    monkeypatch.setattr(
        enhance, "question", lambda form, tok, text, ask: told.append(text) or question(form, tok, text, ask)
    )
    notes = Notes()
    run(asked(image=str(files.picture)), notes)
    assert IMAGE_NOTE in notes.lines and set(told) == {IMAGE_INSTRUCTION}
    told.clear()
    run(asked())
    assert set(told) == {TEXT_INSTRUCTION}


def test_resumed_run_takes_the_prompt_that_was_rewritten(asked, tmp_path):
    first, _ = run(asked(save_latents=tmp_path / "run"))
    frames = first.array()
    again, runner = run(options_from(saved_record(tmp_path / "run"), {"resume": tmp_path / "run"}))
    np.testing.assert_array_equal(again.array(), frames)
    assert runner.reports == []


def test_what_cannot_be_rewritten_is_refused_in_one_line(asked, files, tmp_path, monkeypatch):
    with pytest.raises(RequestError, match=r"--enhance-prompt reads all layers.*--quantize 4"):
        asked(low_ram=True)
    with pytest.raises(RequestError, match="--enhance-prompt and --embeddings"):
        asked(embeddings="prompt.safetensors")
    monkeypatch.setattr(enhance, "installed_path", lambda entry: None)
    models = prepare(asked(enhance_prompt=False)).request.models
    single = type(models)(**vars_of(models) | {"text_encoder": files.weights})
    with pytest.raises(RequestError, match=r"LTX-2.5 does not chat.*download_weights.py gemma-4-E2B-it"):
        enhance.chat_model(single)
    monkeypatch.setattr(enhance, "installed_path", lambda entry: files.gemma)
    assert enhance.chat_model(single) == files.gemma


def vars_of(models) -> dict:
    return {name: getattr(models, name) for name in models.__dataclass_fields__}


def test_the_public_call_rewrites_too(asked, files):
    notes = Notes()
    LTX_2_MLX.generate(
        "A blue ball", enhance_prompt=True, progress=notes, weights=files.weights, gemma=files.gemma,
        pipeline="one-stage", steps=1, height=64, width=96, frames=9, cfg=1.0,
    )  # fmt: skip
    assert any(line.startswith("Prompt: ") for line in notes.lines)


def test_demo_model_has_no_chat_model():
    with pytest.raises(CheckpointError, match="no chat model"):
        prepare(Options("A blue ball", weights="demo-dev", enhance_prompt=True))


def test_the_first_of_two_processes_rewrites_the_prompt_for_both(files, tmp_path):
    files_given = ("--weights", files.weights, "--gemma", files.gemma, "--pipeline", "one-stage", "--steps", "1")
    size = ("--height", "64", "--width", "96", "--frames", "9", "--cfg", "5", "--allow-blank")
    words = ("A blue ball", *files_given, *size, "--enhance-prompt")
    out, err = launched(
        2, REWRITTEN, ROOT / "scripts" / "generate.py", *words, "--parallel", "guidance", "-o", tmp_path / "two.mp4"
    )
    prompts = dict(re.findall("LINE ([01]) (.*)", out))
    assert prompts["0"] == prompts["1"] not in ("", "A blue ball"), err
    record = read_run_record(tmp_path / "two.mp4", "generate")
    assert record.request["prompt"] == prompts["0"]
