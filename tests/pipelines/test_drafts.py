"""Drafts: stage 1 of prompts and seeds with each network loaded once, and a run that finishes one of them."""

from collections import Counter

import numpy as np
import pytest
import tiny_checkpoints
from PIL import Image
from typer.testing import CliRunner

from LTX_2_MLX import cli, read_video
from LTX_2_MLX.cli.generate import main as generate
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.drafts import drafts, finishing
from LTX_2_MLX.pipelines.generate import Options, generate_video, prepare
from LTX_2_MLX.pipelines.generation import decode, denoise, image, prompt, sound
from LTX_2_MLX.pipelines.generation.record import options_from, saved_record
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.runtime.runner import StageRunner

PROMPTS = ["A blue ball", "A red box that turns"]


class Begun(SilentProgress):
    """Counts the stages that begin."""

    def __init__(self):
        self.stages: Counter = Counter()

    def begin(self, stage):
        self.stages[stage] += 1


@pytest.fixture
def named(files) -> dict:
    return {
        "weights": str(files.weights), "gemma": str(files.gemma), "spatial_upscaler_weights": str(files.spatial),
        "distilled_lora": str(files.lora), "model_variant": "dev", "steps_stage1": 2, "steps_stage2": 1,
        "height": 64, "width": 64, "frames": 9, "image": str(files.picture),
    }  # fmt: skip


@pytest.fixture
def loads(monkeypatch) -> Counter:
    """How often each network was loaded."""
    counted: Counter = Counter()
    for module in (prompt, image, denoise, sound, decode):
        if hasattr(module, "load"):

            def load(network, *args, real=module.load, **options):
                counted[network.__name__ if isinstance(network, type) else str(network)] += 1
                return real(network, *args, **options)

            monkeypatch.setattr(module, "load", load)
    return counted


def frames_of(options: Options, progress=None) -> np.ndarray:
    ready = prepare(options)
    return generate_video(ready.request, StageRunner(progress), ready.options).array()


def test_all_drafts_and_one_finish_are_as_much_work_as_a_direct_run_and_the_other_first_stages(named, loads, tmp_path):
    begun = Begun()
    page = drafts(PROMPTS, tmp_path / "drafts", seeds=(3, 5), progress=begun, **named)
    names = ["001-seed-3", "001-seed-5", "002-seed-3", "002-seed-5"]
    assert sorted(path.name for path in page.parent.iterdir()) == [*names, "drafts.html", "drafts.png"]
    # Of four drafts: two prompts, one image, four first stages, and what shows them.
    assert begun.stages == {
        "text_encoder": 2, "text_features": 2, "image_encoder": 1, "stage_1": 4, "decode": 4, "write": 4
    }  # fmt: skip
    assert set(loads.values()) == {1} and loads["Transformer"] == 1
    folder = page.parent / "002-seed-5"
    shown = read_video(folder / "draft.mp4")
    assert (shown.height, shown.width, shown.num_frames) == (64, 64, 9)
    assert np.asarray(Image.open(page.parent / "drafts.png")).shape[0] > 4 * 200

    begun = Begun()
    finished = frames_of(options_from(saved_record(folder), {"resume": folder}, begun.note), begun)
    assert begun.stages == {"latent_upscaler": 1, "stage_2": 1, "decode": 1}
    np.testing.assert_array_equal(finished, frames_of(Options(PROMPTS[1], seed=5, **named)))

    begun = Begun()
    drafts(PROMPTS, page.parent, seeds=(3, 5), progress=begun, **named)
    assert "stage_1" not in begun.stages and begun.stages["decode"] == 4


def test_drafts_have_the_sound_of_their_first_stage(named, tmp_path):
    weights = tiny_checkpoints.write_weights(tmp_path / "ltx.safetensors", sound=True)
    page = drafts("A ball", tmp_path / "drafts", **named | {"weights": str(weights), "steps_stage1": 1})
    assert "with sound" in page.read_text()
    assert read_video(page.parent / "seed-0" / "draft.mp4").audio is not None


def test_command_makes_drafts_and_finishes_one(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in named.items()]

    def call(*more, code=0):
        done = CliRunner().invoke(cli.as_program(generate), [*more, *words, "--allow-blank"])
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    assert "stage_2" in call(PROMPTS[0], "--seed", "4", "--drafts", "choose", "--dry-run")
    assert not (tmp_path / "choose").exists()
    assert "Wrote choose/drafts.html" in call(PROMPTS[0], "--seed", "4", "--drafts", "choose")
    page = (tmp_path / "choose" / "drafts.html").read_text()
    command = finishing(tmp_path / "choose", "seed-4")
    assert command.endswith("--resume choose/seed-4 -o seed-4.mp4") and command in page
    assert str(tmp_path) not in page and "ltx.safetensors" in page
    assert "Wrote seed-4.mp4" in " ".join(
        CliRunner().invoke(cli.as_program(generate), [*command.split()[2:], "--allow-blank"]).output.split()
    )
    assert read_video(tmp_path / "seed-4.mp4").height == 128
    refused = (
        (("-o", "x.mp4"), "so --output has no effect"),
        (("--crf", "20"), "so --crf has no effect"),
        (("--save-latents", "x"), "so --save-latents has no effect"),
        (("--pipeline", "one-stage", "--steps-stage1", "2"), "belongs to"),
        (("--report", "x.html"), "--drafts writes a page of its own"),
    )
    for more, said in refused:
        assert said in call(PROMPTS[0], "--drafts", "other", *more, code=2)
    assert not (tmp_path / "other").exists()


def test_drafts_that_cannot_be_are_refused(named, tmp_path):
    one_stage = {name: value for name, value in named.items() if "stage" not in name}
    with pytest.raises(RequestError, match="--drafts ends after stage 1 of two, but --pipeline is one-stage"):
        drafts("A ball", tmp_path / "d", pipeline="one-stage", steps=1, **one_stage)
    with pytest.raises(RequestError, match="seeds that differ"):
        drafts("A ball", tmp_path / "d", seeds=(1, 1), **named)


def test_commands_hold_no_folder_above_the_drafts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert finishing(tmp_path / "a b" / "x").endswith("--resume 'a b/x'")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert finishing(tmp_path / "drafts", "seed-1").endswith("--resume drafts/seed-1 -o seed-1.mp4")
