"""The check of an NVIDIA machine: its dry run, its limit of time, and what it says of a step that fails."""

import json
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from LTX_2_MLX.development.gpu_check import Step, steps
from LTX_2_MLX.development.gpu_check import run as run_step

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def check():
    return runpy.run_path(str(SCRIPTS / "gpu_check.py"), run_name="gpu_check")


def run(check, *arguments):
    import typer

    app = typer.Typer()
    app.command()(check["main"])
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_dry_run_lists_every_command_and_no_folder_of_this_machine(check, tmp_path):
    result = run(check, "--dry-run", "-o", tmp_path / "check.json")
    assert result.exit_code == 0, result.output
    listed = json.loads((tmp_path / "check.json").read_text())["steps"]
    assert len(listed) == len(steps(tmp_path)) and result.output.count("| planned |") > 5
    for step in listed:
        script = step["command"].split()[1]
        assert (SCRIPTS.parent / script).is_file() and str(tmp_path) not in step["command"]


def test_block_decoder_interpolation_and_upscaling_run_beside_torch_on_the_card(check, tmp_path):
    beside = [step for step in steps(tmp_path) if step.needs_torch]
    assert {step.name.removeprefix("torch: ") for step in beside} == {
        "block, 4,290 tokens",
        "block, 17,160 tokens",
        "RIFE and SRVGG",
        "decoder",
    }
    for step in beside:
        source = (SCRIPTS / step.script).read_text()
        options = [word.removeprefix("--") for word in step.arguments if word.startswith("--")]
        assert step.arguments[0] in source and "device" in options
        assert all(f"{option}: Annotated" in source for option in options), step


def test_steps_that_find_no_time_are_out_of_time(check, tmp_path):
    result = run(check, "--limit", 0, "-o", tmp_path / "check.json")
    assert result.exit_code == 0, result.output
    results = {step["result"] for step in json.loads((tmp_path / "check.json").read_text())["steps"]}
    assert results <= {"out of time", "left out"}


def test_a_step_that_fails_says_so_with_its_last_lines(check):
    step = Step("broken", "bench.py", ("networks", "no_such_network"))
    outcome = run_step(step, 120)
    assert outcome.result == "failed" and any("no_such_network" in line for line in outcome.output)
    passed = run_step(Step("table", "bench.py", ("precisions",)), 120)
    assert passed.result == "passed" and any("transformer" in line for line in passed.output)
