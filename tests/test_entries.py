"""How much of the package a command enters: what a reader has to know to follow it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "count_entries.py"
# Modules and functions, a little above those on a CPU, since a GPU enters other forms. Sound, split files, guidance by
# generation, ten bits and plans of the largest array have raised them; the goal is 45 and 420, 25 and 170.
# "sound" is "generate" with the demo model's sound, which a silent video does not enter.
LIMITS = {"generate": (43, 471), "sound": (52, 569), "interpolate": (24, 207)}


@pytest.mark.parametrize("command", LIMITS)
def test_a_command_enters_no_more_modules_and_functions_than_its_limit(command):
    run = subprocess.run([sys.executable, str(SCRIPT), command], capture_output=True, text=True, check=True)
    counts = re.fullmatch(rf"{command}: (\d+) modules, (\d+) functions", run.stdout.strip().splitlines()[-1])
    assert counts is not None, run.stdout
    modules, functions = map(int, counts.groups())
    most_modules, most_functions = LIMITS[command]
    assert modules <= most_modules and functions <= most_functions, run.stdout
