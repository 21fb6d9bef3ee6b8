"""Fuzzing in a process of its own, with limits of memory and time, which one file after another is sent to.

A file that ends the process by a signal, or does not come back in time, is a fault like a traceback; the process is
started anew after it.
"""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Bytes that reading a file may take beyond the file's own.
MEMORY = 300_000_000
# Seconds of computing, after which the system ends the process; and of waiting, on a busy machine.
SECONDS, PATIENCE = 20, 300
# Address space beyond what the process has at its start: an allocation of more fails.
_ADDRESSES = 8 * 2**30
FAULT = "fault"


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        result: ``refused``, ``accepted`` or ``fault``.
        text: What the fault is.
        memory: Largest memory beyond that before it, in bytes.
    """

    result: str
    text: str = ""
    memory: int = 0


class FuzzProcess:
    """The process that reads, as seen by the one that asks."""

    def __init__(self, goldens: Path, video: Path, gemma: Path):
        """Take the paths of ``Good.make``; the process is started with the first file."""
        self._paths = [str(path) for path in (goldens, video, gemma)]
        self._child: subprocess.Popen[str] | None = None
        # Standard error of the process.
        self._errors: Any = tempfile.TemporaryFile("w+")  # noqa: SIM115

    def read(self, kind: str, seed: int) -> Outcome:
        """Let the process make and read a file."""
        child = self._child or self._start()
        assert child.stdin is not None and child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(f"{json.dumps([kind, seed])}\n")
            child.stdin.flush()
        if not select.select([child.stdout], [], [], PATIENCE)[0]:
            return self._ended(f"no end in {PATIENCE} s")
        line = child.stdout.readline()
        if not line:
            return self._ended("")
        outcome = Outcome(**json.loads(line))
        printed = self._printed()
        if printed and outcome.result != FAULT:
            return Outcome(FAULT, f"printed: {printed}", outcome.memory)
        return outcome

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _start(self) -> "subprocess.Popen[str]":
        words = [sys.executable, "-m", __name__, *self._paths]
        self._child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        return self._child

    def _printed(self) -> str:
        """What the process has printed on its standard error since this was last asked."""
        self._errors.seek(0)
        text = self._errors.read()
        self._errors.seek(0)
        self._errors.truncate()
        return str(text).strip()

    def _ended(self, why: str) -> Outcome:
        assert self._child is not None
        if why:
            self._child.kill()
        code = self._child.wait()
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        printed = self._printed()[-2000:]
        self._child = None
        return Outcome(FAULT, " ".join(filter(None, (why, f"the process ended by {name}.", printed))))


def _peak() -> int:
    """Largest memory of this process, since ``_forget_peak`` where the system can forget it."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _forget_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _limit_addresses() -> None:
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        limit = pages * resource.getpagesize() + _ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _read(run: Any, kind: str, seed: int, good: Any, folder: Path) -> Outcome:
    """One file, within the limits."""
    _forget_peak()
    before = _peak()
    # What catches no signal is ended by it, wherever it computes.
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        result, text = run(kind, seed, good, folder), ""
    except BaseException:
        result, text = FAULT, traceback.format_exc(limit=-6)
    signal.setitimer(signal.ITIMER_PROF, 0)
    taken = _peak() - before
    size = sum(path.lstat().st_size for path in (folder / "case").rglob("*"))
    if result != FAULT and taken > MEMORY + size:
        result, text = FAULT, f"{taken / 1e6:.0f} MB for a file of {size} bytes"
    return Outcome(result, text, taken)


def main(*paths: str) -> None:
    """Read the files that are asked for on standard input, and answer on standard output."""
    from LTX_2_MLX.development.fuzz import Good, run_fuzz

    answers = os.fdopen(os.dup(1), "w")
    # Whatever else prints is no answer.
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        goldens, video, gemma = map(Path, paths)
        good = Good.make(goldens, video, gemma, Path(folder))
        _limit_addresses()
        for line in sys.stdin:
            kind, seed = json.loads(line)
            outcome = _read(run_fuzz, kind, seed, good, Path(folder))
            answers.write(f"{json.dumps(vars(outcome))}\n")
            answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
