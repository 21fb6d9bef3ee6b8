"""Processes that each time one implementation of the same work, in turns."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile

ROOT = Path(__file__).parents[2]
FIGURES = ("wall", "cpu", "peak", "rss")


class WorkerError(Exception):
    """A worker ended before it was ready; the message is the last line of what it printed."""


def started(module: str, work: Mapping[str, object], folders: str) -> subprocess.Popen:
    """A process after its first call.

    Args:
        module: The implementation's module in this folder.
        work: Fields of ``peer_work.Work``.
        folders: Entries of its PYTHONPATH.

    Raises:
        WorkerError: If it cannot run the work.
    """
    errors = TemporaryFile("w+")  # noqa: SIM115 - the process outlives this function
    worker = subprocess.Popen(
        [sys.executable, "-m", "comparison.peer_worker", module, json.dumps(work)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        env=os.environ | {"PYTHONPATH": folders}, cwd=ROOT / "scripts",
    )  # fmt: skip
    if any(line.strip() == "ready" for line in worker.stdout):
        return worker
    errors.seek(0)
    raise WorkerError((errors.read().strip().splitlines() or ["it ended"])[-1])


def measured(workers: Mapping[str, subprocess.Popen], turns: int) -> dict[str, dict[str, float]]:
    """Medians of each worker's turns; the order is turned round every time, and the workers end."""
    rows: dict[str, list[dict[str, float]]] = {each: [] for each in workers}
    for turn in range(turns):
        for each in list(workers)[:: -1 if turn % 2 else 1]:
            worker = workers[each]
            worker.stdin.write("go\n")
            worker.stdin.flush()
            rows[each].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.communicate()
    return {
        each: {figure: statistics.median(row[figure] for row in taken) for figure in FIGURES}
        for each, taken in rows.items()
    }


def commit(folder: str) -> str:
    """The commit that a folder is at; empty outside a repository."""
    asked = subprocess.run(
        ["git", "-C", folder, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip()
