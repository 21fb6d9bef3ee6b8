"""Steps of the check of an NVIDIA machine: commands of a clone, each in a process of its own with a limit of time."""

import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Of all steps together, and of the lines of a step that are kept.
LIMIT_SECONDS = 480
KEPT_LINES = 60
SIZE = ("--full-width", "--text-tokens", "1024", "--repeats", "3", "--json")
SMALL = ("--height", "480", "--width", "704", "--frames", "97")
LARGE = ("--height", "960", "--width", "1408", "--frames", "97")
CARD = ("--device", "cuda", "--repeats", "3")
FULL_HD = ("--height", "1088", "--width", "1920")
FEW = ("--frames", "33")


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: For the table.
        script: Under ``scripts/``.
        arguments: Of the script.
        needs_torch: Left out where torch is not installed.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    needs_torch: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a step: ``passed``, ``failed``, ``out of time`` or ``left out``; its last lines of output."""

    name: str
    command: str
    result: str
    seconds: float = 0.0
    output: tuple[str, ...] = ()


def steps(folder: Path) -> list[Step]:
    """All steps, the most important first; a step that finds no time left is said to be out of time."""
    video = str(folder / "first.mp4")
    return [
        Step("golden cases, float32", "verify.py", ("--device", "gpu", "--json")),
        Step("golden cases, bfloat16", "verify.py", ("--device", "gpu", "--dtype", "bf16", "--json")),
        Step("first video", "generate.py", ("A blue ball bouncing on green grass", "-o", video, "--no-download")),
        Step("block, 4,290 tokens", "bench.py", ("networks", "transformer", *SMALL, *SIZE)),
        Step("block, 17,160 tokens", "bench.py", ("networks", "transformer", *LARGE, *SIZE)),
        Step("all networks", "bench.py", ("networks", *SMALL, *SIZE)),
        Step("decoder's ways", "bench.py", ("decoding", "--full-width", *SMALL, "--repeats", "1", "--json")),
        Step("torch: block, 4,290 tokens", "bench_torch.py", ("block", "--heads", "32", *SMALL, *CARD), True),
        Step("torch: block, 17,160 tokens", "bench_torch.py", ("block", "--heads", "32", *LARGE, *CARD), True),
        Step("torch: RIFE and SRVGG", "bench_postprocess.py", ("speed", *FULL_HD, *CARD), True),
        Step("torch: decoder", "bench_torch.py", ("decoder", "--channels", "128", *SMALL[:4], *FEW, *CARD), True),
    ]


def planned(step: Step) -> Outcome:
    """What a dry run says of a step."""
    return Outcome(step.name, command_of(step), "left out" if lacks_torch(step) else "planned")


def run(step: Step, seconds: float) -> Outcome:
    """Run a step in a process of its own, for so many seconds at most."""
    command = command_of(step)
    if lacks_torch(step):
        return Outcome(step.name, command, "left out")
    if seconds <= 0:
        return Outcome(step.name, command, "out of time")
    start = time.monotonic()
    arguments = [sys.executable, str(ROOT / "scripts" / step.script), *step.arguments]
    try:
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(step.name, command, "out of time", time.monotonic() - start)
    lines = (done.stdout + done.stderr).splitlines()
    result = "passed" if done.returncode == 0 else "failed"
    kept = tuple(lines if step.arguments[-1] == "--json" else lines[-KEPT_LINES:])
    return Outcome(step.name, command, result, time.monotonic() - start, kept)


def command_of(step: Step) -> str:
    """The command as a user would type it, without this machine's folders."""
    arguments = [Path(word).name if word.startswith("/") else word for word in step.arguments]
    return f"python scripts/{step.script} {' '.join(arguments)}"


def lacks_torch(step: Step) -> bool:
    """Whether a step cannot run for want of torch."""
    return step.needs_torch and find_spec("torch") is None


def machine() -> str:
    """The card's name, as MLX knows it."""
    code = "from LTX_2_MLX.ops.device import device_name; print(device_name())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
