"""Processes that ``mlx.launch`` ends while they start: each leaves a line and its exit code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ENVIRONMENT, ROOT, launched

PROGRAM = Path(__file__).parent / "early_end.py"
GENERATE = ROOT / "scripts" / "generate.py"
# In the order in which a command imports them; the first one comes before BLAS is loaded.
MODULES = ("LTX_2_MLX.runtime.this_machine", "typer", "numpy", "mlx.core", "LTX_2_MLX.runtime.meeting")


@pytest.mark.parametrize("module", MODULES)
def test_a_process_that_is_ended_while_it_imports_leaves_a_line(tmp_path, module):
    ring = tmp_path / "ring.json"
    ring.write_text(json.dumps([["127.0.0.1:1"], ["127.0.0.1:2"]]))
    environment = ENVIRONMENT | {"MLX_HOSTFILE": str(ring), "MLX_RANK": "1"}
    command = [sys.executable, PROGRAM, module, "signal", tmp_path, GENERATE, "A blue ball"]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 143 and re.fullmatch(r"Machine 2 \(.*\): Terminated\.\n", done.stderr), done.stderr


@pytest.mark.parametrize("module", [MODULES[0], "mlx.core"])
def test_a_process_whose_other_one_is_killed_at_the_start_leaves_a_line(tmp_path, module):
    _, err = launched(2, PROGRAM, module, "kill", tmp_path, GENERATE, "A blue ball")
    assert "rank 1 exited with code -9" in err and "rank 0 exited with code 143" in err, err
    assert re.search(r"Machine 1 \(.*\): Terminated\.", err), err


def test_a_process_alone_keeps_its_answer_to_signals():
    code = "import signal, LTX_2_MLX; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("MLX_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True)
    assert done.stdout == "True\n"
