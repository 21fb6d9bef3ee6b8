"""scripts/verify.py: exit codes, unknown components, forms of the other backend."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASE = ROOT / "tests" / "goldens" / "flashvsr" / "color_fix"


def verify(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "scripts" / "verify.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
    """One case that passes, and two of a component that does not exist."""
    shutil.copytree(CASE, tmp_path / "known")
    for name in ("first", "second"):
        shutil.copytree(CASE, tmp_path / name)
        file = tmp_path / name / "case.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"component": "ltx9/smell"}))
    return tmp_path


def test_unknown_component_is_an_error(folder):
    done = verify(folder)
    assert done.returncode == 1
    assert "unknown component 'ltx9/smell'" in done.stdout
    assert "1 of 3 cases pass" in done.stdout


def test_unknown_components_are_listed_and_left_out_where_asked_for(folder):
    done = verify("--skip-unknown", folder)
    assert done.returncode == 0
    assert "left out: ltx9/smell (2 cases)" in done.stderr
    assert "1 of 1 cases pass" in done.stdout


def test_case_that_cannot_be_read_fails_also_where_unknown_ones_are_left_out(folder):
    (folder / "first" / "case.json").write_text("{")
    done = verify("--skip-unknown", folder)
    assert done.returncode == 1
    assert "left out: ltx9/smell (1 case)" in done.stderr


def test_forms_of_the_other_backend_are_computed():
    done = verify("--backend-forms", "--json", CASE)
    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["ok"]


def test_metal_is_computed_on_the_cpu_and_a_table_tells_errors_and_limits():
    done = verify("--as-metal", "--device", "cpu", ROOT / "tests" / "goldens" / "esrgan" / "srvgg_x3")
    assert done.returncode == 0 and "as Metal would" in done.stdout
    done = verify("--table", "--dtype", "bf16", ROOT / "tests" / "goldens" / "esrgan" / "srvgg_x3", CASE)
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| esrgan/srvgg")]
    assert done.returncode == 0 and float(rows[0][2].split(", ")[0]) < float(rows[0][2].split(", ")[1])
    assert "| flashvsr/color_fix | 1 | " in done.stdout and "as in float32" in done.stdout
    done = verify("--as-metal", "--backend-forms", CASE)
    assert done.returncode == 2 and "Leave out --backend-forms" in done.stderr
