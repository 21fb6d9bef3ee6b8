"""The harness that times other implementations beside ours."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_peers.py"
SMALL = ("--shape", "1x2x3", "--heads", "1", "--audio", "2", "--text", "4", "--turns", "2")


def bench(*arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BENCH_")}
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_ours_is_timed_and_a_peer_without_a_folder_is_named():
    done = bench("block23", "--with", "ours,dmlsrc", *SMALL)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "dmlsrc: left out, BENCH_DMLSRC does not name its folder" in lines
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells[0] == "ours" and all(float(cell) > 0 for cell in cells[2:6]) and cells[6:] == ["1.00"] * 3


def test_unknown_work_is_refused():
    done = bench("block99")
    assert done.returncode == 2 and "block23" in done.stderr
