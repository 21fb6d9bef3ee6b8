"""Habits of the command line: random seeds, prompts from standard input, names, the order of messages."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from LTX_2_MLX import cli
from LTX_2_MLX.cli.generate import default_output, main
from LTX_2_MLX.cli.options import with_random_seed
from LTX_2_MLX.media.writer import read_run_record

SHORT = ("--pipeline", "one-stage", "--steps", "1", "--frames", "9")


def run(*words, text=None):
    return CliRunner().invoke(cli.as_program(main), [str(word) for word in words], input=text)


def test_random_seed_is_a_number_in_the_record_and_in_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("A blue ball", *SHORT, "--seed", "random")
    assert result.exit_code == 0, result.stderr
    (output,) = (tmp_path / "gens").iterdir()
    seed = read_run_record(output, "generate").request["seed"]
    assert output.name == f"a-blue-ball-{seed}.mp4" and f"Seed: {seed}" in result.stderr


def test_each_random_seed_is_another_one():
    words = ["random", "--seed=random", "--seed", "random", "--", "--seed", "random"]
    first, second = with_random_seed(words), with_random_seed(words)
    assert first[0] == "random" and first[4:] == words[4:]
    assert first[1] != second[1] and first[3] != second[3] and 0 <= int(first[3]) < 2**32


def test_output_without_a_name_replaces_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_output("A ball!", 3) == Path("gens/a-ball-3.mp4")
    (tmp_path / "gens").mkdir()
    for number, name in enumerate(("a-ball-3.mp4", "a-ball-3-2.mp4", "a-ball-3-3.mp4")):
        assert str(default_output("A ball!", 3)) == f"gens/{name}", number
        (tmp_path / "gens" / name).write_text("mine")
    assert default_output("../..\n", 1) == Path("gens/video-1.mp4")
    assert len(default_output("é\U0001f600猫" * 200, 2**32 - 1).name.encode()) < 255


def test_no_folder_is_left_where_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("A blue ball", *SHORT, "--dry-run").exit_code == 0
    assert run("A blue ball", *SHORT, "--memory-limit-gb", "0.02").exit_code == cli.REFUSED
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "code"), [("A blue ball\n", 0), ("  \n", cli.REFUSED)])
def test_dash_reads_the_prompt_from_standard_input(tmp_path, text, code):
    result = run("-", *SHORT, "-o", tmp_path / "a.mp4", text=text)
    assert result.exit_code == code, result.stderr
    if code:
        assert "no prompt on standard input" in result.stderr
    else:
        assert read_run_record(tmp_path / "a.mp4", "generate").request["prompt"] == "A blue ball"


def test_notes_on_the_demo_model_come_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("LTX_2_MLX.checkpoints.resolve.installed_path", _only_demo)
    result = run("A blue ball", *SHORT, "--stg-scale", "1", "--stg-blocks", "99", "-o", tmp_path / "a.mp4")
    lines = result.stderr.splitlines()
    assert result.exit_code == cli.REFUSED
    assert lines[0].startswith("RequestError") and "demo model" in " ".join(lines[1:])


def _only_demo(entry):
    folder = Path(__file__).parents[2] / "weights" / "demo"
    return folder / entry.files[0].path if entry.family == "demo" else None
