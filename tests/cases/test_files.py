"""What users had trouble with: weights as browsers, other tools and macOS leave them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
from typer.testing import CliRunner

from LTX_2_MLX import cli, read_video
from LTX_2_MLX.cli.generate import main

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "weights" / "demo"
PROMPT = "A blue ball bouncing on green grass"


def run(*words):
    return CliRunner().invoke(cli.as_program(main), [str(word) for word in words])


def frames(output: Path, *words) -> np.ndarray:
    """Frames of a run that succeeds."""
    result = run(*words, "-o", output)
    assert result.exit_code == 0, result.stderr
    return read_video(output).array()


@pytest.mark.parametrize(
    ("name", "line", "steps"),
    [
        ("ltx-2-demo-distilled (1).safetensors", "counts as distilled, by its name", "8 steps"),
        ("LTX-2-19B-Distilled-fp8_mymerge.safetensors", "counts as distilled, by its name", "8 steps"),
        (
            "mymerge.safetensors",
            "counts as a dev checkpoint. If it is distilled: --model-variant distilled",
            "20 steps",
        ),
    ],
)
def test_name_of_a_file_decides_dev_or_distilled_and_it_is_said(tmp_path, name, line, steps):
    shutil.copy(DEMO / "ltx-2-demo-distilled.safetensors", tmp_path / name)
    result = run(
        PROMPT, "--pipeline", "one-stage", "--weights", tmp_path / name, "--gemma", DEMO / "gemma", "--dry-run"
    )
    assert result.exit_code == 0 and line in " ".join(result.stderr.split()), result.stderr
    assert steps in result.stdout + result.stderr


def test_files_of_macos_beside_others_are_no_weights(tmp_path):
    weights = tiny_checkpoints.write_weights(tmp_path / "dev20.safetensors")
    gemma = tiny_checkpoints.write_gemma(tmp_path / "gemma")
    size = ("--height", 64, "--width", 64, "--frames", 9, "--pipeline", "one-stage", "--steps", 1)
    given = ("a ball", "--weights", weights, "--gemma", gemma, *size)
    right = frames(tmp_path / "right.webm", *given)
    beside = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(4072)
    for file in list(gemma.iterdir()):
        (gemma / f"._{file.name}").write_bytes(beside)
    assert np.array_equal(frames(tmp_path / "got.webm", *given), right)


@pytest.mark.parametrize(
    ("adapter", "plain"),
    [
        ("diffusers_alpha16_r4", "plain.safetensors:4"),
        ("simpletuner_alpha2_r4", "plain.safetensors:0.5"),
        ("onetrainer_alpha4", "plain.safetensors"),
        ("old_diffusers", "plain.safetensors"),
    ],
)
def test_video_of_an_adapter_is_that_of_its_trained_strength(tmp_path, adapter, plain):
    given = (PROMPT, "--pipeline", "one-stage", "--steps", 1, "--frames", 9)
    folder = HERE / "adapters"
    got = frames(tmp_path / "a.webm", *given, "--lora", folder / f"{adapter}.safetensors")
    assert np.array_equal(got, frames(tmp_path / "b.webm", *given, "--lora", folder / plain))
