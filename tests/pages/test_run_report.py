"""The page on a run: figures of the plan and of the run, and nothing of the user's folders."""

import subprocess
import sys
from pathlib import Path

import pytest
from browser import Browser

from LTX_2_MLX.cli.run_page import stage_figures, without_folders
from LTX_2_MLX.pages.document import shown
from LTX_2_MLX.pages.run_report import RunFacts, StageFigures, run_page
from LTX_2_MLX.planning.plan import Estimate, Plan
from LTX_2_MLX.runtime.runner import StageReport

ROOT = Path(__file__).parents[2]
PEBBLES = ROOT / "tests" / "media" / "pebbles_160x112.mp4"
RIFE = ROOT / "tests" / "goldens" / "rife" / "ifnet_4_22_lite"


def test_planned_and_measured_figures_stand_side_by_side():
    plan = Plan((), (Estimate("denoise", "", Path("a"), 100, 20, 3.0), Estimate("decode", "", Path("a"), 10)))
    reports = [StageReport("denoise", 4.0, 110, 0), StageReport("write", 1.0, 5, 0), StageReport("write", 0.5, 6, 0)]
    assert stage_figures(plan, reports) == [
        StageFigures("denoise", 120, 110, 3.0, 4.0),
        StageFigures("decode", 10, None, None, None),
        StageFigures("write", None, 6, None, 1.5),
    ]


def test_paths_lose_their_folders():
    assert shown(Path("/Volumes/ada/clips/a.mp4")) == "a.mp4"
    assert shown(("/Volumes/ada/x.safetensors", "auto")) == "x.safetensors, auto"
    assert without_folders("see /Volumes/ada/clips/a.mp4, 3 frames/s") == "see a.mp4, 3 frames/s"
    assert without_folders(f"{Path.home()}/My clips/a b.mp4 (half)") == "My clips/a b.mp4 (half)"


@pytest.mark.parametrize("width", [360, 1440])
def test_page_fits(browser: Browser, tmp_path, width):
    stages = [StageFigures("a_stage_with_a_long_name", 3 * 2**30, 2 * 2**30, 10.0, 12.5), StageFigures("decode", 2**20)]
    facts = RunFacts(
        "generate", "x" * 300, True, {"prompt": "<b>word</b> " * 60}, {"MLX": "1"}, stages, 1.0, ["n" * 400]
    )
    path = tmp_path / "run.html"
    path.write_text(run_page(facts), encoding="utf-8")
    browser.open(path, width)
    assert browser.overflow() <= 0
    assert browser.run("return document.querySelectorAll('b').length") == 0
    assert browser.run("return document.querySelectorAll('.bar').length") == 5
    assert browser.errors() == []


def run(tmp_path, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "LTX_2_MLX", *map(str, arguments), "--report", tmp_path / "run.html", "--quiet"]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)


def test_command_writes_its_report(tmp_path):
    done = run(tmp_path, "generate", "A blue ball", "--frames", "1", "-o", tmp_path / "ball.png", "--steps-stage1", "1",
               "--preview", tmp_path / "sheets", "--preview-every", "9")  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "run.html").read_text()
    previews = ("Last preview of stage_1", "Last preview of stage_2")
    for words in ("Run of generate", "Wrote ball.png.", "A blue ball", "data:image/jpeg;base64", *previews):
        assert words in page
    assert str(tmp_path) not in page and str(Path.home()) + "/" not in page


def test_several_videos_share_a_report_with_frames_of_each(tmp_path):
    (tmp_path / "prompts.txt").write_text("A blue ball\nA red box\n")
    done = run(tmp_path, "generate", "--prompt-file", "prompts.txt", "--seed", "1", "--seed", "2", "--frames", "1",
               "-o", "p.png", "--steps-stage1", "1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "run.html").read_text()
    for number, prompt in ((1, "A blue ball"), (2, "A red box")):
        for seed in (1, 2):
            assert f"p-{number:03d}-seed{seed}.png, seed {seed}: {prompt}" in page
    assert "Wrote 4 videos." in page and page.count("data:image/jpeg;base64") == 4
    assert str(tmp_path) not in page


def test_failed_run_is_reported(tmp_path):
    done = run(tmp_path, "interpolate", PEBBLES, "-o", tmp_path / "out.mp4", "--model-path", PEBBLES)
    assert done.returncode == 2
    page = (tmp_path / "run.html").read_text()
    assert "CheckpointError" in page
    assert str(PEBBLES.parent) not in page


def test_page_replaces_nothing_that_is_read_or_written(tmp_path):
    done = run(tmp_path, "interpolate", PEBBLES, "-o", tmp_path / "run.html", "--model-path", RIFE)
    assert done.returncode == 2
    assert "which the run uses" in done.stderr or "Unsupported video format" in done.stderr
    assert not (tmp_path / "run.html").exists()
