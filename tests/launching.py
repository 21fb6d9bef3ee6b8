"""Programs started by ``mlx.launch``, as several processes on this machine."""

import os
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(processes: int, *arguments: object) -> subprocess.Popen:
    """A program as ``mlx.launch`` starts it, on ports that no other test has."""
    port = random.randrange(20_000, 30_000)
    command = [sys.executable, "-c", "from mlx._distributed_utils.launch import main; main()"]
    command += ["-n", str(processes), "-p", str(port), "--", sys.executable, *map(str, arguments)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, **pipes)


def launched(processes: int, *arguments: object) -> tuple[str, str]:
    """Standard output and error of a program that has come to its end.

    The limit of time is for a program that waits for ever: a busy machine takes minutes for what takes seconds.
    """
    return start(processes, *arguments).communicate(timeout=1200)
